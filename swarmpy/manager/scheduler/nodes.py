"""What the scheduler knows of each node: what it has, what is taken of it, and how it did lately.

Owns    free resources, host ports in use, counts of tasks, recent failures; all of it derived from nodes and tasks.
Laws    a task holds its reservation and host ports until it is observed to have ended, and counts toward the spread
        while it is also still wanted.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from swarmpy.rpc.types_pb2 import FAILED, REJECTED, RUNNING, Node, NodeSpec, NodeStatus, PortConfig, Task, TaskSpec

__all__ = ["FAILURES_THAT_COUNT", "FAILURE_WINDOW_NS", "Claim", "HostPort", "NodeInfo", "NodeView", "host_ports"]

FAILURE_WINDOW_NS = 5 * 60 * 10**9
FAILURES_THAT_COUNT = 5

HostPort = tuple[PortConfig.Protocol, int]
_Version = tuple[str, str]              # service id, template id


class NodeInfo:
    """One node. Numbers may go below zero when a node shrinks under its tasks."""

    __slots__ = ("failures", "id", "load", "memory_bytes", "nano_cpus", "node", "ports", "ready", "services")

    def __init__(self, node: Node) -> None:
        self.id = node.id
        self.node = node
        self.ready = False
        self.nano_cpus = 0                              # free
        self.memory_bytes = 0                           # free
        self.load = 0                                   # tasks that are wanted here
        self.services: dict[str, int] = {}              # the same, of each service
        self.ports: dict[HostPort, int] = {}            # host ports in use; above 1 while a task is taking over
        self.failures: dict[_Version, deque[int]] = {}  # when tasks failed here, Unix ns

    def recent_failures(self, version: _Version, now: int) -> int:
        """How many tasks of a service failed here lately, or 0 while that is too few to matter."""
        times = self.failures.get(version)
        if times is None:
            return 0
        while times and times[0] <= now - FAILURE_WINDOW_NS:
            times.popleft()
        if not times:
            del self.failures[version]
        return len(times) if len(times) >= FAILURES_THAT_COUNT else 0


class Claim(NamedTuple):
    """What each task of a service takes of its node."""

    service_id: str
    nano_cpus: int
    memory_bytes: int
    ports: tuple[HostPort, ...]


class _Held(NamedTuple):
    """What one task holds, and where. A tuple, since one is made for each event of each task."""

    node_id: str
    claim: Claim
    active: bool


class NodeView:
    """All nodes, and the ready ones in order of load."""

    def __init__(self, spec_of: Callable[[str], TaskSpec | None]) -> None:
        """`spec_of` gives the task spec of a template id."""
        self._spec_of = spec_of
        self._nodes: dict[str, NodeInfo] = {}
        self._held: dict[str, _Held] = {}
        self._by_load: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, node_id: str) -> NodeInfo:
        return self._nodes[node_id]

    def all(self) -> Iterator[NodeInfo]:
        return iter(self._nodes.values())

    def by_load(self) -> Iterator[NodeInfo]:
        """Ready nodes, the least loaded first, equals by id. Change nothing meanwhile."""
        return (self._nodes[node_id] for _, node_id in self._by_load)

    def put_node(self, node: Node) -> None:
        """A node is new or changed."""
        info = self._nodes.get(node.id)
        if info is None:
            info = self._nodes[node.id] = NodeInfo(node)
            info.nano_cpus = info.memory_bytes = 0
            before_cpus = before_memory = 0
        else:
            before_cpus = info.node.description.resources.nano_cpus
            before_memory = info.node.description.resources.memory_bytes
        info.nano_cpus += node.description.resources.nano_cpus - before_cpus
        info.memory_bytes += node.description.resources.memory_bytes - before_memory
        info.node = node
        ready = node.status.state == NodeStatus.READY and node.spec.availability == NodeSpec.ACTIVE
        if ready and not info.ready:
            insort(self._by_load, (info.load, node.id))
        elif info.ready and not ready:
            self._drop(info)
        info.ready = ready

    def remove_node(self, node_id: str) -> None:
        info = self._nodes.pop(node_id, None)
        if info is not None and info.ready:
            self._drop(info)

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
        if info is None:
            return
        info.nano_cpus -= step * claim.nano_cpus
        info.memory_bytes -= step * claim.memory_bytes
        for port in claim.ports:
            _add(info.ports, port, step)
        if held.active:
            _add(info.services, claim.service_id, step)
            if info.ready:
                self._drop(info)
            info.load += step
            if info.ready:
                insort(self._by_load, (info.load, info.id))

    def _drop(self, info: NodeInfo) -> None:
        del self._by_load[bisect_left(self._by_load, (info.load, info.id))]


def host_ports(task: Task) -> tuple[HostPort, ...]:
    """The ports a task needs for itself on its node; one left open is the node's to choose."""
    if not task.ports:
        return ()
    return tuple(
        (port.protocol, port.published_port)
        for port in task.ports
        if port.publish_mode == PortConfig.HOST and port.published_port
    )


def _add(counts: dict[str, int] | dict[HostPort, int], key: str | HostPort, step: int) -> None:
    table: dict[str | HostPort, int] = counts  # type: ignore[assignment]  # the key is of the table's own kind
    left = table.get(key, 0) + step
    if left:
        table[key] = left
    else:
        del table[key]
