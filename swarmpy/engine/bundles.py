"""A container's bundle, made anew at each start.

Owns    the configuration of OCI, which is never a file, and /etc/hostname, /etc/hosts and /etc/resolv.conf in
        `<data>/containers/<id>/`, which the container sees by bind mounts and may change.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swarmpy.engine.endpoints import Attachment, has_own_network
from swarmpy.engine.facts import host_devices, identity_in_layers, init_program, resolv_conf_of_host
from swarmpy.engine.hosts import hosts_file, resolv_conf
from swarmpy.engine.log_options import log_attributes, log_limits
from swarmpy.engine.parts import Parts
from swarmpy.engine.privileges import confinement
from swarmpy.engine.record import ContainerRecord
from swarmpy.engine.resources import host_device_number
from swarmpy.engine.seccomp import seccomp_profile
from swarmpy.engine.spec import Facts, bundle_config, process_capabilities
from swarmpy.errors import InvalidArgument
from swarmpy.image import RootFS
from swarmpy.runtime import ContainerIO

__all__ = ["PreparedBundle", "log_path", "prepare_bundle", "shown_hostname", "write_hosts"]

_FILES = ("hostname", "hosts", "resolv.conf")


@dataclass(frozen=True)
class PreparedBundle:
    """What `Runtime.create` needs."""

    directory: Path
    config: str
    io: ContainerIO
    hosts: Path
    hostname: str


def log_path(parts: Parts, record: ContainerRecord) -> Path | None:
    """Where the shim writes the json-file log; None when the container has none."""
    if record.host.log_config.type == "none":
        return None
    return parts.records.directory(record.id) / f"{record.id}-json.log"


def shown_hostname(record: ContainerRecord) -> str:
    """The name the container has: its own, the host's when it shares the host's, or its short id."""
    if record.config.hostname:
        return record.config.hostname
    shared = record.host.network_mode == "host" or record.host.uts_mode == "host"
    return socket.gethostname() if shared else record.id[:12]


async def prepare_bundle(parts: Parts, record: ContainerRecord, joined: Mapping[str, str]) -> PreparedBundle:
    """Everything of a container that must be on disk before its namespaces exist."""
    image = parts.images.resolve(record.image_id)
    root = await parts.root_fs(image, record.id)
    return await asyncio.to_thread(_write, parts, record, root, joined)


def _write(parts: Parts, record: ContainerRecord, root: RootFS, joined: Mapping[str, str]) -> PreparedBundle:
    host = record.host
    directory = parts.records.directory(record.id)
    layers = tuple(Path(path) for path in root.lower)
    identity = identity_in_layers(Path(root.upper), layers, record.config.user, host.group_add)
    hostname = shown_hostname(record)
    files = _identity_files(directory, record, hostname)
    held = process_capabilities(record, parts.capabilities, identity)["bounding"]
    wanted = confinement(host.security_opt)
    facts = Facts(
        lower=layers,
        upper=Path(root.upper),
        work=Path(root.work),
        identity=identity,
        hostname=hostname,
        files=files,
        devices=host_devices(host),
        namespaces={**_shared_with_host(record), **joined},
        available_capabilities=parts.capabilities,
        shared_memory=_shared_memory(host.ipc_mode, joined),
        volume_paths={m.target: _volume_path(parts, m.name, m.subpath) for m in record.mounts if m.name},
        seccomp=None if host.privileged else seccomp_profile(wanted.seccomp, held),
        init=init_program() if host.init and not host.pid_mode else None,    # else the namespace has a first process
    )
    _check_binds(record)
    config = bundle_config(record, facts, host_device_number)
    if host.cgroup_parent:
        config["linux"]["cgroupsPath"] = f"/{host.cgroup_parent.strip('/')}/{record.id}"
    size, number = log_limits(host.log_config)
    io = ContainerIO(
        terminal=record.config.tty,
        stdin=record.config.open_stdin,
        stdin_once=record.config.stdin_once,
        log_path=log_path(parts, record),
        log_max_size=size,
        log_max_files=number,
        log_attributes=log_attributes(record),
        console_size=_console_size(host.console_size),
    )
    return PreparedBundle(directory, json.dumps(config), io, directory / "hosts", hostname)


def write_hosts(prepared: PreparedBundle, record: ContainerRecord, attachment: Attachment) -> None:
    """/etc/hosts once the addresses are known. The file stays the same inode, which the container has mounted."""
    if not has_own_network(record.host.network_mode):
        return
    gateway = next((item.gateway for item in attachment.endpoints if item.gateway), "")
    addresses = [item.ip for item in attachment.endpoints]
    text = hosts_file(addresses, prepared.hostname, record.config.domainname, record.host.extra_hosts, gateway)
    prepared.hosts.write_text(text)


def _identity_files(directory: Path, record: ContainerRecord, hostname: str) -> Sequence[tuple[str, Path]]:
    """Write the three files; those of a container whose network this one joins are shared instead."""
    host = record.host
    if host.network_mode.startswith("container:"):
        directory = directory.parent / host.network_mode.removeprefix("container:")
        return [(f"/etc/{name}", directory / name) for name in _FILES]
    own = has_own_network(host.network_mode)
    resolver = resolv_conf(
        resolv_conf_of_host(), host.dns, host.dns_search, host.dns_options, own_network=own
    )
    hosts = hosts_file((), hostname, record.config.domainname, host.extra_hosts)
    if host.network_mode == "host":
        extra = hosts_file((), hostname, "", host.extra_hosts).removeprefix(hosts_file((), hostname, "", ()))
        machine = Path("/etc/hosts")
        hosts = (machine.read_text(errors="replace") if machine.exists() else hosts) + extra
    texts = {"hostname": hostname + "\n", "hosts": hosts, "resolv.conf": resolver}
    for name, text in texts.items():
        path = directory / name
        path.write_text(text)
        path.chmod(0o644)
    return [(f"/etc/{name}", directory / name) for name in _FILES]


def _shared_with_host(record: ContainerRecord) -> dict[str, str]:
    host = record.host
    shared = {
        "network": host.network_mode == "host", "pid": host.pid_mode == "host", "ipc": host.ipc_mode == "host",
        "uts": host.uts_mode == "host",
    }  # fmt: skip
    return {kind: "" for kind, is_shared in shared.items() if is_shared}


def _shared_memory(ipc_mode: str, joined: Mapping[str, str]) -> str:
    """The IPC namespace and /dev/shm are shared together: shm_open(3) is files there."""
    if ipc_mode == "host":
        return "/dev/shm"
    return joined["ipc"].removesuffix("/ns/ipc") + "/root/dev/shm" if "ipc" in joined else ""


def _volume_path(parts: Parts, name: str, subpath: str) -> str:
    root = parts.volumes.get(name).mountpoint
    if not subpath:
        return str(root)
    path = (root / subpath).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_dir():
        raise InvalidArgument(f"volume {name} has no directory '{subpath}'")
    return str(path)


def _check_binds(record: ContainerRecord) -> None:
    """A source that `-v` names is made when it is missing; one that `--mount` names must be there."""
    for mount in record.mounts:
        if mount.type != "bind":
            continue
        source = Path(mount.source)
        if source.exists():
            continue
        if mount.mode == "exists":
            raise InvalidArgument(f'invalid mount config for type "bind": bind source path does not exist: {source}')
        source.mkdir(parents=True, mode=0o755)


def _console_size(size: Sequence[int]) -> tuple[int, int] | None:
    return (size[0], size[1]) if len(size) == 2 and all(size) else None

