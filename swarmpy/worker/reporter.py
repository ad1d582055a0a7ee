"""Status reports: the newest state of each task, told until the managers have stored it.

Owns    which states are not stored yet; pure. Of a task only its newest state is kept, so a worker that is cut off for
        long owes one state per task, however much happened.
"""

from __future__ import annotations

from swarmpy.rpc.dispatcher_pb2 import StatusReport, TaskStatusUpdate
from swarmpy.rpc.types_pb2 import TaskStatus

__all__ = ["Reporter"]

REPORT_TASKS = 1000              # in one message


class Reporter:
    """Feed it changes; send what `take` gives; tell it what was stored, and when a new session begins."""

    def __init__(self) -> None:
        self._owed: dict[str, TaskStatus] = {}               # not known to be stored
        self._unsent: dict[str, None] = {}                   # of these, not sent in this session; in order
        self._sent: dict[int, dict[str, TaskStatus]] = {}    # sequence -> what that report said
        self._sequence = 0
        self._calm: dict[str, None] = {}                     # unsent too, but of tasks on their way

    def changed(self, task_id: str, status: TaskStatus, *, on_its_way: bool = False) -> None:
        """The task has a new state. The message must not change afterwards.

        A task that is `on_its_way` to the state it is wanted in is soon there: this state can wait for a heartbeat,
        and is not told at all when a further one comes before.
        """
        self._owed[task_id] = status
        if on_its_way:
            self._calm[task_id] = None
        else:
            self._calm.pop(task_id, None)
            self._unsent[task_id] = None

    def forget(self, task_id: str) -> None:
        """The task is gone from the managers' store: nobody wants to know."""
        self._owed.pop(task_id, None)
        self._unsent.pop(task_id, None)
        self._calm.pop(task_id, None)

    def session(self) -> None:
        """A new session: sequences begin anew, and everything owed is sent again."""
        self._sent.clear()
        self._sequence = 0
        self._unsent, self._calm = dict.fromkeys(self._owed), {}

    def take(self, *, heartbeat_due: bool = False) -> StatusReport | None:
        """The next report to send. None when all is sent or can wait, or the one before is not stored yet.

        One is under way at a time, so a leader that is busy hears less often, and then of more tasks at once.
        """
        if heartbeat_due:
            self._unsent |= self._calm
            self._calm = {}
        if not self._unsent or self._sent:
            return None
        self._sequence += 1
        said: dict[str, TaskStatus] = {}
        for task_id in list(self._unsent)[:REPORT_TASKS]:
            del self._unsent[task_id]
            said[task_id] = self._owed[task_id]
        self._sent[self._sequence] = said
        updates = [TaskStatusUpdate(task_id=task_id, status=status) for task_id, status in said.items()]
        return StatusReport(sequence=self._sequence, updates=updates)

    def stored(self, sequence: int) -> None:
        """All reports up to this one are stored."""
        for number in [key for key in self._sent if key <= sequence]:
            for task_id, status in self._sent.pop(number).items():
                if self._owed.get(task_id) is status:
                    del self._owed[task_id]

    @property
    def waits_for_heartbeat(self) -> bool:
        """Whether there are states that are told when the next heartbeat is due."""
        return bool(self._calm)

    @property
    def owed(self) -> int:
        """How many tasks have a state that is not known to be stored."""
        return len(self._owed)
