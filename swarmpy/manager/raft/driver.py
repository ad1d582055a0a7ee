"""RaftLog: one member, driven. It gives the core its clock, disk and peers, and the store its committed entries.

Owns    the loop around the core; futures of proposals, reads and changes; when to take a snapshot.
Laws    Everything about the core happens on the event loop's thread, in `_pump`, once per turn of the loop: what came
        in meanwhile becomes one Ready. Nothing that promises durability leaves before the disk thread reports it.
Out     ReplicatedLog, for the store and the stages; nothing outside this room knows more.
Source  Raft paper, 8 (linearizable reads); thesis, 3.10, 4, 6.4, 10.2.1.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random, SystemRandom

import grpc.aio

from swarmpy.errors import Conflict, SwarmpyError, Unavailable
from swarmpy.manager.raft.application import Application
from swarmpy.manager.raft.codec import Codec, Malformed
from swarmpy.manager.raft.core import Config, Durable, Raft, Refused
from swarmpy.manager.raft.disk import Disk
from swarmpy.manager.raft.leader import Leader
from swarmpy.manager.raft.membership import Change, ChangeKind, Peer
from swarmpy.manager.raft.messages import Entry, Message, ReadState, Ready, SnapshotChunk
from swarmpy.manager.raft.progress import Window
from swarmpy.manager.raft.recovery import first_write, take_over
from swarmpy.manager.raft.role import Campaign
from swarmpy.manager.raft.storage import Identity, Storage, Write
from swarmpy.manager.raft.transport import Hello, Link, RaftService
from swarmpy.manager.replicated_log import Leadership, LogMember, NotLeader, StateMachine

__all__ = ["Ended", "Network", "Options", "RaftLog"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """Times and sizes of one member. The first five are those of the swarm's RaftConfig."""

    tick_s: float = 0.1
    election_ticks: int = 10          # a follower campaigns after 1 to 2 times this without its leader
    heartbeat_ticks: int = 1
    snapshot_interval: int = 10_000   # entries between snapshots
    log_entries_for_slow_followers: int = 500
    read_timeout_s: float = 5.0
    change_timeout_s: float = 60.0    # for a learner to catch up, and for a change to be committed
    window: Window = field(default_factory=Window)


@dataclass(frozen=True, slots=True)
class Network:
    """`service` is registered on the node's server; `channel` makes one with CHANNEL_OPTIONS."""

    service: RaftService
    channel: Callable[[str], grpc.aio.Channel]


class Ended(SwarmpyError):
    """Why a member stopped by itself: it was removed, or its disk or state machine failed."""

    def __init__(self, text: str, *, removed: bool) -> None:
        super().__init__(text)
        self.removed = removed


@dataclass(slots=True)
class _Waiter:
    term: int
    future: asyncio.Future[object]


class RaftLog:
    """A ReplicatedLog over this room's Raft. Made by `bootstrap`, `join` or `open`; ends by `close`.

    `ended` is done once the member stopped by itself; its result says why.
    """

    # Making one.

    @classmethod
    async def bootstrap(
        cls,
        directory: Path,
        key: bytes,
        machine: StateMachine,
        network: Network,
        *,
        raft_id: int,
        node_id: str,
        addr: str,
        options: Options = Options(),
    ) -> RaftLog:
        """Start a new cluster of this member alone. Raises Conflict when `directory` already holds a log."""
        identity = Identity(secrets.token_hex(16), raft_id, node_id, addr)

        def create() -> tuple[Storage, Durable]:
            storage = _create(directory, key, identity)
            storage.write([first_write(raft_id, Peer(node_id, addr))])
            return storage, storage.load()

        return cls(*await asyncio.to_thread(create), None, identity, machine, network, options)

    @classmethod
    async def join(
        cls,
        directory: Path,
        key: bytes,
        machine: StateMachine,
        network: Network,
        *,
        raft_id: int,
        node_id: str,
        addr: str,
        options: Options = Options(),
    ) -> RaftLog:
        """Wait, empty, for a leader that calls `add_member` with the same ids; its stream tells which cluster it is.

        Raises Conflict when `directory` already holds a log.
        """
        identity = Identity("", raft_id, node_id, addr)
        storage = await asyncio.to_thread(_create, directory, key, identity)
        return cls(storage, Durable(), None, identity, machine, network, options)

    @classmethod
    async def open(
        cls,
        directory: Path,
        key: bytes,
        machine: StateMachine,
        network: Network,
        *,
        force_new_cluster: str | None = None,
        options: Options = Options(),
    ) -> RaftLog:
        """Go on from the disk. Raises Corrupt when the log there is damaged, Conflict when there is none.

        With `force_new_cluster`, this member's address, it goes on as a cluster of one with all its data.
        """

        def read() -> tuple[Storage, Durable, Callable[[], None] | None, Identity]:
            storage = Storage(directory, key)
            try:
                identity = storage.identity()
                if identity is None:
                    raise Conflict(f"{directory} holds no raft log; start a new swarm or join one")
                durable = storage.load()
                if force_new_cluster is not None:
                    identity = replace(identity, cluster_id=secrets.token_hex(16), addr=force_new_cluster)
                    peer = Peer(identity.node_id, identity.addr)
                    storage.write([take_over(durable, identity.raft_id, peer)])
                    storage.set_identity(identity)
                    durable = storage.load()
                snapshot = durable.snapshot
                replace_state = machine.load(snapshot.index, snapshot.data) if snapshot is not None else None
            except BaseException:
                storage.close()
                raise
            return storage, durable, replace_state, identity

        return cls(*await asyncio.to_thread(read), machine, network, options)

    def __init__(
        self,
        storage: Storage,
        durable: Durable,
        replace_state: Callable[[], None] | None,
        identity: Identity,
        machine: StateMachine,
        network: Network,
        options: Options,
        random: Random | None = None,
    ) -> None:
        """Start at once; needs a running loop. Called by the three above; `replace_state` is of `durable.snapshot`."""
        self._loop = asyncio.get_running_loop()
        self._random = random or SystemRandom()
        self._identity = identity
        self._application = Application(machine, self._wake, self._state_failed)
        self._network = network
        self._options = options
        ticks = options.election_ticks
        self._core = Raft(
            Config(
                raft_id=identity.raft_id,
                election_timeout=lambda: self._random.randrange(ticks, 2 * ticks),
                election_ticks=ticks,
                heartbeat_ticks=options.heartbeat_ticks,
                window=options.window,
            ),
            durable,
        )
        self._codec = Codec()
        self._disk = Disk(storage, self._loop, self._written, self._disk_failed)
        self._writing = 0                              # Readys the disk has and has not reported
        self._unsent: dict[int, tuple[Message, ...]] = {}    # number of a Ready -> what leaves once it is durable
        self._links: dict[int, Link] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._learned: dict[int, str] = {}             # addresses of peers that spoke to us, for those not configured
        self._inbound: set[int] = set()                # peers with a stream to us
        self._inbox: list[Message] = []
        self._tick_due = False
        self._farewell_ticks = 2 * ticks               # once removed: time to tell voters that wait for us
        self._durable = 0                              # number of the last Ready known durable
        self._proposals: list[tuple[bytes, asyncio.Future[object]]] = []
        self._waiters: dict[int, _Waiter] = {}         # by index
        self._reads = _Reads()
        self._conditions: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._callbacks: list[Callable[[Leadership], None]] = []
        self._leadership = Leadership(self._core.term, False, None)
        self._pump_scheduled = False
        self._closed = False
        self.ended: asyncio.Future[Ended] = self._loop.create_future()
        if durable.snapshot is not None and replace_state is not None:
            self._application.begin(durable.snapshot, replace_state)
        network.service.attach(self)
        self._timer = self._loop.call_later(options.tick_s, self._tick)
        if self._core.membership.voters == {identity.raft_id}:
            self._core.campaign(Campaign.PRE)          # nobody else could
        self._wake()

    def set_snapshots(self, interval: int, kept_entries: int) -> None:
        """From now on, a snapshot every `interval` entries, after which `kept_entries` stay for slow followers."""
        self._options = replace(
            self._options, snapshot_interval=interval, log_entries_for_slow_followers=kept_entries
        )

    # ReplicatedLog.

    @property
    def raft_id(self) -> int:
        return self._identity.raft_id

    @property
    def leadership(self) -> Leadership:
        return self._leadership

    @property
    def applied_index(self) -> int:
        return self._application.applied

    async def propose(self, data: bytes) -> object:
        self._check_running()
        if not self._core.is_leader:
            raise NotLeader(self._leader_addr())
        future: asyncio.Future[object] = self._loop.create_future()
        self._proposals.append((data, future))
        self._wake()
        return await future

    async def read_barrier(self) -> None:
        self._check_running()
        future = self._reads.ask(self._loop)
        self._wake()
        try:
            async with asyncio.timeout(self._options.read_timeout_s):
                await future
        except TimeoutError:
            raise Unavailable(
                f"no leader confirmed a read within {self._options.read_timeout_s:g} s: "
                "a majority of managers must be reachable"
            ) from None

    def members(self) -> tuple[LogMember, ...]:
        core = self._core
        return tuple(
            LogMember(
                raft_id=member,
                node_id=peer.node_id,
                addr=peer.addr,
                voter=member in core.membership.voters,
                reachable=self._reachable(member),
                leader=member == core.leader,
            )
            for member, peer in sorted(core.membership.peers.items())
        )

    def on_leadership(self, callback: Callable[[Leadership], None]) -> None:
        self._callbacks.append(callback)
        callback(self._leadership)

    async def add_member(self, raft_id: int, node_id: str, addr: str) -> None:
        peer = Peer(node_id, addr)
        membership = self._core.membership
        if raft_id not in membership:
            await self._change(Change(ChangeKind.ADD_LEARNER, raft_id, peer))
        elif membership.peers[raft_id] != peer:
            await self._change(Change(ChangeKind.MOVE, raft_id, peer))
        if raft_id in self._core.membership.voters:
            return
        target = self._core.log.last_index
        await self._until(
            lambda: not self._core.is_leader or self._has_caught_up(raft_id, target),
            f"raft member {raft_id} at {addr} did not catch up; see that it runs and can be reached, and try again",
        )
        await self._change(Change(ChangeKind.PROMOTE, raft_id))

    async def remove_member(self, raft_id: int) -> None:
        self._check_running()
        if not self._core.is_leader:
            raise NotLeader(self._leader_addr())
        membership = self._core.membership
        if raft_id not in membership:
            return
        rest = membership.voters - {raft_id}
        reachable = sum(map(self._reachable, rest))
        if raft_id in membership.voters and reachable < len(rest) // 2 + 1:
            raise Conflict(
                f"raft member {raft_id} cannot be removed: of the {len(rest)} managers left only {reachable} can be "
                f"reached, which is no majority; bring more of them back first"
            )
        await self._change(Change(ChangeKind.REMOVE, raft_id))

    async def transfer_leadership(self) -> None:
        self._check_running()
        role = self._core.role
        if not isinstance(role, Leader):
            return
        heirs = [member for member in role.progress if member in self._core.membership.voters]
        heirs = [member for member in heirs if role.is_active(member)]
        if not heirs:
            if len(self._core.membership.voters) > 1:
                raise Unavailable("no other manager can be reached to take over the leadership")
            return
        heir = max(heirs, key=lambda member: role.progress[member].match)
        try:
            self._core.transfer(heir)
        except Refused as refusal:
            raise Conflict(str(refusal)) from refusal
        self._wake()
        await self._until(
            lambda: self._core.leader not in (None, self.raft_id) or (role is self._core.role and not role.transferee),
            f"raft member {heir} did not take over the leadership",
        )
        if self._core.is_leader:
            raise Unavailable(f"raft member {heir} did not take over the leadership in time; try again")

    async def close(self) -> None:
        """Leave the network, finish what the disk was given, and fail what still waits with Unavailable."""
        if not self._closed:
            self._stop(Unavailable("this manager is shutting down"))
        await self._application.close()
        await self._disk.close()
        if self._closing:
            await asyncio.gather(*self._closing)

    # Beyond the contract.

    @property
    def cluster_id(self) -> str:
        """Empty in a joiner that no member has spoken to yet."""
        return self._identity.cluster_id

    # The loop around the core.

    def _wake(self) -> None:
        if not self._pump_scheduled and not self._closed:
            self._pump_scheduled = True
            self._loop.call_soon(self._scheduled_pump)

    def _tick(self) -> None:
        """One tick per wake-up: a loop that was held up does not count the time it missed against its leader."""
        if self._closed:
            return
        self._timer = self._loop.call_later(self._options.tick_s, self._tick)
        self._tick_due = True
        self._wake()

    def _scheduled_pump(self) -> None:
        self._pump_scheduled = False
        self._pump()

    def _pump(self) -> None:
        """Give the core what has come in, and carry out one Ready."""
        if self._closed:
            return
        try:
            self._take_in()
            ready = self._core.ready()
            if ready is not None:
                self._carry_out(ready)
                self._wake()
            elif self._farewell_ticks == 0:
                self._end(Ended("this manager was removed from the swarm", removed=True))
        except Exception as error:  # noqa: BLE001 - a member whose state is in doubt must not go on, and says why
            _log.exception("raft member %d stops", self.raft_id)
            self._end(Ended(f"the raft log of this manager failed: {error}", removed=False))
        self._look_around()

    def _take_in(self) -> None:
        core = self._core
        if self._durable:
            for done in [done for done in self._unsent if done <= self._durable]:
                self._writing -= 1
                self._send(self._unsent.pop(done))
            core.advance(self._durable)
            self._durable = 0
        inbox, self._inbox = self._inbox, []
        for message in inbox:
            core.step(message)
        if self._tick_due:
            self._tick_due = False
            core.tick()
            self._reads.tick()
            if core.removed:
                self._farewell_ticks -= 1
            else:
                self._meet_members()
        self._propose()
        self._reads.start(core.read)

    def _propose(self) -> None:
        proposals, self._proposals = self._proposals, []
        if not proposals:
            return
        try:
            first = self._core.propose([data for data, _ in proposals])
        except Refused:
            refusal = NotLeader(self._leader_addr())
            _fail([future for _, future in proposals], refusal)
            return
        term = self._core.term
        for index, (_, future) in enumerate(proposals, first):
            self._waiters[index] = _Waiter(term, future)

    def _carry_out(self, ready: Ready) -> None:
        self._send(ready.early)
        self._write(ready)
        if ready.restore is not None:
            self._application.restore(ready.restore)
        self._application.apply([(entry, self._proposer(entry)) for entry in ready.committed])
        self._application.wait(self._reads.confirm(ready.reads))
        self._snapshot_if_due()

    def _write(self, ready: Ready) -> None:
        if not ready.must_write and not self._writing:
            self._send(ready.messages)
            self._core.advance(ready.number)
            return
        write = None
        if ready.must_write:
            encoded = self._codec.encode_entries(ready.entries) if ready.entries else b""
            write = Write(
                ready.hard_state, ready.entries, encoded, ready.snapshot, ready.restore is not None, ready.compact
            )
        self._writing += 1
        self._unsent[ready.number] = ready.messages
        self._disk.submit(ready.number, write)

    def _written(self, number: int) -> None:
        """The disk thread: Ready `number` and all before it are durable."""
        self._durable = max(self._durable, number)
        self._pump()

    def _disk_failed(self, error: Exception) -> None:
        _log.error("raft member %d cannot write its log: %s", self.raft_id, error)
        self._end(Ended(f"the raft log of this manager cannot be written: {error}", removed=False))

    def _state_failed(self, error: Exception) -> None:
        _log.error("raft member %d cannot keep its state: %s", self.raft_id, error)
        self._end(Ended(f"the raft log of this manager failed: {error}", removed=False))

    def _proposer(self, entry: Entry) -> Callable[[object], None] | None:
        """Who is to be told what comes of a committed entry, if anybody here."""
        waiter = self._waiters.pop(entry.index, None)
        if waiter is None:
            return None
        future, ours = waiter.future, waiter.term == entry.term

        def answer(result: object) -> None:
            if future.done():
                return
            if not ours:
                future.set_exception(NotLeader(self._leader_addr(), lost=True))
            elif isinstance(result, SwarmpyError):
                future.set_exception(result)
            else:
                future.set_result(result)

        return answer

    def _snapshot_if_due(self) -> None:
        """Only when all that is committed is applied, so that the membership in force is that of the state."""
        core, keep = self._core, self._options.log_entries_for_slow_followers
        index = self._application.applied
        if index != core.log.committed:
            return
        membership = core.membership

        def taken(data: bytes) -> None:
            if not self._closed:
                core.snapshot_taken(index, membership, data, keep)
                self._wake()

        self._application.snapshot_if_due(self._options.snapshot_interval, taken)

    # After each turn.

    def _look_around(self) -> None:
        """Tell those who wait for a change of state."""
        core = self._core
        if not core.is_leader and self._waiters:
            waiters, self._waiters = self._waiters, {}
            lost = NotLeader(self._leader_addr(), lost=True)
            _fail([waiter.future for waiter in waiters.values()], lost)
        leads = core.is_leader and self._application.term_begun == core.term
        leadership = Leadership(core.term, leads, self._leader_addr())
        if leadership != self._leadership:
            self._leadership = leadership
            for callback in self._callbacks:
                callback(leadership)
        for condition, future in self._conditions:
            if not future.done() and condition():
                future.set_result(None)

    async def _until(self, condition: Callable[[], bool], otherwise: str) -> None:
        """Return once `condition` holds. Raises Unavailable, saying `otherwise`, after `change_timeout_s`."""
        if condition():
            return
        future: asyncio.Future[None] = self._loop.create_future()
        waiting = (condition, future)
        self._conditions.append(waiting)
        try:
            async with asyncio.timeout(self._options.change_timeout_s):
                await future
        except TimeoutError:
            raise Unavailable(otherwise) from None
        finally:
            self._conditions.remove(waiting)

    async def _change(self, change: Change) -> None:
        """Commit one change of the members, after any other that is under way."""
        while True:
            self._check_running()
            role = self._core.role
            if not isinstance(role, Leader):
                raise NotLeader(self._leader_addr())
            if role.may_change:
                break
            await self._until(
                lambda: not isinstance(self._core.role, Leader) or self._core.role.may_change,
                "another change of the managers has not ended: a majority of them must be reachable",
            )
        try:
            index = self._core.propose_change(change)
        except Refused as refusal:
            raise Conflict(str(refusal)) from refusal
        future: asyncio.Future[object] = self._loop.create_future()
        self._waiters[index] = _Waiter(self._core.term, future)
        self._wake()
        await future

    def _has_caught_up(self, member: int, target: int) -> bool:
        role = self._core.role
        return isinstance(role, Leader) and member in role.progress and role.progress[member].match >= target

    def _leader_addr(self) -> str | None:
        leader = self._core.leader
        return self._addr_of(leader) if leader is not None else None

    def _check_running(self) -> None:
        if self.ended.done():
            raise Unavailable(str(self.ended.result()))
        if self._closed:
            raise Unavailable("this manager is shutting down")

    # Ending.

    def _end(self, reason: Ended) -> None:
        """The member stops by itself; `close` is still owed."""
        if not self._closed:
            self.ended.set_result(reason)
            self._stop(Unavailable(str(reason)))

    def _stop(self, reason: Unavailable) -> None:
        self._closed = True
        self._timer.cancel()
        self._network.service.detach(self)
        for member in list(self._links):
            self._unlink(member)
        _fail([future for _, future in self._proposals], reason)
        _fail([waiter.future for waiter in self._waiters.values()], reason)
        _fail([future for _, future in self._conditions], reason)
        self._reads.fail(reason)
        _fail(self._application.waiting(), reason)
        self._waiters.clear()
        self._proposals.clear()
        self._leadership = Leadership(self._core.term, False, None)
        for callback in self._callbacks:
            callback(self._leadership)

    # The network.

    def _send(self, messages: Iterable[Message]) -> None:
        for message in messages:
            link = self._links.get(message.to) or self._link(message.to)
            if link is not None:
                link.send(self._codec.encode_message(message), bulk=isinstance(message, SnapshotChunk))

    def _meet_members(self) -> None:
        """Every member has a stream from this one, so that each can tell which of the others are there."""
        for member in self._core.membership.peers:
            if member != self.raft_id and member not in self._links:
                self._link(member)

    def _link(self, member: int) -> Link | None:
        addr = self._addr_of(member)
        if addr is None:
            return None
        hello = Hello(self._identity.cluster_id, self.raft_id, member, self._identity.addr)
        link = self._links[member] = Link(hello, addr, self._network.channel, self._lost, self._random)
        return link

    def _unlink(self, member: int) -> None:
        task = self._loop.create_task(self._links.pop(member).close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _addr_of(self, member: int) -> str | None:
        peer = self._core.membership.peers.get(member)
        if peer is not None:
            return peer.addr
        return self._learned.get(member)

    def _lost(self, member: int) -> None:
        self._core.unreachable(member)
        self._wake()

    def _reachable(self, member: int) -> bool:
        role = self._core.role
        if member == self.raft_id:
            return True
        if isinstance(role, Leader):
            return role.is_active(member)
        return member == self._core.leader or member in self._inbound

    # Receiver.

    def objection(self, hello: Hello) -> str | None:
        mine = self._identity
        if hello.to != mine.raft_id:
            return f"this is raft member {mine.raft_id}, not {hello.to}"
        if mine.cluster_id and hello.cluster_id != mine.cluster_id:
            return f"raft member {hello.sender} belongs to another cluster"
        return None

    def connected(self, hello: Hello) -> None:
        if not self._identity.cluster_id:
            self._identity = replace(self._identity, cluster_id=hello.cluster_id)
            self._disk.submit(0, self._identity)
        self._learned[hello.sender] = hello.addr
        self._inbound.add(hello.sender)

    def received(self, sender: int, messages: Sequence[bytes]) -> None:
        for data in messages:
            try:
                message = self._codec.decode_message(data)
            except Malformed as error:
                _log.warning("dropped what raft member %d sent: %s", sender, error)
                continue
            if message.sender == sender and message.to == self.raft_id:
                self._inbox.append(message)
        self._pump()

    def disconnected(self, sender: int) -> None:
        """A peer's stream to us broke. When it was the leader's process that died, the next election need not wait."""
        self._inbound.discard(sender)
        if sender == self._core.leader:
            self._core.leader_unreachable()
            self._wake()


class _Reads:
    """Read barriers, batched: one question is under way, and those who come meanwhile share the next."""

    _RETRY_TICKS = 5

    def __init__(self) -> None:
        self._asking: list[asyncio.Future[None]] = []       # came too late for the question under way
        self._asked: list[asyncio.Future[None]] = []        # wait for its answer
        self._context = 0
        self._age = 0

    def ask(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        future: asyncio.Future[None] = loop.create_future()
        self._asking.append(future)
        return future

    def tick(self) -> None:
        self._age += 1

    def start(self, read: Callable[[int], None]) -> None:
        """Ask the core, or ask again when the answer is overdue: any answer to any asking is late enough."""
        if self._asked and self._age >= self._RETRY_TICKS:
            self._asked = [future for future in self._asked if not future.done()]
            self._age = 0
            if self._asked:
                read(self._context)
        if not self._asked and self._asking:
            self._asked, self._asking = self._asking, []
            self._context += 1
            self._age = 0
            read(self._context)

    def confirm(self, states: Iterable[ReadState]) -> list[tuple[int, list[asyncio.Future[None]]]]:
        """Who may read once which index is applied."""
        confirmed = []
        for state in states:
            if state.context == self._context and self._asked:
                confirmed.append((state.index, self._asked))
                self._asked = []
        return confirmed

    def fail(self, reason: Exception) -> None:
        _fail([*self._asking, *self._asked], reason)


def _fail(futures: Iterable[asyncio.Future[None]] | Iterable[asyncio.Future[object]], reason: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(reason)


def _create(directory: Path, key: bytes, identity: Identity) -> Storage:
    storage = Storage(directory, key)
    try:
        if storage.identity() is not None:
            raise Conflict(f"{directory} already holds a raft log; this manager is part of a swarm")
        storage.set_identity(identity)
    except BaseException:
        storage.close()
        raise
    return storage
