"""The member's own thread: it gives the core messages, time and proposals in turns, and carries out its Readys.

Owns    the core, its disk and its wires, and the one thread that touches them. A busy event loop delays no heartbeat.
In      from the event loop, at any time: proposals, read barriers, questions, and what came over gRPC.
Out     Reports (reports.py).
Laws    Nothing that promises durability leaves before the disk has it. What comes in while a turn runs is for the next.
Source  Raft paper, 8 (linearizable reads); thesis, 10.2.1 (a leader writes in parallel).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from swarmpy.errors import SwarmpyError
from swarmpy.manager.raft.chronicle import Chronicle
from swarmpy.manager.raft.codec import Codec, Malformed
from swarmpy.manager.raft.core import Raft, Refused
from swarmpy.manager.raft.disk import Disk, DiskFailure
from swarmpy.manager.raft.leader import Leader
from swarmpy.manager.raft.membership import Membership
from swarmpy.manager.raft.messages import Append, Message, Ready, Snapshot, SnapshotChunk
from swarmpy.manager.raft.options import Ended, Options
from swarmpy.manager.raft.proposals import Proposals
from swarmpy.manager.raft.reads import Reads
from swarmpy.manager.raft.reports import Future, Report, Reports, View
from swarmpy.manager.raft.seal import Keys
from swarmpy.manager.raft.storage import Identity, Storage, Write
from swarmpy.manager.raft.wire import Incoming, Outgoing
from swarmpy.manager.raft.wires import Wires

__all__ = ["Driver"]

_log = logging.getLogger(__name__)

_UNAPPLIED_LIMIT_BYTES = 64 << 20

T = TypeVar("T")


class Driver:
    """Runs from `start` until `stop`, or until it ends by itself and says why in its last Report."""

    def __init__(
        self,
        core: Raft,
        storage: Storage,
        options: Options,
        take: Callable[[Report], None],
        applied: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        """`take` is called on the running event loop's thread; `applied`, the index that the state machine is at, on
        the member's. `clock` counts seconds."""
        self._core = core
        self._options = options
        self._applied = applied
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._wires = Wires()
        self._disk = Disk(storage, self._wires.ring, clock)
        self._codec = Codec()
        self._reads = Reads()
        self._proposals = Proposals()
        self._reports = Reports(take, clock)
        self._conditions: list[tuple[Callable[[Raft], bool], Future]] = []
        self._unsent: deque[tuple[int, Ready]] = deque()     # each waits until the Ready of that number is durable
        self._last_write = 0                                 # number of the last Ready given to the disk
        self._keys_given = 0                                 # to the disk, how many times
        self._next_tick = clock() + options.tick_s
        self._farewell_ticks = 2 * options.election_ticks    # once removed: time to tell voters that wait for us
        self._view = View(core.term, core.leader, False, core.membership, frozenset())
        self._role = core.role                               # as of the view
        self._chronicle = Chronicle(core)
        self._active: frozenset[int] = frozenset()
        self._ended: Ended | None = None
        self._inbox: deque[tuple[Callable[[], None], Future | None]] = deque()    # actions, and who waits for each
        self._asleep = False                                 # in the poll, or about to enter it
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="raft")

    # For the event loop.

    def start(self) -> None:
        self._thread.start()

    def propose(self, data: bytes, proposer: Future) -> None:
        """`proposer` gets what applying the entry returns, or is refused or lost."""
        self._proposals.add(data, proposer)
        self._wake()

    def barrier(self, barrier: asyncio.Future[None]) -> None:
        """`barrier` passes once this member has applied all that was committed when it was asked for."""
        self._do(lambda: self._reads.ask(barrier), barrier)

    def ask(self, question: Callable[[Raft], T]) -> asyncio.Future[T]:
        """What `question` returns or raises, asked of the core between two turns."""
        answer: asyncio.Future[T] = self._loop.create_future()
        self._do(lambda: self._answer(question, answer), answer)
        return answer

    def when(self, condition: Callable[[Raft], bool]) -> asyncio.Future[None]:
        """Done after the first turn that makes `condition` true; cancel it to no longer wait."""
        answer: asyncio.Future[None] = self._loop.create_future()
        self._do(lambda: self._conditions.append((condition, answer)), answer)
        return answer

    def expect(self, index: int, proposer: Future) -> None:
        """`proposer` proposed the entry at `index` just now. For questions, which are asked in the member's thread."""
        self._proposals.expect(self._core.term, index, (proposer,))

    def received(self, sender: int, messages: Sequence[bytes]) -> None:
        """What came over gRPC."""
        self._do(lambda: self._step(sender, messages))

    def unreachable(self, member: int) -> None:
        """Messages to `member` were lost on the way."""
        self._do(lambda: self._core.unreachable(member))

    def disconnected(self, member: int) -> None:
        """`member` is no longer there, or not to be heard."""
        self._do(lambda: self._core.leader_unreachable() if self._core.leader == member else None)

    def set_identity(self, identity: Identity) -> None:
        self._do(lambda: self._disk.submit(0, identity))

    def take_keys(self, keys: Keys) -> asyncio.Future[None]:
        """Done once all that is on the disk is sealed under the first of them."""
        taken: asyncio.Future[None] = self._loop.create_future()
        self._do(lambda: self._take_keys(keys, taken), taken)
        return taken

    async def store_snapshot(self, snapshot: Snapshot, membership: Membership, keep: int) -> None:
        """The state machine's state as of an applied entry, with the membership of then; `keep` entries before it stay.

        Its file is written before the core hears of it: what is committed meanwhile would wait behind it for seconds.
        """
        try:
            await asyncio.to_thread(self._disk.prepare, snapshot)
        except InterruptedError:
            return                          # the log is closed
        except OSError as error:
            _log.warning("the raft log grows until the next snapshot, as this one cannot be written: %s", error)
            return
        self._do(lambda: self._core.snapshot_taken(snapshot.index, membership, snapshot.data, keep))

    def add_wire(self, wire: Outgoing | Incoming) -> None:
        self._do(lambda: self._wires.add(wire))

    def drop_incoming(self, member: int) -> None:
        self._do(lambda: self._wires.drop_incoming(member))

    def drop_outgoing(self, member: int) -> None:
        self._do(lambda: self._wires.drop_outgoing(member))

    async def stop(self) -> None:
        """Finish what the disk was given, close everything."""
        self._stopping = True
        self._wake()
        await asyncio.to_thread(self._thread.join)
        self._wires.close()

    def abandoned(self) -> list[Future]:
        """Who still waits once the thread has ended."""
        return [
            *self._proposals.all(),
            *self._reads.open(),
            *(asker for _, asker in self._inbox if asker is not None),
            *(asker for _, asker in self._conditions),
            *(asker for report in self._reports.untaken() for asker in report.waiting()),
        ]

    def _do(self, action: Callable[[], None], asker: Future | None = None) -> None:
        """Have `action` done in the member's thread, in the next turn."""
        self._inbox.append((action, asker))
        self._wake()

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            self._wires.ring()

    # The member's thread.

    def _run(self) -> None:
        try:
            while not self._stopping and self._ended is None:
                self._turn()
        except DiskFailure as failure:
            self._ended = Ended(str(failure), removed=False)
        except Exception as error:  # noqa: BLE001 - a member whose state is in doubt must not go on, and says why
            _log.exception("raft member %d stops", self._core.raft_id)
            self._ended = Ended(f"the raft log of this manager failed: {error}", removed=False)
        finally:
            self._wires.drop_all()
            self._disk.close()
            self._reports.now().ended = self._ended
            self._reports.hand_over()

    def _turn(self) -> None:
        """Wait for something to happen, give it to the core, carry out what follows."""
        core = self._core
        for sender, messages in self._wait():
            self._step(sender, messages)
        while self._inbox:
            action, _ = self._inbox.popleft()
            action()
        if self._clock() >= self._next_tick:
            self._tick()
        if self._unsent:
            self._release()
        if self._proposals:
            self._propose()
        self._reads.start(core.read, core.term, core.leader)
        while (ready := core.ready()) is not None:
            self._carry_out(ready)
        self._look_around()
        self._chronicle.write()
        self._reports.hand_over_if_due()

    def _wait(self) -> list[tuple[int, list[bytes]]]:
        self._asleep = True    # from here on who adds something rings
        if self._inbox or self._proposals or self._stopping:
            received = self._wires.wait(0)
        else:
            received = self._wires.wait(max(0.0, min(self._next_tick, self._reports.due) - self._clock()))
        self._asleep = False
        for member in self._wires.take_broken():
            self._core.unreachable(member)
            self._reports.now().broken.append(member)
        return received

    def _step(self, sender: int, messages: Sequence[bytes]) -> None:
        for data in messages:
            try:
                message = self._codec.decode_message(data)
            except Malformed as error:
                _log.warning("dropped what raft member %d sent: %s", sender, error)
                continue
            if message.sender == sender and message.to == self._core.raft_id and not self._too_much(message):
                self._core.step(message)

    def _too_much(self, message: Message) -> bool:
        """Entries that the event loop would only queue: as good as lost on the way, and sent again."""
        log = self._core.log
        return (
            isinstance(message, Append)
            and bool(message.entries)
            and log.size(max(self._applied(), log.offset) + 1, log.applied) > _UNAPPLIED_LIMIT_BYTES
        )

    def _tick(self) -> None:
        """One tick at a time: a thread that was held up does not count the time it missed against its leader."""
        self._next_tick = self._clock() + self._options.tick_s
        self._core.tick()
        self._reads.tick()
        self._count_active()
        if self._core.removed:
            self._farewell_ticks -= 1
            if self._farewell_ticks == 0:
                self._ended = Ended("this manager was removed from the swarm", removed=True)

    def _answer(self, question: Callable[[Raft], T], asker: asyncio.Future[T]) -> None:
        try:
            answer: object = question(self._core)
        except (Refused, SwarmpyError) as refusal:
            answer = refusal
        self._reports.now().answers.append((asker, answer))

    def _take_keys(self, keys: Keys, asker: asyncio.Future[None]) -> None:
        self._disk.submit(0, keys)
        self._keys_given += 1
        wanted = self._keys_given

        def taken(_: Raft) -> bool:
            self._disk.durable()    # or it failed, and nothing else might ask
            return self._disk.keys_taken >= wanted

        self._conditions.append((taken, asker))

    def _propose(self) -> None:
        datas, proposers = self._proposals.take()
        try:
            first = self._core.propose(datas)
        except Refused:
            self._reports.now().refused += proposers
        else:
            self._proposals.expect(self._core.term, first, proposers)

    def _carry_out(self, ready: Ready) -> None:
        self._send(ready.early)
        if ready.committed or ready.reads or ready.restore:
            self._report(ready)
            if self._core.is_leader:
                self._look_around()
                self._reports.hand_over_if_due()    # whoever proposed it need not wait for the next write, too
        if ready.must_write:
            encoded = self._codec.encode_entries(ready.entries) if ready.entries else b""
            restored = ready.restore is not None
            write = Write(ready.hard_state, ready.entries, encoded, ready.snapshot, restored, ready.compact)
            self._last_write = ready.number
            self._disk.submit(ready.number, write)
        self._unsent.append((self._last_write, ready))
        self._release()

    def _release(self) -> None:
        """Send what waited for the disk, as far as the disk has come."""
        durable = self._disk.durable()
        while self._unsent and self._unsent[0][0] <= durable:
            _, ready = self._unsent.popleft()
            self._send(ready.messages)
            self._core.advance(ready.number)

    def _send(self, messages: Iterable[Message]) -> None:
        for message in messages:
            data = self._codec.encode_message(message)
            bulk = isinstance(message, SnapshotChunk)
            if bulk or not self._wires.can_reach(message.to):
                self._reports.now().dispatch.append((message.to, data, bulk))
            elif not self._wires.send(message.to, data):
                self._core.unreachable(message.to)

    def _report(self, ready: Ready) -> None:
        """What the event loop has to do with it."""
        core, reports = self._core, self._reports
        if ready.restore is not None:
            reports.hand_over()    # what was committed before comes before
            reports.now().restore = ready.restore
        if ready.committed:
            report = reports.now() if self._proposals.are_waiting else reports.soon()
            report.committed += ready.committed
            report.membership = core.membership if core.log.applied == core.log.committed else None
            if self._proposals.are_waiting:
                self._proposals.settle(ready.committed, report)
        if ready.reads:
            reports.now().barriers += self._reads.answered(ready.reads)

    def _look_around(self) -> None:
        """Tell those who wait for a change of state, if there is one."""
        core, view = self._core, self._view
        if self._proposals.are_waiting and not core.is_leader:
            self._reports.now().lost += self._proposals.give_up()
        if core.role is not self._role:
            self._role = core.role
            self._count_active()
        if (
            view.term != core.term or view.leader != core.leader or view.leads != core.is_leader
            or view.membership is not core.membership or view.active is not self._active
        ):  # fmt: skip
            view = View(core.term, core.leader, core.is_leader, core.membership, self._active)
            self._view = self._reports.now().view = view
        if self._conditions:
            self._check_conditions()

    def _check_conditions(self) -> None:
        for condition, asker in tuple(self._conditions):
            if asker.done():
                self._conditions.remove((condition, asker))
            elif condition(self._core):
                self._conditions.remove((condition, asker))
                self._reports.now().answers.append((asker, None))

    def _count_active(self) -> None:
        role = self._core.role
        active = frozenset(filter(role.is_active, role.progress)) if isinstance(role, Leader) else frozenset()
        if active != self._active:
            self._active = active
