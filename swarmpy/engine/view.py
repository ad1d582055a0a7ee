"""Containers as the Engine API shows them. Pure.

Source  Docker Engine API, definitions ContainerInspectResponse and ContainerSummary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swarmpy.engine.bundles import shown_hostname
from swarmpy.engine.config import EndpointConfig
from swarmpy.engine.endpoints import endpoint_id, networks_of
from swarmpy.engine.image_config import arguments
from swarmpy.engine.privileges import MASKED_PATHS, READONLY_PATHS
from swarmpy.engine.record import ContainerRecord, VolumeMount
from swarmpy.engine.schema import write
from swarmpy.engine.state import ContainerState, Status
from swarmpy.engine.times import format_rfc3339

__all__ = ["inspect", "network_id", "status_text", "summary"]


def network_id(name: str) -> str:
    """The id of one of this host's own networks: 64 hex digits that never change."""
    return hashlib.sha256(f"swarmpy network {name}".encode()).hexdigest()


def inspect(record: ContainerRecord, directory: Path, exec_ids: Sequence[str], log: Path | None) -> dict[str, Any]:
    """ContainerInspectResponse."""
    line = arguments(record.config)
    config = write(record.config) | {"Hostname": shown_hostname(record)}
    host = write(record.host)
    if not record.host.privileged:
        host["MaskedPaths"] = host["MaskedPaths"] if host["MaskedPaths"] is not None else list(MASKED_PATHS)
        host["ReadonlyPaths"] = host["ReadonlyPaths"] if host["ReadonlyPaths"] is not None else list(READONLY_PATHS)
    return {
        "Id": record.id,
        "Created": format_rfc3339(record.created_ns),
        "Path": line[0],
        "Args": list(line[1:]),
        "State": state_json(record.state),
        "Image": record.image_id,
        "ResolvConfPath": str(directory / "resolv.conf"),
        "HostnamePath": str(directory / "hostname"),
        "HostsPath": str(directory / "hosts"),
        "LogPath": str(log or ""),
        "Name": f"/{record.name}",
        "RestartCount": record.state.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": list(exec_ids) or None,
        "HostConfig": host,
        "GraphDriver": {"Name": "overlay2", "Data": None},
        "Mounts": [mount_json(mount) for mount in record.mounts],
        "Config": config,
        "NetworkSettings": network_settings(record),
    }


def summary(record: ContainerRecord, now_ns: int) -> dict[str, Any]:
    """ContainerSummary."""
    return {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": record.image_name,
        "ImageID": record.image_id,
        "Command": _command_text(arguments(record.config)),
        "Created": record.created_ns // 1_000_000_000,
        "Ports": ports_json(record),
        "Labels": record.labels,
        "State": record.state.status.value,
        "Status": status_text(record.state, now_ns),
        "HostConfig": {"NetworkMode": record.host.network_mode},
        "NetworkSettings": {"Networks": networks_json(record)},
        "Mounts": [mount_json(mount) for mount in record.mounts],
    }


def state_json(state: ContainerState) -> dict[str, Any]:
    """ContainerState."""
    out: dict[str, Any] = {
        "Status": state.status.value,
        "Running": state.running,
        "Paused": state.status is Status.PAUSED,
        "Restarting": state.status is Status.RESTARTING,
        "OOMKilled": state.oom_killed,
        "Dead": state.status is Status.DEAD,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": format_rfc3339(state.started_ns),
        "FinishedAt": format_rfc3339(state.finished_ns),
    }
    if state.health is not None:
        out["Health"] = {
            "Status": state.health.status,
            "FailingStreak": state.health.failing_streak,
            "Log": [
                {
                    "Start": format_rfc3339(probe.start_ns), "End": format_rfc3339(probe.end_ns),
                    "ExitCode": probe.exit_code, "Output": probe.output,
                }
                for probe in state.health.log
            ],
        }  # fmt: skip
    return out


def mount_json(mount: VolumeMount) -> dict[str, Any]:
    """MountPoint."""
    out: dict[str, Any] = {"Type": mount.type}
    if mount.name:
        out |= {"Name": mount.name, "Driver": "local"}
    mode = "" if mount.mode in ("exists", "create") else mount.mode
    return out | {
        "Source": mount.source, "Destination": mount.target, "Mode": mode, "RW": not mount.read_only,
        "Propagation": mount.propagation,
    }  # fmt: skip


def networks_json(record: ContainerRecord) -> dict[str, Any]:
    """EndpointSettings by network. Of a container that does not run the addresses are empty."""
    held = {endpoint.network: endpoint for endpoint in record.endpoints}
    wanted = dict(networks_of(record))
    if record.host.network_mode in ("host", "none"):
        wanted[record.host.network_mode] = EndpointConfig()
    out = {}
    for name, settings in wanted.items():
        endpoint = held.get(name)
        out[name] = {
            "IPAMConfig": write(settings.ipam) if settings.ipam else None,
            "Links": None,
            "Aliases": list(settings.aliases) or None,
            "MacAddress": endpoint.mac if endpoint else settings.mac_address,
            "DriverOpts": None,
            "GwPriority": 0,
            "NetworkID": network_id(name),
            "EndpointID": endpoint_id(record.id, name) if endpoint else "",
            "Gateway": endpoint.gateway if endpoint else "",
            "IPAddress": endpoint.ip if endpoint else "",
            "IPPrefixLen": endpoint.prefix if endpoint else 0,
            "IPv6Gateway": "",
            "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0,
            "DNSNames": None,
        }
    return out


def network_settings(record: ContainerRecord) -> dict[str, Any]:
    """NetworkSettings, with the deprecated top-level fields of the default bridge that older clients read."""
    bridge = next((endpoint for endpoint in record.endpoints if endpoint.network == "bridge"), None)
    ports: dict[str, Any] = {}
    if record.state.running:
        ports = dict.fromkeys(record.config.exposed_ports)
        for port, address, number in record.ports:
            ports[port] = [*(ports.get(port) or []), {"HostIp": address, "HostPort": number}]
    return {
        "Bridge": "",
        "SandboxID": endpoint_id(record.id, "sandbox") if record.state.pid else "",
        "SandboxKey": f"/proc/{record.state.pid}/ns/net" if record.state.pid else "",
        "Ports": ports,
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": endpoint_id(record.id, "bridge") if bridge else "",
        "Gateway": bridge.gateway if bridge else "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": bridge.ip if bridge else "",
        "IPPrefixLen": bridge.prefix if bridge else 0,
        "IPv6Gateway": "",
        "MacAddress": bridge.mac if bridge else "",
        "Networks": networks_json(record),
    }


def ports_json(record: ContainerRecord) -> list[dict[str, Any]]:
    """Port: published ones with their host side, then those that are only exposed."""
    out: list[dict[str, Any]] = []
    published = set()
    for port, address, number in record.ports:
        private, protocol = port.split("/")
        published.add(port)
        out.append({"IP": address, "PrivatePort": int(private), "PublicPort": int(number), "Type": protocol})
    if record.state.running:
        for port in record.config.exposed_ports:
            if port not in published:
                private, _, protocol = port.partition("/")
                out.append({"PrivatePort": int(private), "Type": protocol or "tcp"})
    return out


def status_text(state: ContainerState, now_ns: int) -> str:
    """What `docker ps` shows: "Up 5 minutes (healthy)", "Exited (0) 2 hours ago"."""
    match state.status:
        case Status.RUNNING | Status.PAUSED:
            text = f"Up {_ago(now_ns - state.started_ns)}"
            if state.status is Status.PAUSED:
                return f"{text} (Paused)"
            if state.health is not None:
                shown = "health: starting" if state.health.status == "starting" else state.health.status
                return f"{text} ({shown})"
            return text
        case Status.RESTARTING:
            return f"Restarting ({state.exit_code}) {_ago(now_ns - state.finished_ns)} ago"
        case Status.EXITED if state.started_ns:
            return f"Exited ({state.exit_code}) {_ago(now_ns - state.finished_ns)} ago"
        case Status.REMOVING:
            return "Removal In Progress"
        case Status.DEAD:
            return "Dead"
        case _:
            return "Created"


_LADDER = (
    (1, "Less than a second"), (2, "1 second"), (60, "{s} seconds"), (120, "About a minute"), (46 * 60, "{m} minutes"),
    (90 * 60, "About an hour"), (48 * 3600, "{h} hours"), (14 * 86400, "{d} days"), (60 * 86400, "{w} weeks"),
    (2 * 365 * 86400, "{mo} months"),
)  # fmt: skip


def _ago(ns: int) -> str:
    seconds = max(0, ns) // 1_000_000_000
    for limit, text in _LADDER:
        if seconds < limit:
            return text.format(
                s=seconds, m=seconds // 60, h=(seconds + 1800) // 3600, d=seconds // 86400, w=seconds // (7 * 86400),
                mo=seconds // (30 * 86400),
            )  # fmt: skip
    return f"{seconds // (365 * 86400)} years"


def _command_text(line: Sequence[str]) -> str:
    return " ".join(f"'{word}'" if " " in word or not word else word for word in line)
