"""What must hold after every step of every run.

Election Safety, Log Matching, Leader Completeness and State Machine Safety are those of the Raft paper, Figure 3.
Linearizability: every client operation names its place in the one order of the log (a write its index, a read the last
index it saw), and no operation may come before one that had completed when it was called.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from swarmpy.manager.raft.core import Raft
from swarmpy.manager.raft.messages import Entry

__all__ = ["Broken", "Laws", "digest_after"]


class Broken(AssertionError):
    """A law does not hold."""


@dataclass
class Laws:
    leaders: dict[int, int] = field(default_factory=dict)                        # term -> member
    seen: dict[tuple[int, int], tuple[int, bytes]] = field(default_factory=dict)
    committed: dict[int, tuple[int, bytes]] = field(default_factory=dict)        # index -> term, data
    last_committed: int = 0
    states: dict[int, bytes] = field(default_factory=dict)                       # applied index -> digest
    acknowledged: dict[int, bytes] = field(default_factory=dict)                 # index -> data of answered writes
    floor: int = 0                                                               # latest place of a completed operation
    writes: int = 0
    reads: int = 0

    def elected(self, member: int, core: Raft) -> None:
        """Election Safety, and Leader Completeness."""
        other = self.leaders.setdefault(core.term, member)
        if other != member:
            raise Broken(f"term {core.term} has two leaders, {other} and {member}")
        for index in range(core.log.offset + 1, self.last_committed + 1):
            if index in self.committed and core.log.term(index) != self.committed[index][0]:
                raise Broken(f"leader {member} of term {core.term} lacks the committed entry {index}")
        if core.log.last_index < self.last_committed:
            raise Broken(f"leader {member} ends at {core.log.last_index}, committed is {self.last_committed}")

    def exist(self, member: int, before: int, entries: tuple[Entry, ...]) -> None:
        """Log Matching, by induction: an index and term name one entry and one predecessor, on every member.

        `before` is the predecessor's term. Entries exist once they are durable or were sent; those that a crash took
        from a member before it had told anyone never did.
        """
        for entry in entries:
            known = self.seen.setdefault((entry.index, entry.term), (before, entry.data))
            if known != (before, entry.data):
                raise Broken(f"member {member} holds another entry {entry.index} of term {entry.term} than was seen")
            before = entry.term

    def decided(self, member: int, entry: Entry) -> None:
        """State Machine Safety: one entry per index, for ever."""
        known = self.committed.setdefault(entry.index, (entry.term, entry.data))
        if known != (entry.term, entry.data):
            raise Broken(f"member {member} applies entry {entry.index} of term {entry.term}, decided was {known}")
        self.last_committed = max(self.last_committed, entry.index)

    def state(self, member: int, index: int, digest: bytes) -> None:
        """The same history makes the same state, also through snapshots."""
        if self.states.setdefault(index, digest) != digest:
            raise Broken(f"member {member} is in another state after entry {index}")

    def wrote(self, floor: int, index: int, data: bytes) -> None:
        """A write was answered; `floor` is what had completed when it was called."""
        self.writes += 1
        if index <= floor:
            raise Broken(f"the write at {index} was called after an operation at {floor} had completed")
        self.acknowledged[index] = data
        self.floor = max(self.floor, index)

    def read(self, floor: int, index: int) -> None:
        """A read saw the state after `index`."""
        self.reads += 1
        if index < floor:
            raise Broken(f"a read saw the state at {index} after an operation at {floor} had completed")
        self.floor = max(self.floor, index)

    def at_the_end(self) -> None:
        """No acknowledged write was lost."""
        for index, data in self.acknowledged.items():
            if self.committed.get(index, (0, b""))[1] != data:
                raise Broken(f"the acknowledged write at {index} is gone")


def digest_after(digest: bytes, entry: Entry) -> bytes:
    return hashlib.blake2b(digest + entry.data, digest_size=8, key=entry.index.to_bytes(8, "little")).digest()
