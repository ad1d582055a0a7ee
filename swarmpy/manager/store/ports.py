"""Published ports of the routing mesh: a port of a protocol belongs to one service in the whole swarm.

A service holds the ports that its spec asks for and those that its endpoint has, which differ while an update of the
ports is on its way. Ports published in host mode are a matter of each node and are not held here.
"""

from __future__ import annotations

from swarmpy.errors import Conflict
from swarmpy.rpc.types_pb2 import PortConfig, Service

__all__ = ["IngressPorts", "is_ingress", "publishes"]

_Key = tuple[PortConfig.Protocol, int]


def is_ingress(port: PortConfig) -> bool:
    """Whether a port is published through the routing mesh, on every node."""
    return port.publish_mode == PortConfig.INGRESS


def publishes(service: Service) -> bool:
    """Whether tasks of the service have published ports, or are about to have or to lose some."""
    return bool(service.spec.endpoint.ports or service.endpoint.ports)


class IngressPorts:
    """Which service holds which published port."""

    def __init__(self) -> None:
        self._holders: dict[_Key, str] = {}

    def holder(self, protocol: PortConfig.Protocol, published_port: int) -> str | None:
        """The id of the service that holds a port, or None."""
        return self._holders.get((protocol, published_port))

    def check(self, service: Service) -> None:
        """Raises Conflict when another service holds a port that this one asks for."""
        for protocol, number in _held(service):
            holder = self._holders.get((protocol, number), service.id)
            if holder != service.id:
                name = service.spec.annotations.name
                kind = PortConfig.Protocol.Name(protocol).lower()
                raise Conflict(
                    f"service {name}: port {number}/{kind} is already published by service {holder} in ingress mode; "
                    "choose another port or mode=host"
                )

    def replace(self, old: Service | None, new: Service | None) -> None:
        """For the store alone: `new` takes the place of `old`."""
        for key in _held(old) if old is not None else ():
            del self._holders[key]
        for key in _held(new) if new is not None else ():
            self._holders[key] = new.id if new is not None else ""


def _held(service: Service) -> set[_Key]:
    ports = (*service.spec.endpoint.ports, *service.endpoint.ports)
    return {(port.protocol, port.published_port) for port in ports if port.published_port and is_ingress(port)}
