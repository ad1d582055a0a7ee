"""Whether a task may stay on its node. Pure."""

from __future__ import annotations

from enum import Enum

from swarmpy.errors import InvalidArgument
from swarmpy.manager.store import Constraint, constraints_of
from swarmpy.rpc.types_pb2 import Node, NodeSpec, NodeStatus, Task, TaskSpec

__all__ = ["ORPHANED_AFTER_NS", "NodeFitness", "fitness"]

ORPHANED_AFTER_NS = 24 * 3600 * 10**9      # a node DOWN this long is not waited for


class NodeFitness(Enum):
    """Why a task may or may not stay; the value completes "the task's node …"."""

    FIT = "is fit"
    GONE = "was removed from the swarm"
    LOST = "has been down for a day"
    DOWN = "is down"
    DRAINED = "is drained"
    UNFIT = "no longer satisfies the placement constraints"

    @property
    def is_silent(self) -> bool:
        """Nothing will be heard of the task, so nothing is waited for."""
        return self in (NodeFitness.GONE, NodeFitness.LOST, NodeFitness.DOWN)


def fitness(task: Task, node: Node | None, spec: TaskSpec | None, now: int) -> NodeFitness:
    """How it stands with the node of an assigned task, by the constraints of `spec`.

    A paused node keeps what it has, whatever its labels say.
    """
    if not task.node_id:
        return NodeFitness.FIT
    if node is None:
        return NodeFitness.GONE
    if node.status.state == NodeStatus.DOWN:
        return NodeFitness.LOST if now >= node.meta.updated_ns + ORPHANED_AFTER_NS else NodeFitness.DOWN
    availability = node.spec.availability
    if availability == NodeSpec.DRAIN:
        return NodeFitness.DRAINED
    if availability != NodeSpec.ACTIVE or spec is None:
        return NodeFitness.FIT
    admitted = all(constraint.admits(node) for constraint in _constraints(spec))
    return NodeFitness.FIT if admitted else NodeFitness.UNFIT


def _constraints(spec: TaskSpec) -> tuple[Constraint, ...]:
    try:
        return constraints_of(spec.placement.constraints)
    except InvalidArgument:     # the scheduler says so in the task's status, and no task of it ever gets a node
        return ()
