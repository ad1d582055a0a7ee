"""Which way a task may go: every move of a task's observed and desired state is in one of two tables here.

    observed   NEW > PENDING > ASSIGNED > ACCEPTED > PREPARING > READY > STARTING > RUNNING
               > one of COMPLETE, SHUTDOWN, FAILED, REJECTED, ORPHANED, which are final
    desired    READY > RUNNING > COMPLETE or SHUTDOWN > REMOVE

A task is one-shot: both only move forward, and may skip. REMOVE is only ever desired, and says that the task may be
deleted once it has stopped. The store refuses every other move, whoever asks for it.
"""

from __future__ import annotations

from swarmpy.errors import InvalidArgument
from swarmpy.rpc.types_pb2 import (
    ACCEPTED,
    ASSIGNED,
    COMPLETE,
    FAILED,
    NEW,
    ORPHANED,
    PENDING,
    PREPARING,
    READY,
    REJECTED,
    REMOVE,
    RUNNING,
    SHUTDOWN,
    STARTING,
    TaskState,
)

__all__ = ["DESIRED_MOVES", "OBSERVED_MOVES", "check_desired", "check_observed", "may_report"]

_FINAL = frozenset({COMPLETE, SHUTDOWN, FAILED, REJECTED, ORPHANED})
_ALIVE = (NEW, PENDING, ASSIGNED, ACCEPTED, PREPARING, READY, STARTING, RUNNING)

OBSERVED_MOVES: dict[TaskState, frozenset[TaskState]] = {
    **{state: frozenset(_ALIVE[place:]) | _FINAL for place, state in enumerate(_ALIVE)},
    **{state: frozenset({state}) for state in _FINAL},
}

DESIRED_MOVES: dict[TaskState, frozenset[TaskState]] = {
    READY: frozenset({READY, RUNNING, COMPLETE, SHUTDOWN, REMOVE}),
    RUNNING: frozenset({RUNNING, COMPLETE, SHUTDOWN, REMOVE}),
    COMPLETE: frozenset({COMPLETE, SHUTDOWN, REMOVE}),
    SHUTDOWN: frozenset({SHUTDOWN, REMOVE}),
    REMOVE: frozenset({REMOVE}),
}


def may_report(old: TaskState, new: TaskState) -> bool:
    """Whether an observation of `new` is news after `old`; a report that is not is stale and to be dropped."""
    return new in OBSERVED_MOVES[old]


def check_observed(task_id: str, old: TaskState, new: TaskState) -> None:
    """Raises InvalidArgument unless a task observed in `old` may next be observed in `new`."""
    if new not in OBSERVED_MOVES[old]:
        raise InvalidArgument(f"task {task_id}: observed state cannot go from {_name(old)} to {_name(new)}")


def check_desired(task_id: str, old: TaskState, new: TaskState) -> None:
    """Raises InvalidArgument unless the desired state may change from `old` to `new`."""
    if new not in DESIRED_MOVES.get(old, ()):
        raise InvalidArgument(f"task {task_id}: desired state cannot go from {_name(old)} to {_name(new)}")


def _name(state: TaskState) -> str:
    return TaskState.Name(state)
