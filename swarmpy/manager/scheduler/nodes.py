"""What the scheduler knows of all nodes.

Owns    free resources, host ports in use, counts of tasks, recent failures; all of it derived from nodes and tasks.
Laws    a task holds its reservation and host ports until it is observed to have ended, and counts toward the spread
        while it is also still wanted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from swarmpy.manager.scheduler.demand import Demand
from swarmpy.manager.scheduler.node_info import Claim, HostPort, NodeInfo, host_ports
from swarmpy.manager.scheduler.order import Admitted, LoadOrder, Place
from swarmpy.rpc.types_pb2 import FAILED, REJECTED, RUNNING, Node, NodeSpec, NodeStatus, Task, TaskSpec

__all__ = ["NodeView"]

_DEMANDS = 16       # whose nodes are remembered: those asked for last


class _Held(NamedTuple):
    """What one task holds, and where. A tuple, since one is made for each event of each task."""

    node_id: str
    claim: Claim
    active: bool


class NodeView:
    """All nodes, and what runs on them."""

    def __init__(self, spec_of: Callable[[str], TaskSpec | None]) -> None:
        """`spec_of` gives the task spec of a template id."""
        self._spec_of = spec_of
        self._nodes: dict[str, NodeInfo] = {}
        self._held: dict[str, _Held] = {}
        self._tasks: dict[str, dict[str, int]] = {}     # wanted ones, by service and node
        self._order = LoadOrder()
        self._admitted: dict[Demand, Admitted] = {}     # the one asked for last comes last

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._nodes

    def __getitem__(self, node_id: str) -> NodeInfo:
        return self._nodes[node_id]

    def all(self) -> Iterator[NodeInfo]:
        return iter(self._nodes.values())

    def tasks_of(self, service_id: str) -> Mapping[str, int]:
        """How many tasks of a service are wanted on each node, by id. A live view.

        Nodes that have none are not there; nodes that are gone may still be.
        """
        return self._tasks.get(service_id) or {}

    def by_load(self) -> Sequence[Place]:
        """Ready nodes, the least loaded first, as long as nothing changes."""
        return self._order.places()

    def admitted(self, demand: Demand) -> Admitted:
        """The ready nodes that `demand` admits."""
        admitted = self._admitted.pop(demand, None)
        if admitted is None:
            admitted = Admitted(demand, self._nodes.values())
            if len(self._admitted) == _DEMANDS:
                del self._admitted[next(iter(self._admitted))]
        self._admitted[demand] = admitted
        return admitted

    def put_node(self, node: Node) -> None:
        """A node is new or changed."""
        info = self._nodes.get(node.id)
        if info is None:
            info = self._nodes[node.id] = NodeInfo(node)
            before_cpus = before_memory = 0
        else:
            before_cpus = info.node.description.resources.nano_cpus
            before_memory = info.node.description.resources.memory_bytes
        info.nano_cpus += node.description.resources.nano_cpus - before_cpus
        info.memory_bytes += node.description.resources.memory_bytes - before_memory
        info.node = node
        info.ready = node.status.state == NodeStatus.READY and node.spec.availability == NodeSpec.ACTIVE
        self._node_changed(info)

    def remove_node(self, node_id: str) -> None:
        """A node is gone. What its tasks held is to be given back task by task."""
        info = self._nodes.pop(node_id, None)
        if info is not None:
            info.ready = False
            self._node_changed(info)

    def put_task(self, task: Task) -> bool:
        """A task is new or changed. Returns whether it gave something back."""
        held = self._holding(task)
        before = self._held.get(task.id)
        if held == before:
            return False
        if before is not None:
            del self._held[task.id]
            self._count(before, -1)
        if held is not None:
            self._held[task.id] = held
            self._count(held, 1)
        return before is not None

    def holds(self, task_id: str, node_id: str) -> bool:
        """Whether the task is counted on that node."""
        held = self._held.get(task_id)
        return held is not None and held.node_id == node_id

    def take(self, claim: Claim, task_ids: Sequence[str], chosen: Sequence[NodeInfo]) -> None:
        """Equal tasks are to run on the nodes chosen for them, one each. The same as `put_task` for each, done once for
        each node."""
        counts: dict[NodeInfo, int] = {}
        for info in chosen:
            counts[info] = counts.get(info, 0) + 1
        holding = {info: _Held(info.id, claim, True) for info in counts}
        self._held.update(zip(task_ids, map(holding.__getitem__, chosen), strict=True))
        for info, count in counts.items():
            self._count(holding[info], count)

    def remove_task(self, task_id: str) -> bool:
        """A task is gone. Returns whether it gave something back."""
        held = self._held.pop(task_id, None)
        if held is None:
            return False
        self._count(held, -1)
        return True

    def note_failure(self, task: Task) -> None:
        """Remember that a task failed on its node; call once for each."""
        info = self._nodes.get(task.node_id)
        if info is not None and task.status.state in (FAILED, REJECTED):
            info.failures.setdefault((task.service_id, task.template_id), deque()).append(task.ended_ns)

    def _holding(self, task: Task) -> _Held | None:
        state = task.status.state
        if not task.node_id or state > RUNNING or task.node_id not in self._nodes:
            return None
        spec = self._spec_of(task.template_id)
        wants = TaskSpec().resources.reservations if spec is None else spec.resources.reservations
        claim = Claim(task.service_id, wants.nano_cpus, wants.memory_bytes, host_ports(task))
        return _Held(task.node_id, claim, task.desired_state <= RUNNING)

    def _count(self, held: _Held, step: int) -> None:
        info, claim = self._nodes.get(held.node_id), held.claim
        if held.active:
            tasks = self._tasks.setdefault(claim.service_id, {})
            _add(tasks, held.node_id, step)
            if not tasks:
                del self._tasks[claim.service_id]
        if info is None:
            return
        info.nano_cpus -= step * claim.nano_cpus
        info.memory_bytes -= step * claim.memory_bytes
        for port in claim.ports:
            _add(info.ports, port, step)
        if held.active:
            info.load += step
            self._order.note(info)

    def _node_changed(self, info: NodeInfo) -> None:
        self._order.note(info)
        for admitted in self._admitted.values():
            admitted.put(info)


def _add(counts: dict[str, int] | dict[HostPort, int], key: str | HostPort, step: int) -> None:
    table: dict[str | HostPort, int] = counts  # type: ignore[assignment]  # the key is of the table's own kind
    left = table.get(key, 0) + step
    if left:
        table[key] = left
    else:
        del table[key]
