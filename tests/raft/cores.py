"""Cores without a driver: every write is durable at once, messages wait in the open until a test delivers them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from swarmpy.manager.raft.core import Config, Durable, Raft
from swarmpy.manager.raft.membership import Change, ChangeKind, Membership, Peer
from swarmpy.manager.raft.messages import Entry, EntryKind, HardState, Message, Snapshot
from swarmpy.manager.raft.progress import Window
from swarmpy.manager.raft.role import Campaign

__all__ = ["Cores", "founded", "normal"]

ELECTION_TICKS = 10


def normal(index: int, term: int, data: bytes = b"x") -> Entry:
    return Entry(index, term, EntryKind.NORMAL, data)


def founded(
    voters: Iterable[int],
    *,
    learners: Iterable[int] = (),
    entries: tuple[Entry, ...] = (),
    term: int = 1,
    commit: int = 0,
) -> Durable:
    """A disk whose snapshot at index 1, term 1, holds these members, with a log from index 2 on."""
    membership = Membership()
    for member in (*voters, *learners):
        membership = membership.after(Change(ChangeKind.ADD_LEARNER, member, Peer(f"n{member}", f"h{member}:1")))
    for member in voters:
        membership = membership.after(Change(ChangeKind.PROMOTE, member))
    snapshot = Snapshot(1, 1, membership.encode(), b"")
    return Durable(HardState(term, 0, max(commit, 1)), snapshot, 1, 1, entries)


class Cores:
    """`timeout` is what every election timeout draws."""

    def __init__(self, disks: dict[int, Durable], timeout: int = ELECTION_TICKS, window: Window | None = None) -> None:
        self.window = window or Window()
        self.timeout = timeout
        self.members = {member: self._core(member, disk) for member, disk in disks.items()}
        self.waiting: list[Message] = []
        self.applied: dict[int, list[Entry]] = {member: [] for member in disks}
        self.reads: dict[int, list[tuple[int, int]]] = {member: [] for member in disks}
        self.stored: dict[int, list[Entry]] = {member: list(disk.entries) for member, disk in disks.items()}
        self.states: dict[int, HardState] = {member: disk.hard_state for member, disk in disks.items()}

    @classmethod
    def of(cls, size: int, learners: int = 0) -> Cores:
        voters = range(1, size + 1)
        rest = range(size + 1, size + learners + 1)
        return cls({member: founded(voters, learners=rest) for member in (*voters, *rest)})

    def _core(self, member: int, disk: Durable) -> Raft:
        config = Config(member, lambda: self.timeout, ELECTION_TICKS, max_append_bytes=1 << 10, window=self.window)
        return Raft(config, disk)

    def __getitem__(self, member: int) -> Raft:
        return self.members[member]

    def settle(self, member: int, *, durable: bool = True) -> None:
        """Carry out all of a member's Readys; what it sends waits. Without `durable` its disk never answers."""
        core = self.members[member]
        while (ready := core.ready()) is not None:
            self.waiting += ready.early
            self.applied[member] += ready.committed
            self.reads[member] += [(state.context, state.index) for state in ready.reads]
            if durable:
                stored = self.stored[member]
                if ready.entries:
                    stored[:] = [entry for entry in stored if entry.index < ready.entries[0].index]
                stored += ready.entries
                self.states[member] = ready.hard_state
                self.waiting += ready.messages
                core.advance(ready.number)

    def take(self, kind: type[Message], to: int | None = None) -> list[Message]:
        """Remove and return the waiting messages of one kind."""
        found = [m for m in self.waiting if isinstance(m, kind) and to in (None, m.to)]
        self.waiting = [m for m in self.waiting if m not in found]
        return found

    def deliver(self, unless: Callable[[Message], bool] = lambda message: False) -> None:
        """Deliver until nothing waits; messages for which `unless` holds are lost."""
        for member in self.members:
            self.settle(member)
        while self.waiting:
            message = self.waiting.pop(0)
            if message.to in self.members and not unless(message):
                self.members[message.to].step(message)
                self.settle(message.to)

    def elect(self, member: int, unless: Callable[[Message], bool] = lambda message: False) -> Raft:
        self.members[member].campaign(Campaign.PRE)
        self.deliver(unless)
        return self.members[member]

    def tick(self, *members: int, times: int = 1) -> None:
        for _ in range(times):
            for member in members:
                self.members[member].tick()
                self.settle(member)


def without(*members: int) -> Callable[[Message], bool]:
    """Nothing passes to or from these."""
    return lambda message: message.to in members or message.sender in members
