"""A disk that completes writes in order and some time after they were asked for; a crash may lose what is under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from swarmpy.manager.raft.core import Durable
from swarmpy.manager.raft.membership import Change, ChangeKind, Membership, Peer
from swarmpy.manager.raft.messages import Entry, EntryKind, HardState, Ready, Snapshot

__all__ = ["Disk", "founding_entries"]


class Disk:
    """What is durable, and what was handed over and is not."""

    def __init__(self, hard_state: HardState | None = None, entries: tuple[Entry, ...] = ()) -> None:
        self._stored: Callable[[int, tuple[Entry, ...]], None] = lambda before, entries: None
        self.hard_state = hard_state or HardState()
        self.snapshot: Snapshot | None = None
        self.offset = 0
        self.offset_term = 0
        self.entries = list(entries)
        self.under_way: deque[Ready] = deque()

    def watch(self, stored: Callable[[int, tuple[Entry, ...]], None]) -> None:
        """Have `stored(term of the predecessor, entries)` called for all that becomes durable."""
        self._stored = stored

    def submit(self, ready: Ready) -> None:
        self.under_way.append(ready)

    def sync(self) -> Ready:
        """The oldest write under way becomes durable."""
        ready = self.under_way.popleft()
        self._write(ready)
        if ready.entries:
            self._stored(self.term(ready.entries[0].index - 1), ready.entries)
        return ready

    def crash(self, random: Random) -> None:
        """Some of the writes under way reached the platter, the later ones did not."""
        for _ in range(random.randint(0, len(self.under_way))):
            self.sync()
        self.under_way.clear()

    def term(self, index: int) -> int:
        return self.offset_term if index == self.offset else self.entries[index - self.offset - 1].term

    def load(self) -> Durable:
        return Durable(self.hard_state, self.snapshot, self.offset, self.offset_term, tuple(self.entries))

    def _write(self, ready: Ready) -> None:
        if not ready.must_write:
            return
        self.hard_state = ready.hard_state
        if ready.snapshot is not None:
            self.snapshot = ready.snapshot
            if ready.restore is not None:
                self.entries.clear()
                self.offset, self.offset_term = ready.snapshot.index, ready.snapshot.term
        if ready.compact > self.offset:
            self.offset_term = self.entries[ready.compact - self.offset - 1].term
            del self.entries[: ready.compact - self.offset]
            self.offset = ready.compact
        if ready.entries:
            first = ready.entries[0].index
            if first > self.offset + len(self.entries) + 1:
                raise AssertionError(f"the disk ends at {self.offset + len(self.entries)} and was given entry {first}")
            del self.entries[first - self.offset - 1 :]
            self.entries.extend(ready.entries)


def founding_entries(voters: int, learners: int) -> tuple[Entry, ...]:
    """The log every founding member begins with: it makes 1..voters voters and the next ones learners."""
    changes: list[Change] = []
    for member in range(1, voters + learners + 1):
        changes.append(Change(ChangeKind.ADD_LEARNER, member, Peer(f"node-{member}", f"host-{member}:1")))
        if member <= voters:
            changes.append(Change(ChangeKind.PROMOTE, member))
    entries = tuple(
        Entry(index, 1, EntryKind.CONFIG, change.encode()) for index, change in enumerate(changes, 1)
    )
    membership = Membership()
    for change in changes:
        membership = membership.after(change)
    if membership.voters != set(range(1, voters + 1)):
        raise AssertionError("the founding entries do not make the voters")
    return entries
