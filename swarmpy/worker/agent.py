"""The worker part of a node: does what the managers assign, with or without them.

Owns    the node's tasks (a runner each), what is known of the managers, and the session with the leader.
In      messages of the leader; the executor's and the mesh's outcomes.
Out     containers and a routing mesh as assigned, status reports, heartbeats.

The laws: assignments are on disk before they are acted on; losing every manager changes nothing for the tasks; a
daemon that starts again goes on with the tasks it finds on disk before it has heard of anyone; and only a complete set
of assignments takes away what this node holds but is not told of.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import grpc

from swarmpy.errors import Internal, SwarmpyError
from swarmpy.identity.joining import leader_of
from swarmpy.identity.node_identity import ASK_AFTER_S
from swarmpy.rpc.dispatcher_pb2 import Assignments, NodeState, TaskStatusUpdate, ToAgent, Welcome
from swarmpy.rpc.logs_pb2 import LogMessage
from swarmpy.rpc.types_pb2 import ASSIGNED, RUNNING, NodeDescription, Task, TaskStatus, TaskTemplate
from swarmpy.worker import known_managers
from swarmpy.worker.executor import Executor, LogWish, Order
from swarmpy.worker.holdings import Changes, Holdings
from swarmpy.worker.known_managers import KnownManagers
from swarmpy.worker.log_publisher import LogPublisher
from swarmpy.worker.mesh import KernelMesh, MeshKeeper
from swarmpy.worker.reporter import Reporter
from swarmpy.worker.runner import TaskRunner
from swarmpy.worker.session import Session
from swarmpy.worker.task_store import TaskStore

__all__ = ["Agent"]

INBOX = 4                        # assignments read ahead of the disk
GATHER_S = 0.002                 # states reached within this time share a write and a report
DISK_RETRY_S = 1.0
MESH_FIRST_S = 2.0               # a session's first view is waited for before it stops a task, but no longer
DESCRIBE_S = 30.0                # between looks at whether the node is still what it said
DEPART_S = 1.0                   # for the leader to take leave; otherwise it will miss the heartbeats
REFUSED_S = 30.0                 # between attempts of a node that the managers no longer know

log = logging.getLogger(__name__)


class Agent:
    """`start`, then `run` until the node stops being part of the swarm; `close` or `leave` in the end.

    `channel` opens a channel to a manager ("host:port") that is asked for a sign of life after so many silent seconds.
    `describe` says what the node is, and may read disks.
    `on_node_state` hears of this node's role, availability and trust root as the store has them.
    `on_removed` is called when the managers say that this node is no longer part of the swarm.
    """

    def __init__(
        self,
        state_dir: Path,
        managers: Sequence[str],
        *,
        channel: Callable[[str, float], grpc.aio.Channel],
        executor: Executor,
        mesh: KernelMesh,
        describe: Callable[[], NodeDescription],
        advertise_addr: str = "",
        on_node_state: Callable[[NodeState], None] = lambda state: None,
        on_removed: Callable[[str], None] = lambda reason: None,
        clock: Callable[[], int] = time.time_ns,
        rng: random.Random | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._managers_file = state_dir / "managers.json"
        self._rng = rng or random.Random()
        self._managers = KnownManagers(managers, self._rng)
        self._channel = channel
        self._executor = executor
        self._mesh = mesh
        self._describe = describe
        self._advertise_addr = advertise_addr
        self._on_node_state = on_node_state
        self._on_removed = on_removed
        self._clock = clock
        self._metadata = metadata
        self._store = TaskStore(state_dir / "tasks.db")
        self._holdings = Holdings()
        self._reporter = Reporter()
        self._keeper = MeshKeeper(mesh)
        self._runners: dict[str, TaskRunner] = {}
        self._loops: dict[str, asyncio.Task[None]] = {}      # a runner's run(), by task id
        self._reached: dict[str, TaskStatus] = {}            # states to be written and reported
        self._reached_wake = asyncio.Event()
        self._inbox: asyncio.Queue[Assignments] = asyncio.Queue(INBOX)
        self._session: Session | None = None
        self._ask_after_s = ASK_AFTER_S                      # until a leader has told the heartbeat period
        self._welcomed = asyncio.Event()                     # set while there is a session
        self._addr = ""                                      # of the manager of the present session or attempt
        self._reconnect = asyncio.Event()
        self._departed = False
        self._failure: BaseException | None = None
        self._described = NodeDescription()
        self._background: list[asyncio.Task[None]] = []
        self.node_id = ""                                    # as the leader says; "" before the first session

    # ------------------------------------------------------------------------------------------ for the daemon

    @property
    def managers(self) -> tuple[str, ...]:
        """Every manager known, host:port, the leader first."""
        return self._managers.addrs

    @property
    def connected(self) -> bool:
        """Whether a leader has welcomed this node and the session lasts."""
        return self._session is not None

    @property
    def statuses(self) -> dict[str, TaskStatus]:
        """The observed state of every task this node holds."""
        return {task_id: runner.status for task_id, runner in self._runners.items()}

    def reconnect(self) -> None:
        """Begin a new session, with a new channel: after the certificate changed."""
        self._reconnect.set()

    def follow_leader(self, addr: str) -> None:
        """This host's own manager knows that the one at `addr` leads now: have a session with that one."""
        if addr != self._addr:
            self._managers.hint(addr)
            self._reconnect.set()

    async def start(self) -> None:
        """Go on with what an earlier daemon left. The engine must have adopted its containers before."""
        kept = await self._store.open()
        for addr in await asyncio.to_thread(known_managers.load, self._managers_file):
            self._managers.add(addr)
        self._holdings.restore(
            [row.task for row in kept if not row.going],
            [row.template for row in kept if row.template is not None],
        )
        self._background = [self._begin(self._keeper.run(), "mesh"), self._begin(self._tell(), "states")]
        self._background.append(self._begin(self._redescribe(), "description"))
        for row in kept:
            runner = self._hold(row.task, row.template, row.status)
            if row.going:
                runner.retire()
            else:
                self._reporter.changed(row.task.id, row.status)
        self._background.append(self._begin(self._carry_out(), "assignments"))

    async def run(self) -> None:
        """Keep a session to the leader, whoever it is, until cancelled. Raises Internal when a part of it broke."""
        while True:
            if self._failure is not None:
                raise Internal(f"the agent is broken: {self._failure}") from self._failure
            if self._departed:
                await asyncio.Event().wait()
            addr = self._managers.choose()
            if addr is None:
                await asyncio.sleep(known_managers.LONGEST_WAIT_S)
                continue
            wait_s = await self._attempt(addr)
            if wait_s and not self._reconnect.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._reconnect.wait()

    async def close(self) -> None:
        """The daemon ends: tasks and mesh go on without it. `run` has been cancelled."""
        await self._stop_loops()
        try:
            await self._write_reached()
        finally:
            await self._store.close()
            await self._mesh.release()

    async def depart(self) -> None:
        """Tell the leader, if it can be had soon, that this node leaves. Once it is said no session begins any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEPART_S):
                while not self._departed:
                    await self._welcomed.wait()
                    if self._session is not None:       # it may have ended before this was told that it began
                        self._departed = await self._session.leave()
                    if not self._departed:
                        self._welcomed.clear()          # the session ended before it was said; the next one is told

    async def leave(self) -> None:
        """The node is no longer part of the swarm: its tasks end, and nothing of them or of the mesh is left."""
        for runner in self._runners.values():
            runner.retire()
        await self._store.going(self._runners)
        if self._loops:
            await asyncio.wait(set(self._loops.values()))
        await self._stop_loops()
        await self._store.close()
        await self._mesh.close()

    async def _stop_loops(self) -> None:
        ending = [*self._background, *self._loops.values()]
        for loop in ending:
            loop.cancel()
        if ending:
            await asyncio.wait(ending)
        self._background.clear()
        self._loops.clear()

    # ------------------------------------------------------------------------------------------ the session

    async def _attempt(self, addr: str) -> float:
        """One session with one manager. Returns the seconds to wait before the next."""
        if self._failure is None:
            self._reconnect.clear()
        self._addr = addr
        channel = self._channel(addr, self._ask_after_s)
        session = Session(channel, self._reporter, self._rng, self._metadata, self._ask_after_s)
        publisher = LogPublisher(channel, self._read_logs, self._metadata)
        serving = asyncio.create_task(self._serve(session, publisher, addr))
        moving = asyncio.create_task(self._reconnect.wait())
        renewing = asyncio.create_task(self._renew(session, publisher, addr))
        try:
            await asyncio.wait({serving, moving, renewing}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                return 0.0
            await serving
            return 0.0
        except grpc.aio.AioRpcError as error:
            return self._sent_away(addr, error)
        except (TimeoutError, SwarmpyError, OSError) as error:
            log.info("no session with manager %s: %s", addr, error or "it did not answer")
            return self._managers.refused(addr, None)
        finally:
            self._session, self._addr = None, ""
            self._ask_after_s = session.ask_after_s
            self._welcomed.clear()
            for task in (moving, serving, renewing):
                task.cancel()
            await asyncio.wait({serving, moving, renewing})
            await publisher.close()
            await channel.close(None)

    async def _renew(self, session: Session, publisher: LogPublisher, addr: str) -> None:
        """Return when another session with this leader is to follow."""
        await session.outlives_its_channel()
        await publisher.idle()
        log.info("the leader at %s will be asked for a sign of life after %.1f s", addr, session.ask_after_s)
        if not self._reconnect.is_set():
            self._managers.hint(addr)

    async def _serve(self, session: Session, publisher: LogPublisher, addr: str) -> None:
        description = self._described = await asyncio.to_thread(self._describe)
        statuses = [TaskStatusUpdate(task_id=key, status=status) for key, status in self.statuses.items()]

        def welcomed(welcome: Welcome) -> None:
            log.info("session %s with the leader at %s", welcome.session_id, addr)
            self.node_id = welcome.node_id
            self._managers.serves(addr, welcome.heartbeat_period_ns / 1e9)
            self._reporter.session()
            self._keeper.session(welcome.node_id, session.mesh_applied)
            self._session = session
            self._welcomed.set()
            session.report()

        await session.serve(
            description, self._advertise_addr, statuses, welcomed, lambda message: self._hear(message, publisher)
        )

    async def _redescribe(self) -> None:
        """Tell the leader when the node is no longer what it said in Hello: memory, labels, its trust root."""
        while True:
            await asyncio.sleep(DESCRIBE_S)
            description = await asyncio.to_thread(self._describe)
            if self._session is not None and description != self._described:
                self._described = description
                self._session.describe(description)

    def _sent_away(self, addr: str, error: grpc.aio.AioRpcError) -> float:
        code = error.code()
        if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED):
            log.error("the manager %s refuses this node: %s", addr, error.details())
            self._on_removed(error.details() or "the managers refuse this node")
            return REFUSED_S
        log.info("no session with manager %s: %s %s", addr, code.name, error.details())
        leader = leader_of(error) if code is grpc.StatusCode.FAILED_PRECONDITION else None
        if self._session is not None:
            return self._managers.lost(addr, leader)
        return self._managers.refused(addr, leader)

    async def _hear(self, message: ToAgent, publisher: LogPublisher) -> None:
        kind = message.WhichOneof("message")
        if kind == "assignments":
            await self._inbox.put(message.assignments)
        elif kind == "mesh":
            self._keeper.take(message.mesh)
        elif kind == "stored":
            self._reporter.stored(message.stored.sequence)
            if self._session is not None:
                self._session.report()
        elif kind == "logs":
            publisher.take(message.logs)
        elif kind == "node":
            self._on_node_state(message.node)
        elif kind == "managers" and self._managers.learn(message.managers.addrs):
            await asyncio.to_thread(known_managers.save, self._managers_file, self._managers.addrs)

    # ------------------------------------------------------------------------------------------ assignments

    async def _carry_out(self) -> None:
        """Apply assignments in order: on disk first, then in the runners."""
        while True:
            changes = self._holdings.apply(await self._inbox.get())
            while True:
                try:
                    await self._keep(changes)
                    break
                except Internal as error:
                    log.error("assignments wait, they must be on disk first: %s", error)
                    await asyncio.sleep(DISK_RETRY_S)
            if any(task.desired_state > RUNNING for task in (*changes.new, *changes.changed)) or changes.removed:
                await self._mesh_first()
            self._act_on(changes)
            if changes.complete:
                await self._sweep()

    async def _mesh_first(self) -> None:
        """A leader tells a new session at once what is to stop, and what this node has in its kernel may be from long
        before: until that is right it may still send connections to the very task."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MESH_FIRST_S):
                await self._keeper.current.wait()

    async def _keep(self, changes: Changes) -> None:
        rows = [(task, _initial(task)) for task in changes.new if task.id not in self._runners]
        rows += [(task, self._runners[task.id].status) for task in changes.changed if task.id in self._runners]
        if changes.templates or rows:
            await self._store.put(changes.templates, rows)
        if changes.removed:
            await self._store.going(changes.removed)

    def _act_on(self, changes: Changes) -> None:
        for task in changes.new:
            if task.id not in self._runners:
                self._hold(task, self._holdings.templates.get(task.template_id), _initial(task))
        for task in (*changes.changed, *changes.new):
            if task.id in self._runners:
                self._runners[task.id].desire(task.desired_state)
        for task_id in changes.removed:
            self._reporter.forget(task_id)
            if task_id in self._runners:
                self._runners[task_id].retire()

    async def _sweep(self) -> None:
        try:
            await self._executor.sweep(tuple(self._runners))
        except (SwarmpyError, OSError) as error:
            log.error("containers of forgotten tasks could not be removed: %s", error)

    def _hold(self, task: Task, template: TaskTemplate | None, status: TaskStatus) -> TaskRunner:
        order = Order(task, template.spec) if template is not None else None
        runner = TaskRunner(
            task, order, status, self._executor, reached=self._note, gone=self._gone,
            network_ready=self._keeper.ready, clock=self._clock,
        )
        self._runners[task.id] = runner
        self._loops[task.id] = self._begin(runner.run(), f"task {task.id}")
        return runner

    def _begin(self, loop: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a loop that ends by being cancelled, or when its work is done. If it breaks, `run` breaks with it."""
        task = asyncio.create_task(loop, name=name)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
            self._reconnect.set()

    async def _gone(self, task_id: str) -> None:
        self._reached.pop(task_id, None)
        try:
            await self._store.gone(task_id)
        except Internal as error:
            log.error("task %s is gone, but not from the disk; the next daemon looks again: %s", task_id, error)
        self._runners.pop(task_id, None)
        self._loops.pop(task_id, None)

    # ------------------------------------------------------------------------------------------ states

    def _note(self, task_id: str, status: TaskStatus) -> None:
        self._reached[task_id] = status
        self._reached_wake.set()

    async def _tell(self) -> None:
        """Write reached states down, a few at a time, then report them."""
        while True:
            await self._reached_wake.wait()
            await asyncio.sleep(GATHER_S)
            self._reached_wake.clear()
            try:
                await self._write_reached()
            except Internal as error:
                log.error("states of tasks are reported, but not on disk: %s", error)

    async def _write_reached(self) -> None:
        reached, self._reached = self._reached, {}
        if not reached:
            return
        for task_id, status in reached.items():
            task = self._holdings.tasks.get(task_id)
            if task is not None:
                on_its_way = status.state < min(task.desired_state, RUNNING) and not status.error
                self._reporter.changed(task_id, status, on_its_way=on_its_way)
        if self._session is not None:
            self._session.report()
        await self._store.observed(reached.items())

    # ------------------------------------------------------------------------------------------ logs

    def _read_logs(self, task_id: str, wish: LogWish) -> AsyncIterator[LogMessage] | None:
        runner = self._runners.get(task_id)
        if runner is None or runner.order is None:
            return None
        return self._executor.logs(runner.order, wish)


def _initial(task: Task) -> TaskStatus:
    """Where a task begins on a node that did not hold it.

    One that the store has already seen running, or beyond, is not made anew: it is looked for, and failed when gone.
    """
    status = TaskStatus()
    status.CopyFrom(task.status)
    if status.state < ASSIGNED:
        status.state = ASSIGNED
    return status


