"""RaftLog: one member of the replicated log, as the rest of swarmpy sees it.

Owns    the parts of a member and their life: the driver's thread, the peers, the application.
Out     ReplicatedLog, for the store and the stages; nothing outside this room knows more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

from swarmpy.errors import Conflict, InvalidArgument, Unavailable
from swarmpy.identity import NodeIdentity
from swarmpy.manager.raft.application import Application, answer
from swarmpy.manager.raft.changes import Changes, NotLeading
from swarmpy.manager.raft.core import Config, Raft, Refused
from swarmpy.manager.raft.driver import Driver
from swarmpy.manager.raft.files import DISK, Files
from swarmpy.manager.raft.membership import Membership, Peer
from swarmpy.manager.raft.messages import Snapshot
from swarmpy.manager.raft.options import DEFAULTS, MAX_ENTRY_BYTES, Ended, Options
from swarmpy.manager.raft.peers import Peers
from swarmpy.manager.raft.reports import Report, View
from swarmpy.manager.raft.role import Campaign
from swarmpy.manager.raft.seal import Keys
from swarmpy.manager.raft.service import RaftService
from swarmpy.manager.raft.starting import Started, create, found, reopen
from swarmpy.manager.raft.storage import Identity
from swarmpy.manager.replicated_log import Leadership, LogMember, NotLeader, StateMachine

__all__ = ["Network", "RaftLog"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Network:
    """`service` is registered on the server of the node whose `identity` this is.

    Wires of other members arrive at `wire_host`, and at `wire_port` if it is free; 0 for any.
    """

    service: RaftService
    identity: NodeIdentity
    wire_host: str
    wire_port: int = 0


class RaftLog:
    """A ReplicatedLog over this room's Raft. Made by `bootstrap`, `join` or `open`; ends by `close`.

    `keys`, 32 bytes each: the first one seals what is written, all of them open what was.
    `ended` is done once the member stopped by itself; its result says why.
    """

    @classmethod
    async def bootstrap(
        cls, directory: Path, keys: Sequence[bytes], machine: StateMachine, network: Network,
        *, raft_id: int, node_id: str, addr: str, options: Options = DEFAULTS, files: Files = DISK,
    ) -> RaftLog:  # fmt: skip
        """Start a new cluster of this member alone. Raises Conflict when `directory` already holds a log."""
        started = await asyncio.to_thread(found, directory, keys, files, raft_id, Peer(node_id, addr))
        return cls(started, machine, network, options)

    @classmethod
    async def join(
        cls, directory: Path, keys: Sequence[bytes], machine: StateMachine, network: Network,
        *, raft_id: int, node_id: str, addr: str, options: Options = DEFAULTS, files: Files = DISK,
    ) -> RaftLog:  # fmt: skip
        """Wait, empty, for a leader that calls `add_member` with the same ids; its stream tells which cluster it is.

        Raises Conflict when `directory` already holds a log.
        """
        started = await asyncio.to_thread(create, directory, keys, files, Identity("", raft_id, node_id, addr))
        return cls(started, machine, network, options)

    @classmethod
    async def open(
        cls, directory: Path, keys: Sequence[bytes], machine: StateMachine, network: Network,
        *, force_new_cluster: str | None = None, options: Options = DEFAULTS, files: Files = DISK,
    ) -> RaftLog:  # fmt: skip
        """Go on from the disk. Raises Corrupt when the log there is damaged, Conflict when there is none.

        With `force_new_cluster`, this member's address, it goes on as a cluster of one with all its data.
        """
        started = await asyncio.to_thread(reopen, directory, keys, files, machine, force_new_cluster)
        return cls(started, machine, network, options)

    def __init__(
        self,
        started: Started,
        machine: StateMachine,
        network: Network,
        options: Options,
        random: Random | None = None,
    ) -> None:
        """Start at once; needs a running loop. Called by the three above."""
        random = random or SystemRandom()
        me, durable = started.identity, started.durable
        self._loop = asyncio.get_running_loop()
        self._service = network.service
        self._options = options
        core = Raft(_config(me.raft_id, options, random), durable)
        self._view = View(core.term, None, False, core.membership, frozenset())
        self._leadership = Leadership(core.term, False, None)
        self._callbacks: list[Callable[[Leadership], None]] = []
        self._winding_up: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[Ended] = self._loop.create_future()
        self._application = Application(machine, self._moved, self._state_failed)
        if durable.snapshot is not None and started.replace_state is not None:
            self._application.begin(durable.snapshot, started.replace_state)
        self._driver = Driver(core, started.storage, options, self._take, lambda: self.applied_index, time.monotonic)
        self._peers = Peers(me, network.identity, self._driver, random)
        self._changes = Changes(self._driver, options.change_timeout_s)
        if core.membership.voters == {me.raft_id}:
            core.campaign(Campaign.PRE)          # nobody else could
        self._peers.meet(core.membership)
        network.service.attach(self._peers, network.wire_host, network.wire_port)
        self._driver.start()

    def set_snapshots(self, interval: int, kept_entries: int) -> None:
        """From now on, a snapshot every `interval` entries, after which `kept_entries` stay for slow followers."""
        self._options = replace(
            self._options, snapshot_interval=interval, log_entries_for_slow_followers=kept_entries
        )

    async def take_keys(self, keys: Sequence[bytes]) -> None:
        """All that this member keeps is sealed under the first of `keys` when this returns; those before must be among
        them. Raises Unavailable when the member ends meanwhile."""
        self._check_running()
        await self._driver.take_keys(Keys(tuple(keys)))

    # ReplicatedLog.

    @property
    def raft_id(self) -> int:
        return self._peers.me.raft_id

    @property
    def leadership(self) -> Leadership:
        return self._leadership

    @property
    def applied_index(self) -> int:
        return self._application.applied

    async def propose(self, data: bytes) -> object:
        self._check_running()
        if not self._view.leads:
            raise NotLeader(self._leadership.leader_addr)
        if len(data) > MAX_ENTRY_BYTES:
            raise InvalidArgument(
                f"a transaction of {len(data)} bytes is more than the {MAX_ENTRY_BYTES} one entry of the log may have;"
                " split it"
            )
        proposer: asyncio.Future[object] = self._loop.create_future()
        self._driver.propose(data, proposer)
        return await proposer

    async def read_barrier(self) -> None:
        self._check_running()
        barrier: asyncio.Future[None] = self._loop.create_future()
        self._driver.barrier(barrier)
        try:
            async with asyncio.timeout(self._options.read_timeout_s):
                await barrier
        except TimeoutError:
            raise Unavailable(
                f"no leader confirmed a read within {self._options.read_timeout_s:g} s: "
                "a majority of managers must be reachable"
            ) from None

    def members(self) -> tuple[LogMember, ...]:
        view = self._view
        return tuple(
            LogMember(
                raft_id=member,
                node_id=peer.node_id,
                addr=peer.addr,
                voter=member in view.membership.voters,
                reachable=self._reachable(member),
                leader=member == view.leader,
            )
            for member, peer in sorted(view.membership.peers.items())
        )

    def on_leadership(self, callback: Callable[[Leadership], None]) -> None:
        self._callbacks.append(callback)
        callback(self._leadership)

    async def add_member(self, raft_id: int, node_id: str, addr: str) -> None:
        await self._change(self._changes.add(raft_id, Peer(node_id, addr)))

    async def remove_member(self, raft_id: int) -> None:
        await self._change(self._changes.remove(raft_id))

    async def transfer_leadership(self) -> None:
        await self._change(self._changes.transfer())

    async def close(self) -> None:
        """Leave the network, finish what the disk was given, and fail what still waits with Unavailable.

        Goes on also when who waits for it is cancelled: a thread that nobody stops would be a member for ever.
        """
        self._stop(Unavailable("this manager is shutting down"))
        if self._winding_up is not None:
            await asyncio.shield(self._winding_up)

    # Beyond the contract.

    @property
    def cluster_id(self) -> str:
        """Empty in a joiner that no member has spoken to yet."""
        return self._peers.me.cluster_id

    # From the driver.

    def _take(self, report: Report) -> None:
        if self._winding_up is not None:
            self._fail(report.waiting(), Unavailable("this manager is shutting down"))
            return
        try:
            self._take_up(report)
        except Exception as error:  # noqa: BLE001 - a member whose state is in doubt must not go on, and says why
            self._state_failed(error)
            self._fail(report.waiting(), Unavailable(str(self.ended.result())))

    def _take_up(self, report: Report) -> None:
        application = self._application
        if report.view is not None:
            if report.view.membership is not self._view.membership:
                self._peers.meet(report.view.membership)
            self._view = report.view
        if report.restore is not None:
            application.restore(report.restore)
        application.apply(report.committed, report.proposers)
        application.wait(report.barriers)
        self._peers.send(report.dispatch)
        self._peers.wires_broke(report.broken)
        for asker, result in report.answers:
            answer(asker, result)
        if report.refused or report.lost:
            self._fail(report.refused, NotLeader(self._leadership.leader_addr))
            self._fail(report.lost, NotLeader(self._leadership.leader_addr, lost=True))
        if report.view is not None or self._leadership.leader_addr is None:
            self._announce()
        if report.membership is not None:
            self._snapshot_if_due(report.membership)
        if report.ended is not None:
            self._end(report.ended)

    def _snapshot_if_due(self, membership: Membership) -> None:
        options, index, term = self._options, self._application.applied, self._application.term

        async def taken(data: bytes) -> None:
            snapshot = Snapshot(index, term, membership.encode(), data)
            await self._driver.store_snapshot(snapshot, membership, options.log_entries_for_slow_followers)

        self._application.snapshot_if_due(options.snapshot_interval, taken)

    # From the application, once a snapshot is loaded or taken.

    def _moved(self) -> None:
        self._announce()

    def _state_failed(self, error: Exception) -> None:
        """A member whose state is in doubt must not go on, and says why."""
        _log.error("raft member %d cannot keep its state", self.raft_id, exc_info=error)
        self._end(Ended(f"the raft log of this manager failed: {error}", removed=False))

    # Leading.

    def _announce(self) -> None:
        """Tell who leads, if that is news: nobody does before an entry of the present term is applied here."""
        view, leads, addr = self._view, False, None
        if view.leader is not None and self._application.term == view.term:
            leads = view.leads and self._winding_up is None
            addr = self._peers.addr_of(view.leader)
        leadership = Leadership(view.term, leads, addr)
        if leadership != self._leadership:
            self._leadership = leadership
            for callback in self._callbacks:
                callback(leadership)

    # Pieces.

    async def _change(self, change: Coroutine[Any, Any, None]) -> None:
        try:
            self._check_running()
        except Unavailable:
            change.close()
            raise
        try:
            await change
        except NotLeading as refusal:
            raise NotLeader(self._leadership.leader_addr) from refusal
        except Refused as refusal:
            raise Conflict(str(refusal)) from refusal

    def _reachable(self, member: int) -> bool:
        view = self._view
        if member == self.raft_id:
            return True
        if view.leads:
            return member in view.active
        return member == view.leader or self._peers.is_inbound(member)

    def _check_running(self) -> None:
        if self.ended.done():
            raise Unavailable(str(self.ended.result()))
        if self._winding_up is not None:
            raise Unavailable("this manager is shutting down")

    @staticmethod
    def _fail(askers: Iterable[asyncio.Future[Any]], reason: Exception) -> None:
        for asker in askers:
            answer(asker, reason)

    # Ending.

    def _end(self, reason: Ended) -> None:
        """The member stops by itself; `close` is still owed."""
        if self._winding_up is None:
            self.ended.set_result(reason)
            self._stop(Unavailable(str(reason)))

    def _stop(self, reason: Unavailable) -> None:
        if self._winding_up is None:
            self._winding_up = self._loop.create_task(self._wind_up(reason), name="raft-close")
            self._announce()

    async def _wind_up(self, reason: Unavailable) -> None:
        await self._service.detach(self._peers)
        await self._peers.close()
        await self._application.close()
        await self._driver.stop()
        self._fail([*self._driver.abandoned(), *self._application.waiting()], reason)


def _config(raft_id: int, options: Options, random: Random) -> Config:
    ticks = options.election_ticks
    return Config(
        raft_id=raft_id,
        election_timeout=lambda: random.randrange(ticks, 2 * ticks),
        election_ticks=ticks,
        heartbeat_ticks=options.heartbeat_ticks,
        window=options.window,
    )
