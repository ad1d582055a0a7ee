"""One member as its driver would run it, on a simulated disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from swarmpy.manager.raft.core import Config, Raft, Refused
from swarmpy.manager.raft.membership import Change, Membership
from swarmpy.manager.raft.messages import Append, Entry, Message, Ready, Snapshot
from swarmpy.manager.raft.progress import Window
from tests.raft.simulation.disk import Disk
from tests.raft.simulation.laws import Laws, digest_after

__all__ = ["ELECTION_TICKS", "Member"]

ELECTION_TICKS = 5
_WINDOW = Window(appends=4, append_bytes=400, chunks=2, chunk_bytes=64)


@dataclass(slots=True)
class _Write:
    term: int
    floor: int
    data: bytes


class Member:
    """Up or down; while down only the disk is left. The state machine is a digest of everything applied."""

    def __init__(self, raft_id: int, disk: Disk, laws: Laws, random: Random, send: Callable[[Message], None]) -> None:
        self.raft_id = raft_id
        self.disk = disk
        self.up = False
        self._laws = laws
        self._random = random
        self._send = send
        disk.watch(lambda before, entries: laws.exist(raft_id, before, entries))
        self.start()

    def start(self) -> None:
        random = self._random
        config = Config(
            raft_id=self.raft_id,
            election_timeout=lambda: random.randrange(ELECTION_TICKS, 2 * ELECTION_TICKS),
            election_ticks=ELECTION_TICKS,
            max_append_bytes=120,
            max_apply_bytes=200,
            window=_WINDOW,
        )
        durable = self.disk.load()
        self.core = Raft(config, durable)
        self.up = True
        self.applied = 0
        self.digest = b""
        self._led_term = 0
        self._writes: dict[int, _Write] = {}
        self._reads: dict[int, int] = {}                 # context -> floor at the call
        self._confirmed: list[tuple[int, int]] = []      # (index to wait for, floor at the call)
        self._snapshots: list[tuple[int, Membership, bytes, int]] = []    # taken, not yet given to the core
        if durable.snapshot is not None:
            self._restore(durable.snapshot)

    def crash(self) -> None:
        self.up = False
        self.disk.crash(self._random)

    # Clients.

    def write(self, data: bytes) -> bool:
        try:
            index = self.core.propose([data])
        except Refused:
            return False
        self._writes[index] = _Write(self.core.term, self._laws.floor, data)
        return True

    def read(self, context: int) -> None:
        self._reads[context] = self._laws.floor
        self.core.read(context)

    def change(self, change: Change) -> bool:
        try:
            self.core.propose_change(change)
        except Refused:
            return False
        return True

    def take_snapshot(self, keep: int) -> None:
        """The state is taken now; the core may be given it later, when it is further."""
        log = self.core.log
        if log.applied == log.committed == self.applied > (log.snapshot.index if log.snapshot else 0):
            size = self._random.choice((0, 10, 300, 1000))
            data = self.applied.to_bytes(8, "little") + self.digest + bytes(size)
            self._snapshots.append((self.applied, self.core.membership, data, keep))

    def _store_snapshots(self) -> None:
        if self._snapshots and self._random.random() < 0.3:
            while self._snapshots:
                self.core.snapshot_taken(*self._snapshots.pop(0))

    # The loop around the core.

    def pump(self) -> bool:
        """Carry out one Ready. Returns whether there was one; what must be written waits in the disk."""
        core = self.core
        self._store_snapshots()
        self._note_election()
        ready = core.ready()
        if ready is None:
            return False
        self._tell(ready.early)
        if ready.must_write or self.disk.under_way:
            self.disk.submit(ready)
        else:
            self._release(ready)
        if ready.restore is not None:
            self._restore(ready.restore)
        for entry in ready.committed:
            self._apply(entry)
        for state in ready.reads:
            if state.context in self._reads:
                self._confirmed.append((state.index, self._reads.pop(state.context)))
        self._serve_reads()
        if not core.is_leader:
            self._writes.clear()
        return True

    def synced(self, count: int) -> None:
        """The disk finished its `count` oldest writes, as one transaction."""
        for ready in [self.disk.sync() for _ in range(count)]:
            self._release(ready)

    def _release(self, ready: Ready) -> None:
        self._tell(ready.messages)
        self.core.advance(ready.number)

    def _tell(self, messages: tuple[Message, ...]) -> None:
        for message in messages:
            if isinstance(message, Append):
                self._laws.exist(self.raft_id, message.prev_term, message.entries)
            self._send(message)

    def _note_election(self) -> None:
        if self.core.is_leader and self._led_term != self.core.term:
            self._led_term = self.core.term
            self._laws.elected(self.raft_id, self.core)

    def _restore(self, snapshot: Snapshot) -> None:
        self.applied = int.from_bytes(snapshot.data[:8], "little")
        self.digest = snapshot.data[8:16]
        if self.applied != snapshot.index:
            raise AssertionError(f"snapshot {snapshot.index} holds the state of {self.applied}")
        self._laws.state(self.raft_id, self.applied, self.digest)

    def _apply(self, entry: Entry) -> None:
        if entry.index != self.applied + 1:
            raise AssertionError(f"member {self.raft_id} applies {entry.index} after {self.applied}")
        self._laws.decided(self.raft_id, entry, self.core.term)
        self.applied = entry.index
        self.digest = digest_after(self.digest, entry)
        self._laws.state(self.raft_id, self.applied, self.digest)
        write = self._writes.pop(entry.index, None)
        if write is not None and write.term == entry.term:
            self._laws.wrote(write.floor, entry.index, write.data)

    def _serve_reads(self) -> None:
        for index, floor in self._confirmed:
            if index <= self.applied:
                self._laws.read(floor, self.applied)
        self._confirmed = [waiting for waiting in self._confirmed if waiting[0] > self.applied]
