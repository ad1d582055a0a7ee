"""Whether a node may run a task, and if not, why: in words an operator reads in `docker service ps`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from swarmpy.manager.scheduler.nodes import HostPort, NodeInfo, host_ports
from swarmpy.manager.store import Constraint, constraints_of, normal_architecture
from swarmpy.rpc.types_pb2 import Task, TaskSpec

__all__ = ["Needs", "explain", "needs_of"]


@dataclass(frozen=True, slots=True)
class Needs:
    """All that tasks of one service and template ask of a node."""

    service_id: str
    template_id: str
    nano_cpus: int
    memory_bytes: int
    constraints: tuple[Constraint, ...]
    platforms: tuple[tuple[str, str], ...]      # os, architecture; empty is any
    ports: tuple[HostPort, ...]
    max_replicas: int                           # on one node; 0 is unlimited
    preferences: tuple[str, ...]                # spread descriptors, outermost first

    def fits(self, info: NodeInfo) -> bool:
        """Whether the node may take one more."""
        if not info.ready or self.lacks_resources(info):
            return False
        if self.max_replicas and info.services.get(self.service_id, 0) >= self.max_replicas:
            return False
        return (
            all(constraint.admits(info.node) for constraint in self.constraints)
            and (not self.platforms or self.on_platform(info))
            and not (self.ports and self.port_in_use(info))
        )

    def fits_again(self, info: NodeInfo) -> bool:
        """Whether a node that fitted before it took one more still does: only what a task takes away can change."""
        return not (
            self.lacks_resources(info)
            or self.ports
            or (self.max_replicas and info.services.get(self.service_id, 0) >= self.max_replicas)
        )

    def lacks_resources(self, info: NodeInfo) -> bool:
        """Nothing asked for is always there, also on a node that has become too small for what it runs."""
        return 0 < self.nano_cpus > info.nano_cpus or 0 < self.memory_bytes > info.memory_bytes

    def on_platform(self, info: NodeInfo) -> bool:
        platform = info.node.description.platform
        os, architecture = platform.os.lower(), normal_architecture(platform)
        return any((not o or o == os) and (not a or a == architecture) for o, a in self.platforms)

    def port_in_use(self, info: NodeInfo) -> bool:
        return any(port in info.ports for port in self.ports)


_REASONS: tuple[tuple[Callable[[Needs, NodeInfo], bool], str], ...] = (
    (lambda needs, info: not info.ready, "{nodes} not available for new tasks"),
    (lambda needs, info: needs.lacks_resources(info), "insufficient resources on {nodes}"),
    (
        lambda needs, info: not all(constraint.admits(info.node) for constraint in needs.constraints),
        "scheduling constraints not satisfied on {nodes}",
    ),
    (
        lambda needs, info: bool(needs.platforms) and not needs.on_platform(info),
        "unsupported platform on {nodes}",
    ),
    (lambda needs, info: needs.port_in_use(info), "host-mode port already in use on {nodes}"),
    (lambda needs, info: not needs.fits(info), "max replicas per node limit exceeded on {nodes}"),
)


def needs_of(task: Task, spec: TaskSpec) -> Needs:
    """Raises InvalidArgument for a constraint that cannot be understood."""
    placement = spec.placement
    return Needs(
        task.service_id,
        task.template_id,
        spec.resources.reservations.nano_cpus,
        spec.resources.reservations.memory_bytes,
        constraints_of(placement.constraints),
        tuple((platform.os.lower(), normal_architecture(platform)) for platform in placement.platforms),
        host_ports(task),
        placement.max_replicas,
        tuple(preference.spread_descriptor for preference in placement.preferences),
    )


def explain(needs: Needs, nodes: Iterable[NodeInfo]) -> str:
    """Why no node of these takes one more: each node is counted for the first reason that it has."""
    counts: Counter[str] = Counter()
    for info in nodes:
        for refuses, text in _REASONS:
            if refuses(needs, info):
                counts[text] += 1
                break
    if not counts:
        return "no suitable node"
    texts = (
        text.format(nodes="1 node" if count == 1 else f"{count} nodes") for text, count in counts.most_common()
    )
    return f"no suitable node ({'; '.join(texts)})"
