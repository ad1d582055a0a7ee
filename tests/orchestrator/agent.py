"""A simulated node: what really runs there, whether or not the managers hear of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from swarmpy.rpc.types_pb2 import (
    ACCEPTED,
    ASSIGNED,
    FAILED,
    PREPARING,
    READY,
    REJECTED,
    RUNNING,
    SHUTDOWN,
    STARTING,
    Task,
    TaskState,
)

__all__ = ["AT_ONCE", "Agent", "Pace"]

_NEXT: dict[TaskState, TaskState] = {
    ASSIGNED: ACCEPTED, ACCEPTED: PREPARING, PREPARING: READY, READY: STARTING, STARTING: RUNNING,
}


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things take on a node, drawn anew each time; ns."""

    step: Callable[[], int]         # from one state to the next
    stop: Callable[[], int]         # from being told to stop to having stopped
    report: Callable[[], int]       # from a state to the managers hearing of it


AT_ONCE = Pace(lambda: 0, lambda: 0, lambda: 0)


class Agent:
    """Takes tasks toward their desired state, one step each time it is let, and no earlier than its pace allows.

    `wake` is called with each time at which it will have something to do.
    """

    def __init__(self, pace: Pace, wake: Callable[[int], object]) -> None:
        self.connected = True
        self.stalled = False                                  # hears and reports, but moves no task
        self.pace = pace
        self.actual: dict[str, TaskState] = {}
        self._wake = wake
        self._assigned: dict[str, TaskState] = {}             # the desired state, as last heard
        self._images: dict[str, str] = {}
        self._under_way: dict[str, tuple[TaskState, int]] = {}    # the step being taken, and when it is done
        self._told: dict[str, TaskState] = {}                 # what is on its way to the managers, or there
        self._letters: list[tuple[int, str, TaskState]] = []  # of that, what is not there yet, in order

    def hear(self, tasks: list[Task], image_of: Callable[[Task], str]) -> None:
        if not self.connected:
            return
        present = {task.id: task for task in tasks if task.status.state >= ASSIGNED}
        for task_id in [task_id for task_id in self.actual if task_id not in present]:
            del self.actual[task_id], self._assigned[task_id]
            self._under_way.pop(task_id, None)
            self._told.pop(task_id, None)
        for task_id, task in present.items():
            self._assigned[task_id] = task.desired_state
            self._images[task_id] = image_of(task)
            if task_id not in self.actual:
                self.actual[task_id] = self._told[task_id] = task.status.state

    def step(self, now: int) -> None:
        """One move of each task whose time has come."""
        for task_id in self.actual:
            following = self._following(task_id)
            if following is None:
                self._under_way.pop(task_id, None)
                continue
            done_ns = self._done_ns(task_id, following, now)
            if done_ns > now:
                continue
            del self._under_way[task_id]
            self.actual[task_id] = following

    def news(self, now: int) -> dict[str, TaskState]:
        """The states that have reached the managers by now."""
        for task_id, state in self.actual.items():
            if self._told[task_id] != state:
                self._told[task_id] = state
                due_ns = max([now + self.pace.report(), *(due for due, *_ in self._letters[-1:])])
                self._letters.append((due_ns, task_id, state))
                self._wake_later(due_ns, now)
        arrived: dict[str, TaskState] = {}
        while self._letters and self._letters[0][0] <= now:
            _, task_id, state = self._letters.pop(0)
            arrived[task_id] = state
        return arrived

    def say_all(self) -> None:
        """As after a new session: every state is told again."""
        self._told = dict.fromkeys(self.actual, ASSIGNED)
        self._letters.clear()

    def say_again(self, task_id: str) -> None:
        """The managers could not take the last state of a task."""
        if task_id in self._told:
            self._told[task_id] = ASSIGNED

    def _following(self, task_id: str) -> TaskState | None:
        state, desired = self.actual[task_id], self._assigned[task_id]
        if self.stalled or state > RUNNING:
            return None
        if desired > RUNNING:
            return SHUTDOWN
        if state == PREPARING and self._images[task_id] == "missing":
            return REJECTED
        if state == STARTING and self._images[task_id] == "bad":
            return FAILED
        return _NEXT[state] if state < min(desired, RUNNING) else None

    def _done_ns(self, task_id: str, following: TaskState, now: int) -> int:
        step, done_ns = self._under_way.get(task_id, (None, 0))
        if step != following:
            running = self.actual[task_id] >= STARTING
            took = self.pace.stop() if following == SHUTDOWN and running else self.pace.step()
            done_ns = now + took
            self._under_way[task_id] = (following, done_ns)
            self._wake_later(done_ns, now)
        return done_ns

    def _wake_later(self, due_ns: int, now: int) -> None:
        if due_ns > now:
            self._wake(due_ns)
