"""What a container runs, once the image's configuration and the user's are merged.

Owns    the merge rules of `docker create`: who wins for each field. Pure.
Source  OCI image-spec, "config.md"; Docker Engine API, `POST /containers/create`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from swarmpy.engine.config import ContainerConfig, HealthConfig
from swarmpy.engine.schema import read
from swarmpy.errors import InvalidArgument

__all__ = ["arguments", "merge"]


def merge(config: ContainerConfig, image: Mapping[str, Any]) -> ContainerConfig:
    """`config` with what it leaves open taken from `image`, the `config` object of the image configuration.

    A command line that sets its own entrypoint does not inherit the image's command. `[""]` clears an entrypoint.
    """
    cmd, entrypoint = config.cmd, config.entrypoint
    if not entrypoint and entrypoint != ("",):
        if not cmd:
            cmd = _strings(image.get("Cmd")) or cmd
        entrypoint = _strings(image.get("Entrypoint")) or None
    if entrypoint == ("",):
        entrypoint = None
    labels = dict(image.get("Labels") or {}) | dict(config.labels)
    volumes = dict.fromkeys((*(config.volumes or ()), *(image.get("Volumes") or {})))
    return replace(
        config,
        user=config.user or str(image.get("User") or ""),
        exposed_ports=tuple(dict.fromkeys((*config.exposed_ports, *(image.get("ExposedPorts") or {})))),
        env=merge_env(config.env, _strings(image.get("Env"))),
        cmd=cmd,
        entrypoint=entrypoint,
        working_dir=config.working_dir or str(image.get("WorkingDir") or ""),
        labels=labels,
        volumes=tuple(volumes) or None,
        stop_signal=config.stop_signal or str(image.get("StopSignal") or ""),
        shell=config.shell or _strings(image.get("Shell")) or None,
        healthcheck=_merge_health(config.healthcheck, image.get("Healthcheck")),
    )


def arguments(config: ContainerConfig) -> tuple[str, ...]:
    """The command line of a merged configuration; `InvalidArgument` when there is none."""
    line = (*(config.entrypoint or ()), *(config.cmd or ()))
    if not line:
        raise InvalidArgument("no command specified: the image has no default, name one in Cmd or Entrypoint")
    return line


def merge_env(wanted: Sequence[str], inherited: Sequence[str]) -> tuple[str, ...]:
    """`wanted` wins by name; what only `inherited` has stays, and comes first."""
    names = {item.split("=", 1)[0] for item in wanted}
    return (*(item for item in inherited if item.split("=", 1)[0] not in names), *wanted)


def _merge_health(config: HealthConfig | None, image: Mapping[str, Any] | None) -> HealthConfig | None:
    if not image:
        return config
    inherited = read(HealthConfig, image, "the image's Healthcheck")
    if config is None:
        return inherited
    return HealthConfig(
        test=config.test or inherited.test,
        interval=config.interval or inherited.interval,
        timeout=config.timeout or inherited.timeout,
        start_period=config.start_period or inherited.start_period,
        start_interval=config.start_interval or inherited.start_interval,
        retries=config.retries or inherited.retries,
    )


def _strings(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()
