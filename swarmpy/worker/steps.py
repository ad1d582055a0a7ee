"""The life of one task on its node: which step comes next, and what its outcome makes of the task.

Owns    the table below; pure. One step is taken at a time, each moves the task forward and is reported, so a daemon
        that dies between any two goes on from the last state it wrote down: every piece of work can be done twice.

    desired READY or RUNNING                                      desired beyond RUNNING

    ASSIGNED ──► ACCEPTED ──► PREPARING ──prepare──► READY        ASSIGNED … READY ──discard──► SHUTDOWN
                                  │ fails                         STARTING, RUNNING ───stop──► SHUTDOWN
                                  ▼
                               REJECTED
    READY (desired RUNNING) ──► STARTING ──start──► RUNNING ──wait──► COMPLETE
                                   │ fails             │ exit code not 0
                                   └────► FAILED ◄─────┘

Source  the task model that Docker's swarm documentation describes; messages are the ones its users know.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from swarmpy.rpc.types_pb2 import (
    ACCEPTED,
    ASSIGNED,
    COMPLETE,
    FAILED,
    NEW,
    PENDING,
    PREPARING,
    READY,
    REJECTED,
    RUNNING,
    SHUTDOWN,
    STARTING,
    TaskState,
)

__all__ = ["Step", "Work", "next_step"]


class Work(Enum):
    """What a step does to the container."""

    NONE = "none"
    PREPARE = "prepare"          # image here, container made
    START = "start"              # and, where it has a health check, until it is healthy
    WAIT = "wait"                # until it ends
    STOP = "stop"                # signal, grace, kill
    DISCARD = "discard"          # nothing of it is left


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its work, where success and failure lead, and what is said of either."""

    work: Work
    success: TaskState
    message: str
    failure: TaskState = FAILED

    @property
    def interruptible(self) -> bool:
        """Whether a task that must stop need not wait for the work to end."""
        return self.work in (Work.PREPARE, Work.START, Work.WAIT)


_ACCEPT = Step(Work.NONE, ACCEPTED, "accepted")
_UP: dict[TaskState, Step] = {
    NEW: _ACCEPT,
    PENDING: _ACCEPT,
    ASSIGNED: _ACCEPT,
    ACCEPTED: Step(Work.NONE, PREPARING, "preparing"),
    PREPARING: Step(Work.PREPARE, READY, "prepared", REJECTED),
    READY: Step(Work.NONE, STARTING, "starting"),
    STARTING: Step(Work.START, RUNNING, "started"),
    RUNNING: Step(Work.WAIT, COMPLETE, "finished"),
}
_DISCARD = Step(Work.DISCARD, SHUTDOWN, "shutdown")
_STOP = Step(Work.STOP, SHUTDOWN, "shutdown")
_DOWN: dict[TaskState, Step] = {
    **dict.fromkeys((NEW, PENDING, ASSIGNED, ACCEPTED, PREPARING, READY), _DISCARD),
    STARTING: _STOP,
    RUNNING: _STOP,
}


def next_step(state: TaskState, desired: TaskState) -> Step | None:
    """The step from `state` toward `desired`; None when the task is where it should be, or has ended."""
    if desired > RUNNING:
        return _DOWN.get(state)
    if state >= desired and state < RUNNING:
        return None
    return _UP.get(state)
