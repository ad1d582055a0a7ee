"""How many tasks of each service run: counted as tasks and nodes change, because a million are too many to count anew.

A task runs while it is observed and desired RUNNING, on a node that is not down.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarmpy.rpc.types_pb2 import RUNNING, Node, NodeStatus, Task

__all__ = ["RunningTasks"]


class RunningTasks:
    """Fed by `State.replace` alone."""

    def __init__(self) -> None:
        self._up: set[str] = set()          # ids of nodes that are not down
        self._counts: dict[str, int] = {}   # by service

    def of(self, service_id: str) -> int:
        """How many tasks of the service run."""
        return self._counts.get(service_id, 0)

    def replace_task(self, old: Task | None, new: Task | None) -> None:
        """A task is new, changed or gone."""
        ran = old is not None and self._runs(old)
        runs = new is not None and self._runs(new)
        if ran != runs:
            task = new or old
            assert task is not None
            self._add(task.service_id, runs - ran)

    def replace_node(self, node_id: str, new: Node | None, tasks: Iterable[Task]) -> None:
        """A node is new, changed or gone; `tasks` are those it has."""
        is_up = new is not None and new.status.state != NodeStatus.DOWN
        if is_up == (node_id in self._up):
            return
        if is_up:
            self._up.add(node_id)
        else:
            self._up.discard(node_id)
        for task in tasks:
            if task.status.state == RUNNING == task.desired_state:
                self._add(task.service_id, 1 if is_up else -1)

    def _runs(self, task: Task) -> bool:
        return task.status.state == RUNNING == task.desired_state and task.node_id in self._up

    def _add(self, service_id: str, step: int) -> None:
        count = self._counts.get(service_id, 0) + step
        if count:
            self._counts[service_id] = count
        else:
            del self._counts[service_id]
