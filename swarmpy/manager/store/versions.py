"""Whether a task is what its service asks for now, or has to be replaced by one that is. Pure.

A task is made from a template and for the ports that its service publishes at that moment. A newer template may still
ask for the same *work*, which is all of it but where a task may be placed and with which credentials its image is
pulled; then tasks stay that are placed right and have their image. The mesh's ports may change without the task, once
it has an address in the ingress network; ports of its own node may not.

Source  docs.docker.com, "docker service update": what a changed constraint does not concern goes on running.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from swarmpy.manager.store.constraints import constraints_of
from swarmpy.manager.store.ids import template_of
from swarmpy.manager.store.ports import is_ingress
from swarmpy.rpc.types_pb2 import PENDING, READY, RUNNING, Node, PortConfig, Service, Task, TaskSpec

__all__ = ["Versions"]


class Versions:
    """`spec_of` gives the spec of a template, which never changes; `node_of` a node, which does."""

    def __init__(
        self, spec_of: Callable[[str], TaskSpec | None], node_of: Callable[[str], Node | None]
    ) -> None:
        self._spec_of = spec_of
        self._node_of = node_of
        self._work_of = lru_cache(maxsize=4096)(self._work)

    def is_current(self, service: Service, task: Task) -> bool:
        """Whether an update of the service leaves the task alone."""
        same = task.template_id == service.template_id or (
            self.same_work(task.template_id, service.template_id) and self._may_stay(service.template_id, task)
        )
        return same and _has_ports(service.spec.endpoint.ports, task)

    def same_work(self, template_id: str, other_id: str) -> bool:
        """Whether two templates differ in nothing but placement constraints and credentials."""
        if template_id == other_id:
            return True
        try:
            return self._work_of(template_id) == self._work_of(other_id)
        except LookupError:
            return False

    def _work(self, template_id: str) -> str:
        spec = self._spec_of(template_id)
        if spec is None:
            raise LookupError(template_id)
        work = TaskSpec()
        work.CopyFrom(spec)
        del work.placement.constraints[:]
        work.container.registry_auth = ""
        return template_of(work).id

    def _may_stay(self, template_id: str, task: Task) -> bool:
        """Whether the task may go on under another template for the same work."""
        new, old = self._spec_of(template_id), self._spec_of(task.template_id)
        if new is None or old is None:
            return False
        if new.container.registry_auth != old.container.registry_auth and not READY <= task.status.state <= RUNNING:
            return False
        if new.placement.constraints == old.placement.constraints:
            return True
        node = self._node_of(task.node_id)
        return node is not None and all(
            constraint.admits(node) for constraint in constraints_of(new.placement.constraints)
        )


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
