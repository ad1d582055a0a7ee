"""Joining a container to its networks, and publishing its ports, while it runs.

Owns    which networks a container is on by its network mode and its networking configuration, and which host ports its
        bindings ask for.
Source  Docker Engine API, HostConfig.NetworkMode, PortBindings; definition EndpointSettings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from swarmpy.engine.checks import parse_port
from swarmpy.engine.config import EndpointConfig, PortBinding
from swarmpy.engine.record import ContainerRecord, Endpoint
from swarmpy.errors import Conflict, InvalidArgument, NotSupported
from swarmpy.network import HostNetwork, HostPort

__all__ = ["Attachment", "attach", "detach", "endpoint_id", "has_own_network", "networks_of", "wanted_ports"]


@dataclass(frozen=True)
class Attachment:
    """What a container got: its interfaces, and its published ports as ("80/tcp", host address, host port)."""

    endpoints: tuple[Endpoint, ...]
    ports: tuple[tuple[str, str, str], ...]


def has_own_network(mode: str) -> bool:
    """Whether the container has a network namespace of its own."""
    return mode != "host" and not mode.startswith("container:")


def networks_of(record: ContainerRecord) -> Mapping[str, EndpointConfig]:
    """Networks to join, in order: the mode's first, then what the networking configuration adds."""
    mode = record.host.network_mode
    if not has_own_network(mode) or record.config.network_disabled:
        return {}
    wanted = dict(record.networking.endpoints)
    settings = wanted.pop("default", EndpointConfig())
    first = {} if mode == "none" else {mode: wanted.pop(mode, settings)}
    wanted.pop("none", None)
    return {**first, **wanted}


def wanted_ports(record: ContainerRecord) -> list[list[tuple[str, HostPort]]]:
    """Sets of host ports to try, in order of preference. One set unless a binding gives a range."""
    bindings = {port: tuple(given or (PortBinding(),)) for port, given in record.host.port_bindings.items()}
    if record.host.publish_all_ports:
        for port in record.config.exposed_ports:
            bindings.setdefault(port, (PortBinding(),))
    ranges = [(port, binding, _host_range(binding)) for port, given in bindings.items() for binding in given]
    tries = max((len(span) for _, _, span in ranges), default=1)
    return [[_host_port(port, binding, span, attempt) for port, binding, span in ranges] for attempt in range(tries)]


def _host_range(binding: PortBinding) -> range:
    first, dash, last = binding.host_port.partition("-")
    try:
        low = int(first or "0")
        high = int(last) if dash else low
    except ValueError:
        raise InvalidArgument(f"invalid host port '{binding.host_port}'") from None
    if not 0 <= low <= high <= 65535:
        raise InvalidArgument(f"invalid host port '{binding.host_port}': outside 0-65535")
    return range(low, high + 1)


def _host_port(port: str, binding: PortBinding, span: range, attempt: int) -> tuple[str, HostPort]:
    number, protocol = parse_port(port)
    if ":" in binding.host_ip:
        raise NotSupported(f"HostConfig.PortBindings: publishing on IPv6 ({binding.host_ip}) is not supported")
    chosen = span[min(attempt, len(span) - 1)]
    return f"{number}/{protocol}", HostPort(protocol, number, chosen, binding.host_ip or "0.0.0.0")


async def attach(network: HostNetwork, record: ContainerRecord, pid: int) -> Attachment:
    """Join the networks and publish the ports. When something fails nothing stays behind and the error is raised."""
    endpoints: list[Endpoint] = []
    try:
        for name, wanted in networks_of(record).items():
            address = wanted.ipam.ipv4_address if wanted.ipam else ""
            mac = wanted.mac_address or (record.config.mac_address if not endpoints else "")
            info = await network.connect(record.id, pid, name, ip=address or None, mac=mac or None)
            endpoints.append(Endpoint(name, str(info.ip), info.prefix_len, str(info.gateway or ""), info.mac))
        if not endpoints and has_own_network(record.host.network_mode):
            await network.loopback(record.id, pid)
        on_bridge = any(endpoint.network == "bridge" for endpoint in endpoints)
        ports = await _publish(network, record) if on_bridge else ()
    except BaseException:
        await network.disconnect(record.id)
        raise
    return Attachment(tuple(endpoints), ports)


async def _publish(network: HostNetwork, record: ContainerRecord) -> tuple[tuple[str, str, str], ...]:
    candidates = wanted_ports(record)
    for attempt in count():
        wanted: Sequence[tuple[str, HostPort]] = candidates[attempt]
        if not wanted:
            return ()
        try:
            published = await network.publish(record.id, [port for _, port in wanted])
        except Conflict:
            if attempt + 1 == len(candidates):
                raise
            continue
        return tuple((f"{p.container_port}/{p.protocol}", p.host_ip, str(p.host_port)) for p in published)
    return ()


async def detach(network: HostNetwork, record: ContainerRecord) -> None:
    """The container is on no network, and its ports are free."""
    if has_own_network(record.host.network_mode):
        await network.disconnect(record.id)


def endpoint_id(container_id: str, network: str) -> str:
    """A stable id of 64 hex digits for one container on one network."""
    return hashlib.sha256(f"{container_id}/{network}".encode()).hexdigest()
