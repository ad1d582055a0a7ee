"""Options of the json-file log: its size, and what each entry tells about its container. Pure.

Source  Docker's "JSON File logging driver": max-size, max-file, labels, labels-regex, env, env-regex, tag; "Customize
        log driver output" for the fields of a tag.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from swarmpy.engine.config import LogConfig
from swarmpy.engine.record import ContainerRecord
from swarmpy.errors import InvalidArgument, NotSupported

__all__ = ["check_log_options", "log_attributes", "log_limits", "parse_size"]

_SIZE = re.compile(r"(\d+)\s*([kmgt]?)b?", re.IGNORECASE)
_FIELD = re.compile(r"\{\{\s*\.(\w+)\s*\}\}")
_SHORT = 12
_OPTIONS = frozenset({"env", "env-regex", "labels", "labels-regex", "max-file", "max-size", "tag"})
_ABSENT = frozenset({"compress", "max-buffer-size", "mode"})
_DEFAULTS = frozenset({("compress", "false"), ("mode", "blocking")})

_TAG_FIELDS: Mapping[str, Callable[[ContainerRecord], str]] = {
    "ID": lambda record: record.id[:_SHORT],
    "FullID": lambda record: record.id,
    "Name": lambda record: record.name,
    "ImageID": lambda record: record.image_id.removeprefix("sha256:")[:_SHORT],
    "ImageFullID": lambda record: record.image_id,
    "ImageName": lambda record: record.image_name,
    "DaemonName": lambda record: "docker",
}


def check_log_options(log: LogConfig) -> None:
    """`NotSupported` for another driver or an option that is not there, `InvalidArgument` for a wrong value."""
    if log.type not in ("", "json-file", "none"):
        raise NotSupported(f"the log driver '{log.type}' is not supported; use json-file or none")
    for name, value in log.config.items():
        if name in _ABSENT and (name, value) not in _DEFAULTS:
            raise NotSupported(f"the log option '{name}={value}' is not supported; leave it out")
        if name not in _OPTIONS | _ABSENT:
            raise InvalidArgument(f"unknown log option '{name}'; there are {', '.join(sorted(_OPTIONS))}")
    log_limits(log)
    for name in ("labels-regex", "env-regex"):
        _pattern(name, log.config)
    unknown = _FIELD.sub(lambda found: "" if found[1] in _TAG_FIELDS else found[0], log.config.get("tag", ""))
    if "{{" in unknown:
        fields = ", ".join(f"{{{{.{name}}}}}" for name in _TAG_FIELDS)
        raise InvalidArgument(f"tag '{log.config['tag']}': the fields of a tag are {fields}")


def log_limits(log: LogConfig) -> tuple[int | None, int]:
    """`max-size` in bytes (None: unlimited) and `max-file`, which counts only with a size."""
    size, files = log.config.get("max-size", ""), log.config.get("max-file", "1")
    if not (files.isascii() and files.isdigit()) or int(files) < 1:
        raise InvalidArgument(f"max-file must be a number from 1, not '{files}'")
    return (None if size in ("", "-1") else parse_size(size, "max-size")), int(files)


def log_attributes(record: ContainerRecord) -> dict[str, str]:
    """What each entry tells: the labels and variables that are asked for by name or pattern, and the tag."""
    options, config = record.host.log_config.config, record.config
    environment = dict(_split(item) for item in config.env)
    out = _chosen("labels", options, config.labels) | _chosen("env", options, environment)
    if options.get("tag"):
        out["tag"] = _FIELD.sub(lambda found: _TAG_FIELDS[found[1]](record), options["tag"])
    return out


def _chosen(name: str, options: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    wanted, pattern = options.get(name, "").split(","), _pattern(f"{name}-regex", options)
    return {key: value for key, value in values.items() if key in wanted or (pattern and pattern.search(key))}


def _pattern(name: str, options: Mapping[str, str]) -> re.Pattern[str] | None:
    text = options.get(name, "")
    try:
        return re.compile(text) if text else None
    except re.error as error:
        raise InvalidArgument(f"{name} '{text}' is no pattern: {error}") from error


def _split(item: str) -> tuple[str, str]:
    name, _, value = item.partition("=")
    return name, value


def parse_size(text: str, what: str) -> int:
    """Bytes of "10m", "1g", "512"."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidArgument(f"{what}: '{text}' is not a size such as 10m")
    return int(found[1]) << (10 * " kmgt".index(found[2].lower() or " "))
