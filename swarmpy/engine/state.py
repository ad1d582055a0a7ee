"""The states of a container and the only ways between them.

Owns    the table of transitions, and the words in which a request that does not fit the present state is refused. Pure.
Source  Docker Engine API, definition ContainerState; moby answers 304 for a start or stop that changes nothing.

    created ──start──► running ──exit──► exited ──start──► running
       │                │  ▲                │ ▲
       │           pause│  │unpause         │ │give up / stop
       │                ▼  │                │ │
       │               paused      exit──► restarting ──back-off over──► running
       └──remove──► removing ◄──remove── exited       (a removal that failed: dead)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from swarmpy.errors import Conflict, Internal

__all__ = ["ContainerState", "Health", "HealthResult", "Status", "move", "require_running"]


class Status(Enum):
    """`State.Status`."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    EXITED = "exited"
    REMOVING = "removing"
    DEAD = "dead"


_MOVES: dict[Status, frozenset[Status]] = {
    Status.CREATED: frozenset({Status.RUNNING, Status.REMOVING, Status.EXITED}),
    Status.RUNNING: frozenset({Status.PAUSED, Status.EXITED, Status.RESTARTING}),
    Status.PAUSED: frozenset({Status.RUNNING, Status.EXITED, Status.RESTARTING}),
    Status.RESTARTING: frozenset({Status.RUNNING, Status.EXITED}),
    Status.EXITED: frozenset({Status.RUNNING, Status.RESTARTING, Status.REMOVING}),
    Status.REMOVING: frozenset({Status.DEAD}),
    Status.DEAD: frozenset({Status.REMOVING}),
}


@dataclass(frozen=True)
class HealthResult:
    """One probe: when, its exit code (0 well, -1 when it timed out) and the first 4 KiB of what it wrote."""

    start_ns: int
    end_ns: int
    exit_code: int
    output: str


@dataclass(frozen=True)
class Health:
    """`State.Health`: "starting", "healthy" or "unhealthy", and the last five probes."""

    status: str = "starting"
    failing_streak: int = 0
    log: tuple[HealthResult, ...] = ()


@dataclass(frozen=True)
class ContainerState:
    """What is observed of a container. Changed by `move` and by the room's loops, persisted by `RecordStore`."""

    status: Status = Status.CREATED
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_ns: int = 0
    finished_ns: int = 0
    restart_count: int = 0
    stopped_by_user: bool = False
    """An operator stopped it: no policy restarts it now, and `unless-stopped` not with the daemon either."""
    health: Health | None = field(default=None)

    @property
    def running(self) -> bool:
        """A process exists. As in Docker, a paused container runs, and one that waits for its restart counts too."""
        return self.status in (Status.RUNNING, Status.PAUSED, Status.RESTARTING)


def move(state: ContainerState, to: Status, **changes: Any) -> ContainerState:
    """`state` after the transition to `to`; `Internal` for a move outside the table."""
    if to is not state.status and to not in _MOVES[state.status]:
        raise Internal(f"a container cannot go from {state.status.value} to {to.value}")
    return replace(state, status=to, **changes)


def require_running(state: ContainerState, name: str) -> None:
    """`Conflict` unless processes of the container can be reached now."""
    if state.status is Status.RESTARTING:
        raise Conflict(f"Container {name} is restarting, wait until the container is running")
    if state.status not in (Status.RUNNING, Status.PAUSED):
        raise Conflict(f"container {name} is not running")
