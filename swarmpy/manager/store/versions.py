"""Whether a task is what its service asks for now, or has to be replaced by one that is. Pure.

A task is made from a template and for the ports that its service publishes at that moment. The mesh's ports may change
afterwards without the task, as long as it has an address in the ingress network; ports of its own node may not.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarmpy.manager.store.ports import is_ingress
from swarmpy.rpc.types_pb2 import PENDING, PortConfig, Service, Task

__all__ = ["is_current"]


def is_current(service: Service, task: Task) -> bool:
    """Whether an update of the service leaves the task alone."""
    return task.template_id == service.template_id and _has_ports(service.spec.endpoint.ports, task)


def _has_ports(wanted: Iterable[PortConfig], task: Task) -> bool:
    if task.status.state < PENDING:
        return True                     # its ports and address are not allocated yet, and will be those wanted now
    if not wanted and not task.ports:
        return True
    if any(map(is_ingress, wanted)) and not task.networks:
        return False
    return _host_ports(wanted) == _host_ports(task.ports)


def _host_ports(ports: Iterable[PortConfig]) -> set[tuple[int, int, int]]:
    return {(port.protocol, port.target_port, port.published_port) for port in ports if not is_ingress(port)}
