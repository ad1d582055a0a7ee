"""A container's place on a network, and the host ports that lead to it: the values, and how they are written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from ipaddress import IPv4Address
from typing import Any

from swarmpy.errors import InvalidArgument
from swarmpy.network.view import checked_protocol

__all__ = ["EndpointInfo", "EndpointRecord", "HostPort"]

ANY_ADDRESS = "0.0.0.0"


@dataclass(frozen=True, slots=True, order=True)
class HostPort:
    """A port of this host that leads to a container (`docker run -p`, `mode=host`).

    `host_port` 0 asks for any free port; `host_ip` "0.0.0.0" means every address of the host.
    """

    protocol: str
    container_port: int
    host_port: int = 0
    host_ip: str = ANY_ADDRESS

    def __post_init__(self) -> None:
        checked_protocol(self.protocol)
        if not 1 <= self.container_port <= 65535:
            raise InvalidArgument(f"container port {self.container_port} is outside 1-65535")
        if not 0 <= self.host_port <= 65535:
            raise InvalidArgument(f"host port {self.host_port} is outside 0-65535")
        try:
            IPv4Address(self.host_ip)
        except ValueError:
            raise InvalidArgument(f"host address {self.host_ip!r} of port {self.host_port} is not IPv4") from None

    def __str__(self) -> str:
        return f"{self.host_ip}:{self.host_port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class EndpointInfo:
    """One interface of a container, as it now exists.

    `gateway` is absent on networks that carry no default route (ingress). `host_interface` is the veth end on the host.
    """

    network: str
    interface: str
    ip: str
    prefix_len: int
    mac: str
    mtu: int
    host_interface: str
    gateway: str | None = None


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """What is remembered of a container across a restart of the daemon."""

    container_id: str
    endpoints: tuple[EndpointInfo, ...] = ()
    ports: tuple[HostPort, ...] = ()

    def on(self, network: str) -> EndpointInfo | None:
        return next((endpoint for endpoint in self.endpoints if endpoint.network == network), None)

    def with_endpoint(self, endpoint: EndpointInfo) -> EndpointRecord:
        return replace(self, endpoints=(*self.endpoints, endpoint))

    def without(self, network: str) -> EndpointRecord:
        """The record after leaving `network`; ports go with the bridge that carries them."""
        kept = tuple(endpoint for endpoint in self.endpoints if endpoint.network != network)
        return replace(self, endpoints=kept, ports=() if network == "bridge" else self.ports)

    def next_interface(self) -> str:
        """The lowest free name, `eth0` first."""
        taken = {endpoint.interface for endpoint in self.endpoints}
        return next(name for name in (f"eth{n}" for n in range(len(taken) + 1)) if name not in taken)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EndpointRecord:
        """Raises ValueError, KeyError or TypeError when `text` is not what `to_json` wrote."""
        data: Mapping[str, Any] = json.loads(text)
        return cls(
            container_id=data["container_id"],
            endpoints=tuple(EndpointInfo(**endpoint) for endpoint in data["endpoints"]),
            ports=tuple(HostPort(**port) for port in data["ports"]),
        )
