"""Placeholders in a service's hostname, environment and mounts: `{{.Task.Slot}}` and its kin.

Owns    which placeholders there are. There is no template language behind them: a known name between braces is
        replaced, everything else between double braces is refused, so that no service runs with half a sentence in
        its environment.
Source  Docker documentation, "docker service create", section "Create services using templates".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from swarmpy.errors import InvalidArgument
from swarmpy.rpc.types_pb2 import Task

__all__ = ["expand", "values_of"]

_PLACEHOLDER = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}|\{\{", re.DOTALL)
_LABEL = re.compile(r'(?:\.Service\.Labels\.|index\s+\.Service\.Labels\s+")([^"]*)"?')


def values_of(task: Task, name: str, *, hostname: str, architecture: str, os: str) -> dict[str, str]:
    """What each placeholder stands for in this task. `name` is the task's ("web.1.<id>").

    A label is asked for as `.Service.Labels.tier` or, whatever its name, as `index .Service.Labels "com.example/tier"`.
    """
    labels = {f".Service.Labels.{label}": value for label, value in task.service_labels.items()}
    return labels | {
        ".Service.ID": task.service_id,
        ".Service.Name": task.service_name,
        ".Node.ID": task.node_id,
        ".Node.Hostname": hostname,
        ".Node.Platform.Architecture": architecture,
        ".Node.Platform.OS": os,
        ".Task.ID": task.id,
        ".Task.Name": name,
        ".Task.Slot": str(task.slot),
    }


def expand(text: str, values: Mapping[str, str], field: str) -> str:
    """The text with every placeholder replaced. Raises InvalidArgument naming field and placeholder."""

    def value(match: re.Match[str]) -> str:
        key = match.group(1)
        if key is None:
            raise InvalidArgument(f"{field}: a '{{{{' is not closed by '}}}}'")
        label = _LABEL.fullmatch(key)
        found = values.get(f".Service.Labels.{label[1]}" if label else key)
        if found is None:
            raise InvalidArgument(f"{field}: {match.group(0)} {_what_is_wrong(label, values)}")
        return found

    return _PLACEHOLDER.sub(value, text) if "{{" in text else text


def _what_is_wrong(label: re.Match[str] | None, values: Mapping[str, str]) -> str:
    if label:
        return f"asks for a label that the service does not have; set it with --label {label[1]}=VALUE"
    known = [f"{{{{{name}}}}}" for name in values if not _LABEL.fullmatch(name)]
    return f"is not a placeholder; there are {', '.join([*known, '{{.Service.Labels.NAME}}'])}"
