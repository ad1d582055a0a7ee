"""What one look at a service decides: edits of its tasks and new ones, a unit for each slot."""

from __future__ import annotations

from collections.abc import Sequence

from swarmpy.manager.store import Transaction
from swarmpy.rpc.types_pb2 import Task, TaskState

__all__ = ["Draft"]


class Draft:
    """Collected decisions. Asking for the same task twice gives the same copy, so that edits add up."""

    def __init__(self) -> None:
        self._units: dict[int, Transaction] = {}
        self._copies: dict[str, Task] = {}
        self._added: dict[int, list[Task]] = {}

    def edit(self, task: Task) -> Task:
        """A copy of a task, to be changed in place."""
        copy = self._copies.get(task.id)
        if copy is None:
            copy = Task()
            copy.CopyFrom(task)
            self._copies[task.id] = copy
            self._unit(task.slot).put(copy)
        return copy

    def desire(self, task: Task, state: TaskState) -> None:
        """Let a task's desired state be at least `state`."""
        if self.now(task).desired_state < state:
            self.edit(task).desired_state = state

    def add(self, task: Task) -> None:
        self._added.setdefault(task.slot, []).append(task)
        self._unit(task.slot).put(task)

    def added(self, slot: int) -> Sequence[Task]:
        """The new tasks of a slot."""
        return self._added.get(slot, ())

    def now(self, task: Task) -> Task:
        """The task as it will be."""
        return self._copies.get(task.id, task)

    def touches(self, slot: int) -> bool:
        return slot in self._units

    def units(self) -> list[Transaction]:
        return list(self._units.values())

    def _unit(self, slot: int) -> Transaction:
        return self._units.setdefault(slot, Transaction())
