"""Whether a node may run a task, and if not, why: in words an operator reads in `docker service ps`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from swarmpy.manager.scheduler.demand import Demand
from swarmpy.manager.scheduler.node_info import Claim, NodeInfo, host_ports
from swarmpy.manager.store import constraints_of, normal_architecture
from swarmpy.rpc.types_pb2 import Task, TaskSpec

__all__ = ["Needs", "explain", "needs_of"]


@dataclass(frozen=True, slots=True)
class Needs:
    """All that tasks of one service and template ask of a node."""

    template_id: str
    claim: Claim
    demand: Demand
    max_replicas: int                           # on one node; 0 is unlimited

    def room(self, info: NodeInfo, tasks: int) -> int:
        """How many more a node that the demand admits may take, when it has `tasks` of the service."""
        claim, room = self.claim, sys.maxsize
        if self.max_replicas:
            room = self.max_replicas - tasks
        # Nothing asked for is always there, also on a node that has become too small for what it runs.
        if claim.nano_cpus:
            room = min(room, info.nano_cpus // claim.nano_cpus)
        if claim.memory_bytes:
            room = min(room, info.memory_bytes // claim.memory_bytes)
        if claim.ports:
            room = min(room, 0 if self.port_in_use(info) else 1)
        return max(room, 0)

    def lacks_resources(self, info: NodeInfo) -> bool:
        claim = self.claim
        return 0 < claim.nano_cpus > info.nano_cpus or 0 < claim.memory_bytes > info.memory_bytes

    def port_in_use(self, info: NodeInfo) -> bool:
        return any(port in info.ports for port in self.claim.ports)


_REASONS: tuple[tuple[Callable[[Needs, NodeInfo], bool], str], ...] = (
    (lambda needs, info: not info.ready, "{nodes} not available for new tasks"),
    (lambda needs, info: needs.lacks_resources(info), "insufficient resources on {nodes}"),
    (
        lambda needs, info: not needs.demand.within_constraints(info.node),
        "scheduling constraints not satisfied on {nodes}",
    ),
    (lambda needs, info: not needs.demand.on_platform(info.node), "unsupported platform on {nodes}"),
    (lambda needs, info: needs.port_in_use(info), "host-mode port already in use on {nodes}"),
    (lambda needs, info: bool(needs.max_replicas), "max replicas per node limit exceeded on {nodes}"),
)


def needs_of(task: Task, spec: TaskSpec) -> Needs:
    """Raises InvalidArgument for a constraint that cannot be understood."""
    placement, wants = spec.placement, spec.resources.reservations
    platforms = tuple((platform.os.lower(), normal_architecture(platform)) for platform in placement.platforms)
    preferences = tuple(preference.spread_descriptor for preference in placement.preferences)
    return Needs(
        task.template_id,
        Claim(task.service_id, wants.nano_cpus, wants.memory_bytes, host_ports(task)),
        Demand(constraints_of(placement.constraints), platforms, preferences),
        placement.max_replicas,
    )


def explain(needs: Needs, nodes: Iterable[NodeInfo]) -> str:
    """Why none of these nodes takes one more, which is so: each node is counted for the first reason that it has."""
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
