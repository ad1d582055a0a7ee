"""What Raft members say to each other and what the core hands its driver, all as values.

Owns    the vocabulary: entries, membership, snapshots, messages, Ready. No behaviour beyond reading itself.
Source  Raft paper (Ongaro and Ousterhout, 2014), Figures 2 and 13; thesis (Ongaro, 2014), 3.10, 4, 6.4, 9.6.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

__all__ = [
    "Append",
    "AppendResponse",
    "Decided",
    "Entry",
    "EntryKind",
    "HardState",
    "Heartbeat",
    "HeartbeatResponse",
    "Message",
    "ReadRequest",
    "ReadResponse",
    "ReadState",
    "Ready",
    "RemovedNotice",
    "Snapshot",
    "SnapshotChunk",
    "SnapshotResponse",
    "TimeoutNow",
    "VoteRequest",
    "VoteResponse",
    "make_entries",
]


class EntryKind(enum.IntEnum):
    NORMAL = 0    # the state machine's
    NOOP = 1      # a new leader's first, so that it can commit what earlier terms left (Raft paper, 5.4.2 and 8)
    CONFIG = 2    # an encoded Change of the membership


class Entry(NamedTuple):
    """One position of the log.

    A tuple and not a dataclass: tens of thousands are made per second, and this costs less than half.
    """

    index: int    # type: ignore[assignment]  # hides tuple.index, which means nothing for an entry
    term: int
    kind: EntryKind
    data: bytes


_make_entry = partial(tuple.__new__, Entry)


def make_entries(
    indexes: Iterable[int], terms: Iterable[int], kinds: Iterable[EntryKind], datas: Iterable[bytes]
) -> list[Entry]:
    """Entries from their columns, as far as the shortest goes, without a call in Python for each."""
    return list(map(_make_entry, zip(indexes, terms, kinds, datas, strict=False)))


class HardState(NamedTuple):
    """What a member must never forget (Raft paper, Figure 2).

    `commit` may lag: it is written along with whatever is written next, and never alone.
    """

    term: int = 0
    vote: int = 0    # raft id, 0 for none
    commit: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state machine and the membership, as of the entry at `index`."""

    index: int
    term: int
    membership: bytes    # encoded
    data: bytes = field(repr=False)


@dataclass(slots=True)
class Message:
    """From one member to another. `term` is the sender's, save for a pre-vote, where it is the one asked for.

    Nobody changes a message. It is not frozen because making one would take three times as long.
    """

    sender: int
    to: int
    term: int

    @property
    def after_disk(self) -> bool:
        """Whether it promises something the sender must not forget."""
        return False


@dataclass(slots=True)
class VoteRequest(Message):
    """RequestVote, or with `pre` the question whether one would be worth it (thesis, 9.6).

    Question and answer of a pre-vote promise nothing, so they wait for no disk: one that is slow at the moment does not
    hold up who asks until the next in turn asks too, and both stand.
    """

    last_index: int
    last_term: int
    pre: bool
    forced: bool    # the leader itself asked for this election; its lease does not stand against it

    @property
    def after_disk(self) -> bool:
        return not self.pre


@dataclass(slots=True)
class VoteResponse(Message):
    pre: bool
    granted: bool

    @property
    def after_disk(self) -> bool:
        return not self.pre


@dataclass(slots=True)
class Append(Message):
    """AppendEntries with entries, or without as a probe."""

    prev_index: int
    prev_term: int
    commit: int
    entries: tuple[Entry, ...]


@dataclass(slots=True)
class AppendResponse(Message):
    """`index` is the last entry known to match; of a rejected append, the `prev_index` that was refused.

    The hint is the last entry of the follower that could match (Raft paper, end of 5.3, sharpened by its term).
    """

    index: int
    rejected: bool = False
    hint_index: int = 0
    hint_term: int = 0

    @property
    def after_disk(self) -> bool:
        return True


@dataclass(slots=True)
class Heartbeat(Message):
    """`commit` never passes what the follower is known to hold. `read` numbers the leader's read round.

    What is committed travels with the next append or heartbeat, and not by itself: a message of its own for each commit
    would cost a third of the throughput. A read on a follower waits for no tick, since its round is a heartbeat.
    """

    commit: int
    read: int


@dataclass(slots=True)
class HeartbeatResponse(Message):
    read: int


@dataclass(slots=True)
class SnapshotChunk(Message):
    """Bytes [offset, offset + len(data)) of a snapshot of `size` bytes."""

    index: int
    index_term: int
    membership: bytes
    size: int
    offset: int
    data: bytes = field(repr=False)


@dataclass(slots=True)
class SnapshotResponse(Message):
    """The follower holds the first `received` bytes of the snapshot at `index`."""

    index: int
    received: int


@dataclass(slots=True)
class ReadRequest(Message):
    """A follower or learner asks for a read index (thesis, 6.4)."""

    context: int


@dataclass(slots=True)
class ReadResponse(Message):
    context: int
    index: int


@dataclass(slots=True)
class TimeoutNow(Message):
    """Leadership transfer: campaign at once (thesis, 3.10)."""


@dataclass(slots=True)
class RemovedNotice(Message):
    """The receiver is no longer a member; raft ids are never used twice, so this cannot be outdated."""


@dataclass(slots=True)
class Decided(Message):
    """The entry at `index` of `index_term` is committed: true in every term, whoever says it (Log Matching)."""

    index: int
    index_term: int


@dataclass(frozen=True, slots=True)
class ReadState:
    """The read numbered `context` may be served once `index` is applied."""

    context: int
    index: int


class Ready(NamedTuple):
    """Work the driver owes the core, in the order it is done.

    `early` leaves at once, beside the write (thesis, 10.2.1): nothing in it promises what is not yet durable.
    `hard_state`, `snapshot`, `entries` and the compaction are one transaction; a hard state alone that differs in
    `commit` only need not be written (`must_write` says so). `messages` leave once it, and every earlier one, is
    durable; then the driver calls `advance`. `restore` and `committed` go to the state machine at once: they are
    durable on a majority, whatever becomes of this member.
    """

    number: int                        # counts Readys of this core, from 1
    early: tuple[Message, ...]
    hard_state: HardState
    snapshot: Snapshot | None          # replaces the stored one
    entries: tuple[Entry, ...]         # replace whatever is stored from entries[0].index on
    compact: int                       # stored entries up to here may go; 0 for none
    must_write: bool
    messages: tuple[Message, ...]
    restore: Snapshot | None           # the stored log is dropped, the state machine replaced
    committed: tuple[Entry, ...]       # applied in index order
    reads: tuple[ReadState, ...]
