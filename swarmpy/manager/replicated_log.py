"""The one narrow door between the store and whatever replicates it.

Nothing outside `manager/raft` may know which engine is behind this. The store is the state machine; the log calls it
in index order, on the event loop's thread, and it must be deterministic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from swarmpy.errors import Unavailable

__all__ = ["Leadership", "LogMember", "NotLeader", "ReplicatedLog", "StateMachine"]


class NotLeader(Unavailable):
    """This member does not lead, or lost the lead before the proposal was committed.

    After `lost=True` the proposal may still be committed by the next leader; the caller re-reads before it retries.
    """

    def __init__(self, leader_addr: str | None, *, lost: bool = False) -> None:
        super().__init__(
            f"this manager is not the leader; the leader is {leader_addr}"
            if leader_addr
            else "the swarm has no leader: a majority of managers must be reachable"
        )
        self.leader_addr = leader_addr
        self.lost = lost


@dataclass(frozen=True, slots=True)
class LogMember:
    """One voter or learner, as the last committed configuration has it."""

    raft_id: int
    node_id: str
    addr: str            # host:port
    voter: bool
    reachable: bool      # as this member sees it
    leader: bool


@dataclass(frozen=True, slots=True)
class Leadership:
    """Who leads, as this member sees it. `term` grows with every change."""

    term: int
    is_leader: bool      # and has applied everything committed before its term: it may serve
    leader_addr: str | None    # of one that serves, as far as this member has applied the log


class StateMachine(Protocol):
    """What the log drives. Called on the event loop's thread, one at a time, in index order; `load` alone, and what
    `snapshot` returns, are called on another, so that a large state holds nobody up."""

    def apply(self, index: int, data: bytes) -> object:
        """Apply one committed entry. The return value, or the SwarmpyError it returns, is the proposer's answer.

        It never raises for bad content: a refused transaction is *returned* as a SwarmpyError, which `propose` raises.
        """

    def snapshot(self) -> Callable[[], bytes]:
        """Hold on to the whole state as it is after the last applied index, at little cost.

        What is returned gives it as bytes. It is called once, on any thread, while further entries are applied.
        """

    def load(self, index: int, data: bytes) -> Callable[[], None]:
        """Read a snapshot that was taken at `index`, on any thread; the state is as it was.

        What is returned replaces the whole state. It is called on the event loop's thread, and nothing is applied
        between the two.
        """


class ReplicatedLog(Protocol):
    """A durable, ordered log shared by the managers."""

    @property
    def leadership(self) -> Leadership: ...

    @property
    def applied_index(self) -> int: ...

    async def propose(self, data: bytes) -> object:
        """Commit one entry and return what `StateMachine.apply` returned for it on this member.

        Raises NotLeader, or the SwarmpyError that `apply` returned. Many proposals may be in flight at once: they are
        committed in call order.
        """

    async def read_barrier(self) -> None:
        """Return once this member's state includes every write acknowledged before the call (Raft paper, section 8).

        Works on every member. Raises Unavailable when no leader answers in time.
        """

    def members(self) -> tuple[LogMember, ...]: ...

    def on_leadership(self, callback: Callable[[Leadership], None]) -> None:
        """Have `callback` called on the loop's thread at every change, beginning with the present state."""

    async def add_member(self, raft_id: int, node_id: str, addr: str) -> None:
        """Add a learner, wait until it has caught up, make it a voter. Leader only. Idempotent."""

    async def remove_member(self, raft_id: int) -> None:
        """Leader only. Refused with Conflict when the rest could not form a majority."""

    async def transfer_leadership(self) -> None:
        """Hand over to the most up-to-date other voter and return once it leads. No-op when alone or not leading."""

    async def close(self) -> None: ...
