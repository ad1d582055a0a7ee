"""The log as one member holds it in memory: what is stored since the last compaction, and how far it has come.

Owns    the entries, and the marks on them:

            offset < first <= applied <= committed <= last
                               stable, handed <= last

        `committed` is moved by the role, `applied` by handing entries to the state machine, `handed` by handing
        entries to the disk, `stable` by the disk's word that they are durable.
Law     A committed entry is never replaced; an attempt raises (Raft paper, State Machine Safety).
Source  Raft paper, 5.3, 5.4.1 and 7.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate

from swarmpy.manager.raft.messages import Entry, Snapshot

__all__ = ["EntryLog"]


class EntryLog:
    """Indexes count from 1. `offset` is the last compacted one, whose term is still known."""

    def __init__(self, snapshot: Snapshot | None, offset: int, offset_term: int, entries: Iterable[Entry]) -> None:
        self.snapshot = snapshot
        self.offset = offset
        self.offset_term = offset_term
        self._entries = list(entries)
        self.last_index = offset + len(self._entries)
        self._sizes = list(accumulate(map(_size, self._entries), initial=0))    # bytes of data before each, and of all
        self.committed = self.applied = snapshot.index if snapshot else 0
        self.stable = self.handed = self.last_index
        self._writes: deque[tuple[int, int]] = deque()    # (number of the Ready, last index it makes durable)

    # Reading.

    @property
    def first_index(self) -> int:
        return self.offset + 1

    @property
    def last_term(self) -> int:
        return self._entries[-1].term if self._entries else self.offset_term

    def term(self, index: int) -> int | None:
        """The term of the entry at `index`; None when it was compacted or is not there yet."""
        if index > self.offset:
            position = index - self.offset - 1
            return self._entries[position].term if position < len(self._entries) else None
        if index == self.offset:
            return self.offset_term
        if self.snapshot is not None and index == self.snapshot.index:
            return self.snapshot.term
        return None

    def slice(self, first: int, last: int, max_bytes: int | None = None) -> tuple[Entry, ...]:
        """Entries first..last, cut at `max_bytes` of data but never to none."""
        start, end = first - self.offset - 1, last - self.offset
        if max_bytes is not None and end - start > 1:
            most = bisect_right(self._sizes, self._sizes[start] + max_bytes, start, end + 1) - 1
            end = max(start + 1, most)
        return tuple(self._entries[start:end])

    def size(self, first: int, last: int) -> int:
        """Bytes of data in the entries first..last."""
        return self._sizes[last - self.offset] - self._sizes[first - self.offset - 1]

    def matches(self, index: int, term: int) -> bool:
        return self.term(index) == term

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log ending so may lead this member (Raft paper, 5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def last_at_or_below(self, index: int, term: int) -> tuple[int, int]:
        """The last entry at or before `index` whose term is at most `term`, as (index, term).

        Nothing between it and `index` can match a log whose entry at `index` has that term, since terms never fall.
        """
        index = min(index, self.last_index)
        while index > self.offset:
            found = self._entries[index - self.offset - 1].term
            if found <= term:
                return index, found
            index -= 1
        return index, (self.offset_term if index == self.offset else 0)

    # Writing.

    def extend(self, entries: Sequence[Entry]) -> None:
        """The leader's own: they follow the last."""
        self._entries.extend(entries)
        self.last_index += len(entries)
        self._sizes.extend(accumulate(map(_size, entries), initial=self._sizes.pop()))

    def merge(self, entries: Sequence[Entry]) -> None:
        """A follower's: replace the first entry that conflicts and all after it, keep what agrees (5.3)."""
        for position, entry in enumerate(entries):
            if not self.matches(entry.index, entry.term):
                if entry.index <= self.last_index:
                    self._truncate(entry.index)
                self.extend(entries[position:])
                return

    def _truncate(self, index: int) -> None:
        """Drop the entry at `index` and all after. Writes in flight no longer make those durable."""
        if index <= self.committed:
            raise AssertionError(f"entry {index} is committed (up to {self.committed}) and would be replaced")
        del self._entries[index - self.offset - 1 :]
        self.last_index = index - 1
        del self._sizes[index - self.offset :]
        self.stable = min(self.stable, index - 1)
        self.handed = min(self.handed, index - 1)
        self._writes = deque((number, min(last, index - 1)) for number, last in self._writes)

    def commit_to(self, index: int) -> None:
        """Entries up to `index` are committed; never goes back."""
        if index > self.last_index:
            raise AssertionError(f"commit {index} lies beyond the last entry {self.last_index}: the log was lost")
        self.committed = max(self.committed, index)

    # To and from the driver.

    def hand_over(self, number: int) -> tuple[Entry, ...]:
        """Entries the disk has not been given; Ready `number` makes them durable."""
        entries = self.slice(self.handed + 1, self.last_index) if self.handed < self.last_index else ()
        self.handed = self.last_index
        self._writes.append((number, self.last_index))
        return entries

    def written(self, number: int) -> None:
        """Ready `number`, and all before it, is durable."""
        while self._writes and self._writes[0][0] <= number:
            self.stable = max(self.stable, self._writes.popleft()[1])

    def take_committed(self, max_bytes: int) -> tuple[Entry, ...]:
        """The next committed entries for the state machine."""
        if self.applied == self.committed:
            return ()
        entries = self.slice(self.applied + 1, self.committed, max_bytes)
        self.applied = entries[-1].index
        return entries

    def compact(self, snapshot: Snapshot, keep: int) -> int:
        """Remember a snapshot of what is applied and drop all but `keep` entries before it. Returns the new offset."""
        if not (snapshot.index <= self.applied and self.matches(snapshot.index, snapshot.term)):
            raise AssertionError(f"snapshot at {snapshot.index} is not of applied state (up to {self.applied})")
        self.snapshot = snapshot
        offset = max(self.offset, snapshot.index - keep)
        term = self.term(offset)
        if term is None:
            raise AssertionError(f"entry {offset} is gone before its compaction")
        del self._entries[: offset - self.offset]
        del self._sizes[: offset - self.offset]
        self.offset, self.offset_term = offset, term
        return offset

    def restore(self, snapshot: Snapshot) -> None:
        """Start over from another member's snapshot: no entry of ours is kept."""
        self.snapshot = snapshot
        self._entries.clear()
        self._sizes = [0]
        self.offset, self.offset_term = snapshot.index, snapshot.term
        self.committed = self.applied = self.handed = self.last_index = snapshot.index
        self.stable = min(self.stable, snapshot.index)
        self._writes = deque((number, min(last, snapshot.index)) for number, last in self._writes)


def _size(entry: Entry) -> int:
    return len(entry.data)
