"""Status reports of agents on their way into the store.

Owns    the newest status of each task that is not stored yet, the newest state of each node, and who waits to hear
        that a report is stored. Pure: nothing here reads the store or awaits.
In      reports; node states.
Out     the objects of the next transaction, built from what the store holds at that moment.

The laws: a task's state never goes back, a task that has ended never changes, and a node speaks for its own tasks only.
A report that these laws refuse is answered as stored: the agent has nothing better to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from swarmpy.manager.store import may_report
from swarmpy.rpc.dispatcher_pb2 import TaskStatusUpdate
from swarmpy.rpc.types_pb2 import ASSIGNED, RUNNING, Node, NodeDescription, NodeStatus, Task, TaskStatus

__all__ = ["Key", "NodeChange", "ReportQueue", "advance", "changed_node"]

TaskKey: TypeAlias = tuple[str, str]     # the task, and the node that says so: no lie of another hides the truth
Key: TypeAlias = str | TaskKey           # a node's id, or a task's key


def advance(task: Task | None, node_id: str, status: TaskStatus) -> Task | None:
    """A copy of the task with the reported status, or None when the report changes nothing."""
    if task is None or task.node_id != node_id or status.state < ASSIGNED:
        return None
    if task.status.state > RUNNING or not may_report(task.status.state, status.state):
        return None
    if status == task.status:
        return None
    copy = Task()
    copy.CopyFrom(task)
    copy.status.CopyFrom(status)
    return copy


@dataclass(slots=True)
class NodeChange:
    """What the dispatcher learned of a node. None leaves a field as it is."""

    state: NodeStatus.State | None = None
    message: str = ""
    addr: str | None = None
    description: NodeDescription | None = None

    def merge(self, later: NodeChange) -> None:
        """Let the later news win, field by field."""
        if later.state is not None:
            self.state, self.message = later.state, later.message
        if later.addr is not None:
            self.addr = later.addr
        if later.description is not None:
            self.description = later.description


def changed_node(node: Node | None, change: NodeChange) -> Node | None:
    """A copy of the node with the change, or None when there is none."""
    if node is None:
        return None
    copy = Node()
    copy.CopyFrom(node)
    if change.state is not None:
        copy.status.state = change.state
        copy.status.message = change.message
    if change.addr is not None:
        copy.status.addr = change.addr
    if change.description is not None:
        copy.description.CopyFrom(change.description)
    return copy if copy != node else None


class ReportQueue:
    """Reports coalesced by task and nodes' news by node, until the shell takes them as one batch."""

    def __init__(self) -> None:
        self._tasks: dict[TaskKey, TaskStatus] = {}
        self._nodes: dict[str, NodeChange] = {}
        self._answers: dict[str, int] = {}                       # session -> sequence

    def report(self, node_id: str, updates: Iterable[TaskStatusUpdate]) -> None:
        """Of two reports of one node on one task the further state wins, and the later one between equals."""
        for update in updates:
            key = (update.task_id, node_id)
            waiting = self._tasks.get(key)
            if waiting is None or update.status.state >= waiting.state:
                self._tasks[key] = update.status

    def answer(self, session_id: str, sequence: int) -> None:
        """The session wants to hear when everything it reported so far is stored."""
        self._answers[session_id] = max(sequence, self._answers.get(session_id, 0))

    def node(self, node_id: str, change: NodeChange) -> None:
        """News of a node."""
        waiting = self._nodes.setdefault(node_id, change)
        if waiting is not change:
            waiting.merge(change)

    @property
    def pending(self) -> bool:
        """Whether a batch would hold anything."""
        return bool(self._tasks or self._nodes or self._answers)

    def take(self) -> Batch:
        """All that waits; the queue is empty afterwards."""
        batch = Batch(self._tasks, self._nodes, self._answers)
        self._tasks, self._nodes, self._answers = {}, {}, {}
        return batch


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch. Its keys can be split, and its objects built again after a conflict."""

    tasks: dict[TaskKey, TaskStatus]
    nodes: dict[str, NodeChange]
    answers: dict[str, int]

    def keys(self) -> list[Key]:
        """Nodes first: a node is READY before its tasks run."""
        return [*self.nodes, *self.tasks]

    def objects(
        self,
        keys: Iterable[Key],
        task: Callable[[str], Task | None],
        node: Callable[[str], Node | None],
    ) -> Iterator[Task | Node]:
        """The changed copies of what the store now holds."""
        for key in keys:
            changed: Task | Node | None
            if isinstance(key, str):
                changed = changed_node(node(key), self.nodes[key])
            else:
                task_id, reporter = key
                changed = advance(task(task_id), reporter, self.tasks[key])
            if changed is not None:
                yield changed
