"""What a service's endpoint must be: its spec with every published port filled in. Pure."""

from __future__ import annotations

from collections.abc import Callable

from swarmpy.manager.store import is_ingress
from swarmpy.rpc.types_pb2 import Endpoint, PortConfig, Service

__all__ = ["DYNAMIC_PORTS", "endpoint_for", "is_allocated", "uses_ingress"]

DYNAMIC_PORTS = range(30000, 32768)     # docs.docker.com: "a port in the range 30000-32767"


def is_allocated(service: Service) -> bool:
    """Whether the endpoint already says what the spec asks for."""
    return service.endpoint.spec == service.spec.endpoint


def uses_ingress(service: Service) -> bool:
    """Whether tasks of the service need an address in the ingress network."""
    return any(is_ingress(port) for port in service.endpoint.ports)


def endpoint_for(service: Service, is_taken: Callable[[PortConfig.Protocol, int], bool]) -> Endpoint | None:
    """The endpoint for the present spec. None when the dynamic ports are used up.

    A port that the spec leaves open keeps the number it was given before. `is_taken` says whether another service
    holds a port.
    """
    endpoint = Endpoint(spec=service.spec.endpoint, ports=service.spec.endpoint.ports)
    mine = {(port.protocol, port.published_port) for port in endpoint.ports if is_ingress(port)}
    before = [port for port in service.endpoint.ports if is_ingress(port)]
    still_open = []
    for port in endpoint.ports:
        if port.published_port or not is_ingress(port):
            continue
        protocol = port.protocol
        kept = (old.published_port for old in before if _same(old, port))
        port.published_port = next((number for number in kept if (protocol, number) not in mine), 0)
        mine.add((protocol, port.published_port))
        if not port.published_port:
            still_open.append(port)
    for port in still_open:
        protocol = port.protocol
        free = (n for n in DYNAMIC_PORTS if (protocol, n) not in mine and not is_taken(protocol, n))
        port.published_port = next(free, 0)
        if not port.published_port:
            return None
        mine.add((protocol, port.published_port))
    return endpoint


def _same(old: PortConfig, new: PortConfig) -> bool:
    return (old.protocol, old.target_port, old.name) == (new.protocol, new.target_port, new.name)
