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
    decided_in: dict[int, int] = field(default_factory=dict)                     # index -> committed by this term
    states: dict[int, bytes] = field(default_factory=dict)                       # applied index -> digest
    acknowledged: dict[int, bytes] = field(default_factory=dict)                 # index -> data of answered writes
    floor: int = 0                                                               # latest place of a completed operation
    writes: int = 0
    reads: int = 0

    def elected(self, member: int, core: Raft) -> None:
        """Election Safety, and Leader Completeness: what is committed in a term, leaders of all *later* ones hold.

        The votes of an election may arrive late, when a later leader has committed what the elected one never saw.
        """
        other = self.leaders.setdefault(core.term, member)
        if other != member:
            raise Broken(f"term {core.term} has two leaders, {other} and {member}")
        log = core.log
        for index, (term, _) in self.committed.items():
            if self.decided_in[index] >= core.term or index <= log.offset:
                continue
            if index > log.last_index or log.term(index) != term:
                raise Broken(f"leader {member} of term {core.term} lacks the committed entry {index}")

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

    def decided(self, member: int, entry: Entry, in_term: int) -> None:
        """State Machine Safety: one entry per index, for ever. `in_term` is the member's, as it learns of it."""
        known = self.committed.setdefault(entry.index, (entry.term, entry.data))
        if known != (entry.term, entry.data):
            raise Broken(f"member {member} applies entry {entry.index} of term {entry.term}, decided was {known}")
        self.decided_in[entry.index] = min(in_term, self.decided_in.get(entry.index, in_term))

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
