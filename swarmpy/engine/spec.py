"""The OCI bundle of a container: its `config.json`.

Owns    the translation of a `ContainerRecord` and the facts of this host into the OCI runtime specification. Pure: what
        must be looked up (the user's ids, devices, other containers' pids) is in `Facts`.
Source  OCI runtime-spec 1.2, "config.md" and "config-linux.md".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarmpy.engine.image_config import arguments, merge_env
from swarmpy.engine.mounts import INIT_TARGET, all_mounts
from swarmpy.engine.privileges import MASKED_PATHS, READONLY_PATHS, capability_set, confinement
from swarmpy.engine.record import ContainerRecord, VolumeMount
from swarmpy.engine.resources import DeviceNumber, device_rules, oci_resources, oci_rlimits
from swarmpy.engine.users import Identity

__all__ = ["DEFAULT_PATH", "Facts", "bundle_config", "environment", "process_capabilities"]

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Facts:
    """What this host adds to a container's configuration."""

    lower: Sequence[Path]
    """Image layers, the top one first."""
    upper: Path
    work: Path
    identity: Identity
    hostname: str
    files: Sequence[tuple[str, Path]]
    """Files made for the container: target and path on the host."""
    devices: Sequence[Mapping[str, Any]]
    """Devices asked for: path, type, major, minor, fileMode, uid, gid, access."""
    namespaces: Mapping[str, str]
    """Namespaces to join, by OCI name ("network"): path; an empty path is the host's (no namespace)."""
    available_capabilities: Sequence[str]
    shared_memory: str
    """The /dev/shm of the host or of another container that it shares; empty for one of its own."""
    volume_paths: Mapping[str, str]
    """Path on the host by mount target."""
    seccomp: Mapping[str, Any] | None
    """`linux.seccomp`, already for this container's capabilities; None is unconfined."""
    init: Path | None = None
    """The program that is to be the first process, where there is to be one."""


def bundle_config(record: ContainerRecord, facts: Facts, device_number: DeviceNumber) -> dict[str, Any]:
    """`config.json`. `InvalidArgument` when the record asks for what cannot be."""
    host = record.host
    resources = oci_resources(host, device_number)
    resources["devices"] = device_rules(host, [dict(item) for item in facts.devices])

    def source_of(mount: VolumeMount) -> str:
        return facts.volume_paths.get(mount.target, mount.source)

    linux: dict[str, Any] = {
        "resources": resources,
        "namespaces": _namespaces(record, facts),
        "devices": [{key: value for key, value in item.items() if key != "access"} for item in facts.devices],
        "maskedPaths": _paths(host.masked_paths, MASKED_PATHS, host.privileged),
        "readonlyPaths": _paths(host.readonly_paths, READONLY_PATHS, host.privileged),
    }
    if host.sysctls:
        linux["sysctl"] = dict(host.sysctls)
    if facts.seccomp is not None:
        linux["seccomp"] = dict(facts.seccomp)
    layers = {"lower": [str(path) for path in facts.lower], "upper": str(facts.upper), "work": str(facts.work)}
    return {
        "ociVersion": "1.2.0",
        **_names(record, facts),
        "process": _process(record, facts),
        "root": {"path": "rootfs", "readonly": host.readonly_rootfs},
        "mounts": all_mounts(
            host, record.mounts, facts.files, source_of=source_of, shared_memory=facts.shared_memory, init=facts.init
        ),
        "linux": linux,
        "annotations": {**host.annotations, "io.swarmpy.rootfs": json.dumps(layers)},
    }


def _names(record: ContainerRecord, facts: Facts) -> dict[str, str]:
    """Of its UTS namespace, if it has one of its own."""
    if facts.namespaces.get("uts") == "":
        return {}
    domain = record.config.domainname
    return {"hostname": facts.hostname} | ({"domainname": domain} if domain else {})


def _process(record: ContainerRecord, facts: Facts) -> dict[str, Any]:
    host, config, identity = record.host, record.config, facts.identity
    process: dict[str, Any] = {
        "terminal": config.tty,
        "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": list(identity.groups)},
        "args": [*([INIT_TARGET, "--"] if facts.init else []), *arguments(config)],
        "env": list(environment(config.env, facts.hostname, identity, tty=config.tty)),
        "cwd": config.working_dir or "/",
        "capabilities": process_capabilities(record, facts.available_capabilities, identity),
        "noNewPrivileges": confinement(host.security_opt).no_new_privileges,
        "rlimits": oci_rlimits(host),
        "oomScoreAdj": host.oom_score_adj,  # never the daemon's own, which may be protected
    }
    if len(host.console_size) == 2 and config.tty and all(host.console_size):
        process["consoleSize"] = {"height": host.console_size[0], "width": host.console_size[1]}
    return process


def process_capabilities(
    record: ContainerRecord, available: Sequence[str], identity: Identity, *, privileged: bool = False
) -> dict[str, list[str]]:
    """`process.capabilities`. A user other than root holds none; execve(2) may give what the bounding set has."""
    host = record.host
    bounding = list(
        capability_set(host.cap_add, host.cap_drop, privileged=host.privileged or privileged, available=available)
    )
    held = bounding if identity.uid == 0 else []
    return {"bounding": bounding, "effective": held, "permitted": held, "inheritable": [], "ambient": []}


def environment(env: Sequence[str], hostname: str, identity: Identity, *, tty: bool) -> tuple[str, ...]:
    """The whole environment of a process: defaults, then what was asked for. An entry without "=" removes the name."""
    defaults = [DEFAULT_PATH, f"HOSTNAME={hostname}", *(["TERM=xterm"] if tty else []), f"HOME={identity.home}"]
    merged = merge_env(env, defaults)
    return tuple(item for item in merged if "=" in item)


def _namespaces(record: ContainerRecord, facts: Facts) -> list[dict[str, str]]:
    wanted = ["pid", "network", "ipc", "mount", "uts", "cgroup"]
    if record.host.cgroupns_mode == "host":
        wanted.remove("cgroup")
    out = []
    for kind in wanted:
        path = facts.namespaces.get(kind)
        if path is None:
            out.append({"type": kind})
        elif path:
            out.append({"type": kind, "path": path})
    return out


def _paths(wanted: Sequence[str] | None, default: Sequence[str], privileged: bool) -> list[str]:
    if wanted is not None:
        return list(wanted)
    return [] if privileged else list(default)
