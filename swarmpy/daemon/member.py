"""What runs on a host while it is a node of a swarm: the renewal of its certificate, its agent, its manager part.

Owns    the parts of one membership, from `start` to `close`, and `state.json` while it lasts.
In      the certificate's role, which the CA grants, and this node as the store has it, which the dispatcher tells.
Laws    the certificate leads: it becomes a manager's, then the manager part starts and asks for its vote; the vote is
        taken away, then the certificate becomes a worker's, then the manager part ends and its log is removed.
        A failure here is retried until `close`; the containers of the swarm never stop for it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

from swarmpy.daemon.init_swarm import NewSwarm
from swarmpy.daemon.parts import AgentNews, LogStart, OpenLog, Parts, SwarmAgent
from swarmpy.daemon.swarm_state import SwarmState, save_state
from swarmpy.errors import Conflict, Internal, SwarmpyError, Unavailable
from swarmpy.identity import Lock, NodeIdentity, UnlockKey
from swarmpy.identity.joining import renew_by
from swarmpy.identity.renewal import Renewer
from swarmpy.manager.ca import granted_role
from swarmpy.manager.manager import Manager, ManagerAddresses
from swarmpy.manager.replicated_log import Leadership
from swarmpy.manager.store import Store, Transaction
from swarmpy.rpc.types_pb2 import Node, NodeRole
from swarmpy.worker.admission import check_runnable

__all__ = ["Member"]

log = logging.getLogger(__name__)

LEAD_PATIENCE_S = 20.0                  # for a manager that is alone to lead itself
RETRY_FIRST_S, RETRY_LAST_S = 0.2, 10.0
POLL_S = 0.02
MAX_RAFT_ID = (1 << 63) - 1


class Member:
    """One membership. `changed` is called whenever a property may read differently."""

    def __init__(
        self,
        directory: Path,
        identity: NodeIdentity,
        state: SwarmState,
        parts: Parts,
        *,
        clock: Callable[[], int],
        random: Random,
    ) -> None:
        self._directory = directory
        self._parts = parts
        self._clock = clock
        self._random = random
        self._tasks: list[asyncio.Task[None]] = []
        self._agent: SwarmAgent | None = None
        self._renewer = Renewer(identity, lambda: self.managers, clock, random)
        self._took_up_role = asyncio.Event()
        self._told_roots: tuple[bytes, int] | None = None   # last, and not taken up yet
        self._roots_told = asyncio.Event()
        self._wanted = self._asked = identity.role  # what the swarm wants this node to be; what was last asked for
        identity.on_change(self._ask_for_role)
        self.identity = identity
        self.state = state
        self.manager: Manager | None = None
        self._opened: OpenLog | None = None         # of the manager part
        self._following: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None    # of a manager part that was
        self._voted_out = False         # of the log that the manager part holds
        self._log_failed = asyncio.Event()    # that log ended by itself, and not because of that
        self._agent_broke = asyncio.Event()
        self._why_broken = ""
        self._ending: asyncio.Task[None] | None = None      # of an agent that broke
        self._closed = False
        self.error = ""                 # why this node cannot do its part at the moment

    # ------------------------------------------------------------------------------------------ what it is

    @property
    def raft_dir(self) -> Path:
        return self._directory / "raft"

    @property
    def managers(self) -> tuple[str, ...]:
        """Every manager this node knows of, the leader first as far as known."""
        if self.manager is not None and (members := self.manager.members()):
            ordered = sorted(members, key=lambda member: not member.leader)
            return tuple(member.addr for member in ordered)
        return (self._agent.managers if self._agent is not None else ()) or self.state.managers

    @property
    def active(self) -> bool:
        """A worker that the swarm has heard, or a manager that has a leader."""
        if self.identity.role == NodeRole.MANAGER:
            return self.manager is not None and self.manager.has_leader and self.state.voter
        return self._agent is not None and self._agent.connected

    async def begun(self) -> None:
        """Wait until the parts that go with the certificate run, or it is known why they do not.

        Raises Unavailable then; it is tried again.
        """
        while not self._took_up_role.is_set():
            if self._closed:
                raise Unavailable("this node has left the swarm, or its daemon ends")
            if self.error:
                raise Unavailable(self.error)
            await asyncio.sleep(POLL_S)

    async def settle(self) -> None:
        """Wait until this node first is what its certificate says: a voting manager, or a worker that was welcomed."""
        await self._took_up_role.wait()
        while not self.active:
            await asyncio.sleep(POLL_S)

    # ------------------------------------------------------------------------------------------ life

    async def found(self, swarm: NewSwarm) -> None:
        """Begin a new swarm with this node as its one manager."""
        await self._start_manager(LogStart.FOUND)
        assert self.manager is not None
        await self.manager.wait_to_lead(LEAD_PATIENCE_S)
        await self.manager.store.commit(swarm.first_transaction(self.state))
        await self.save(voter=True)
        self.start()

    async def refound(self) -> None:
        """Go on with the swarm as its one manager: every other member of the log is forgotten.

        The other managers lose their roles in the store too, so that none of them is waited for. The swarm is what this
        manager's store says: if others were ahead, this node has heard of roots and unlock keys that never were.
        """
        await self._end_tasks()
        try:
            await self._stop_manager(hand_over=False)
            await self._start_manager(LogStart.ALONE)
            assert self.manager is not None
            await self.manager.wait_to_lead(LEAD_PATIENCE_S)
            await self._take_over_roles(self.manager.store)
            self._told_roots = None
            await self.identity.forget_words()
            await self.identity.install(await renew_by(self.manager.issue))
            await self.take_unlock_key()
            await self.save(voter=True, managers=(self.state.advertise_addr,))
        finally:
            self.start()                        # goes on from the disk when that failed

    def start(self) -> None:
        """Take up, or resume, what the certificate says. Returns at once; `settle` waits for it."""
        self._tasks = [
            asyncio.create_task(self._renewer.run(), name="certificate renewal"),
            asyncio.create_task(self._follow_role(), name="role"),
            asyncio.create_task(self._follow_roots(), name="roots"),
        ]

    async def close(self, *, hand_over: bool = True, remove_tasks: bool = False) -> None:
        """End all parts. The containers of tasks go on, unless `remove_tasks`."""
        self._closed = True
        await self._end_tasks()
        await self._agent_ended()
        if self._agent is not None:
            agent, self._agent = self._agent, None
            await agent.close(remove_tasks=remove_tasks)
        elif remove_tasks:
            await self._parts.end_tasks()           # of an agent that broke
        await self._stop_manager(hand_over=hand_over)
        await self.identity.settled()

    async def _end_tasks(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def save(self, **changes: object) -> None:
        """Change `state`, on the disk first."""
        state = replace(self.state, **changes)  # type: ignore[arg-type]  # the callers are in this package
        await asyncio.to_thread(save_state, self._directory, state)
        self.state = state

    # ------------------------------------------------------------------------------------------ roles

    async def _follow_role(self) -> None:
        """Keep the manager part in step with the certificate, and the agent alive beside it.

        A manager part whose log failed is started again: a disk that was full may have space. So is an agent that
        broke: it goes on from its disk, as after a restart of the daemon. What fails soon after it was taken up has not
        been taken up, so each pause is longer than the one before.
        """
        pause_s, taken_up_s = RETRY_FIRST_S, -math.inf
        with self.identity.changes() as changed:
            while True:
                changed.clear()
                try:
                    await self._stop_failed_log()
                    await self._stop_broken_agent()
                    await self._take_up_role()
                except SwarmpyError as failure:
                    self.error = str(failure)
                    log.warning("could not take up the role of a %s: %s", self._role_name, failure)
                    if time.monotonic() - taken_up_s > RETRY_LAST_S:
                        pause_s = RETRY_FIRST_S
                    await _first_of(changed.wait(), asyncio.sleep(pause_s))
                    pause_s = min(pause_s * 2, RETRY_LAST_S)
                    continue
                self.error, taken_up_s = "", time.monotonic()
                await _first_of(changed.wait(), self._log_failed.wait(), self._agent_broke.wait())

    async def _stop_failed_log(self) -> None:
        """Raises Unavailable when there was one: to be started again, but not at once."""
        if self._log_failed.is_set():
            why = self.error
            await self._stop_manager(hand_over=False)
            raise Unavailable(why)

    async def _stop_broken_agent(self) -> None:
        """Raises Unavailable when there was one: to be started again, but not at once."""
        if self._agent_broke.is_set():
            self._agent_broke.clear()
            if self._agent is not None:
                agent, self._agent = self._agent, None
                self._ending = asyncio.create_task(_end(agent), name="broken agent's end")
            await self._agent_ended()
            raise Unavailable(self._why_broken)

    async def _agent_ended(self) -> None:
        """An agent that broke has let go of disk, containers and mesh. It does so also when who waits is cancelled."""
        if self._ending is not None:
            await asyncio.shield(self._ending)
            self._ending = None

    async def _take_up_role(self) -> None:
        await self._agent_ended()
        if self._agent is None:
            self._agent = await self._new_agent()
        if self.identity.role == NodeRole.MANAGER:
            await self._be_manager()
        elif self.manager is not None or self.state.raft_id or self.identity.locks:
            await self._be_worker()
        self._took_up_role.set()

    async def _be_manager(self) -> None:
        if self._voted_out:                     # demoted, and promoted again before the certificate could follow
            await self._forget_log()
        if self.manager is None:
            await self._start_manager()
        assert self.manager is not None
        if not self.state.voter:
            await self.manager.join(self._other_managers(), self.state.raft_id)
            await self.save(voter=True)
            log.info("this node is a manager")

    async def _be_worker(self) -> None:
        await self._forget_log()
        await self.identity.release()           # a worker keeps nothing that is the swarm's, and nobody unlocks it
        log.info("this node is a worker now")

    async def _forget_log(self) -> None:
        await self.save(voter=False, raft_id=0)
        await self._stop_manager(hand_over=False)
        await asyncio.to_thread(_remove_tree, self.raft_dir)
        self._voted_out = False

    def _on_node(self, node: Node) -> None:
        """The dispatcher tells what the store has of this node: ask for the certificate that goes with it."""
        self.error = ""
        self._wanted = granted_role(node)
        if self._wanted != self._asked:
            self._ask_for_role()

    def _ask_for_role(self) -> None:
        """Renew, unless the certificate says what is wanted. Called when either has changed."""
        self._asked = self._wanted
        if self._wanted != self.identity.role:
            role = NodeRole.Name(self._wanted).lower()
            log.info("the swarm wants this node in another role", extra={"role": role})
            self._renewer.renew_now()

    def _on_roots(self, root_ca: bytes, as_of: int) -> None:
        self._told_roots = root_ca, as_of
        self._roots_told.set()

    async def _follow_roots(self) -> None:
        """Trust what the swarm says, and have a certificate of the root that issues."""
        while True:
            await self._roots_told.wait()
            self._roots_told.clear()
            if self._told_roots is None:
                continue
            try:
                await self.identity.trust(*self._told_roots)
            except SwarmpyError as failure:
                log.error("could not take up the swarm's roots: %s", failure)
                await asyncio.sleep(RETRY_LAST_S)
                self._roots_told.set()
                continue
            if self.identity.issuer != self.identity.root_ca:
                log.info("the swarm has a new root: this node asks for a certificate of it")
                self._renewer.renew_now()

    def _on_refused(self, why: str) -> None:
        """The leader does not take this node: it was removed from the swarm, or its certificate is no good."""
        if self.error != why:
            log.error("the swarm refuses this node: %s", why)
        self.error = why

    def _on_agent_broken(self, why: str) -> None:
        self.error = self._why_broken = why
        self._agent_broke.set()

    async def _new_agent(self) -> SwarmAgent:
        """Raises Internal for a mistake of ours, which may have to do with the state of a moment."""
        told = AgentNews(self._on_node, self._on_roots, self._on_refused, self._on_agent_broken)
        try:
            return await self._parts.start_agent(self.identity, self.state, told)
        except SwarmpyError:
            raise
        except Exception as error:
            log.exception("the agent could not be started")
            raise Internal(f"the agent could not be started: {error!r}") from error

    def _other_managers(self) -> tuple[str, ...]:
        known = (*self.managers, *self.state.managers)
        return tuple(dict.fromkeys(addr for addr in known if addr != self.state.advertise_addr))

    @property
    def _role_name(self) -> str:
        return NodeRole.Name(self.identity.role).lower()

    # ------------------------------------------------------------------------------------------ the manager part

    async def _start_manager(self, start: LogStart = LogStart.RESUME) -> None:
        if not self.state.raft_id:
            await self.save(raft_id=self._random.randint(1, MAX_RAFT_ID), voter=False)
        store = Store(self._clock)
        opened = await self._parts.open_log(
            store, self.identity, self.state, self.raft_dir, start, self._on_log_end
        )
        store.bind(opened.log)
        addresses = ManagerAddresses(self.state.listen_addr, self.state.advertise_addr)
        manager = Manager(
            self.identity, addresses, store, opened.log, opened.serve, check_runnable, self._random, self._clock
        )
        try:
            await manager.start()
        except BaseException:
            await manager.close()
            raise
        self.manager = manager
        opened.log.on_leadership(self._on_leadership)
        self._opened = opened
        self._following = asyncio.create_task(self._follow(store, opened), name="swarm changes")

    async def _follow(self, store: Store, opened: OpenLog) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._parts.follow(store))
            group.create_task(self._follow_unlock_key(store))
            with store.watch("cluster") as watch:
                while True:
                    if store.cluster is not None:
                        opened.configure(store.cluster.spec.raft)
                    await anext(watch)

    async def _follow_unlock_key(self, store: Store) -> None:
        with store.watch("cluster") as watch:
            while True:
                try:
                    await self.take_unlock_key()
                except SwarmpyError as failure:
                    log.error("%s", failure)
                    await asyncio.sleep(RETRY_LAST_S)
                else:
                    await anext(watch)

    async def take_unlock_key(self) -> None:
        """What this manager's store says is what opens its disk, when this returns. Raises Internal when that fails,
        Unavailable when the manager part ends before."""
        cluster = self.manager.store.cluster if self.manager is not None else None
        if cluster is None or self._opened is None:
            return
        unlock_key = UnlockKey.parse(cluster.unlock_key) if cluster.unlock_key else None
        await self.identity.lock(Lock(unlock_key, cluster.meta.version), self._opened.take_keys)

    async def _stop_manager(self, *, hand_over: bool) -> None:
        self._log_failed.clear()
        if self.manager is not None:
            if hand_over:
                await self.manager.hand_over()
            try:
                await self.take_unlock_key()        # the last word, which may have come just now
            except SwarmpyError as failure:
                log.error("%s", failure)
            manager, self.manager = self.manager, None
            following, self._following = self._following, None
            self._stopping = asyncio.create_task(_stop(manager, following), name="manager's end")
        if self._stopping is not None:
            await asyncio.shield(self._stopping)    # goes on when who waits is cancelled; who comes next waits for it
            self._stopping = None

    def _on_leadership(self, leadership: Leadership) -> None:
        """A worker has to search for a new leader; here Raft tells who it is."""
        if self._agent is not None and leadership.leader_addr is not None:
            self._agent.follow_leader(leadership.leader_addr)

    def _on_log_end(self, why: str, removed: bool) -> None:
        if removed:
            log.info("this manager was removed from Raft")
            self._voted_out = True
            self._renewer.renew_now()           # as a worker, or to learn that the node was removed too
        else:
            self.error = why
            log.error("the manager on this node stopped: %s", why)
            self._log_failed.set()

    async def _take_over_roles(self, store: Store) -> None:
        """This node is a manager, and no other is."""
        while True:
            transaction = Transaction()
            for node in store.nodes.values():
                if node.id == self.identity.node_id:
                    own = Node()
                    own.CopyFrom(node)
                    own.spec.role = NodeRole.MANAGER
                    transaction.put(own)
                elif granted_role(node) == NodeRole.MANAGER:
                    changed = Node()
                    changed.CopyFrom(node)
                    changed.spec.role = NodeRole.WORKER
                    changed.ClearField("manager")
                    transaction.put(changed)
            try:
                await store.commit(transaction)
                return
            except Conflict:
                continue                        # a stage wrote to one of them meanwhile: read again


async def _end(agent: SwarmAgent) -> None:
    try:
        await agent.close(remove_tasks=False)
    except Exception:
        log.exception("an agent that broke could not be closed")


async def _stop(manager: Manager, following: asyncio.Task[None] | None) -> None:
    if following is not None:
        following.cancel()
        await asyncio.wait({following})
    await manager.close()


async def _first_of(*waits: object) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _remove_tree(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
