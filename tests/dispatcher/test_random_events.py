"""A dispatcher and its nodes under random events: leaders that change, nodes that are slow, silent or replaced, lies.

The real dispatcher over the real store, and of the worker the real session, reporter and holdings; in between streams
without a network, in virtual time. What must always hold is checked after every log entry and every message; once
everything is mended and nothing changes any more, all must agree: incrementally, and anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable
from typing import Any

import grpc
from hypothesis import example, given, settings
from hypothesis import strategies as st

from swarmpy.errors import Conflict, InvalidArgument
from swarmpy.manager.dispatcher import Dispatcher
from swarmpy.manager.dispatcher.assignments import assigned_to
from swarmpy.manager.dispatcher.mesh import WITHDRAWAL_NS, endpoint_of
from swarmpy.manager.dispatcher.sessions import DEFAULT_PERIOD_NS, GRACE_PERIODS
from swarmpy.manager.store import MemoryLog, Store, Transaction, template_of
from swarmpy.rpc.dispatcher_pb2 import Assignments, FromAgent, StatusReport, TaskStatusUpdate, ToAgent, Welcome
from swarmpy.rpc.types_pb2 import (
    ACCEPTED,
    ASSIGNED,
    COMPLETE,
    FAILED,
    ORPHANED,
    PREPARING,
    READY,
    REMOVE,
    RUNNING,
    SHUTDOWN,
    STARTING,
    Cluster,
    Network,
    Node,
    NodeDescription,
    NodeStatus,
    PortConfig,
    Service,
    Task,
    TaskSpec,
    TaskState,
    TaskStatus,
)
from swarmpy.worker.holdings import Holdings
from swarmpy.worker.reporter import Reporter
from swarmpy.worker.session import Session
from tests.dispatcher.virtual_wire import Channel, Server, run_in_virtual_time
from tests.dispatcher.wire import named_peer

S = 1_000_000_000
NODES = 3
SERVICES = 2
GRACE_S = GRACE_PERIODS * DEFAULT_PERIOD_NS / S
MENDED_S = 16.0                  # longer than any grace, pause and withdrawal together
BELOW_RUNNING = (ASSIGNED, ACCEPTED, PREPARING, READY, STARTING, RUNNING)

NUMBER = st.integers(0, 30)
ACTS = st.one_of(
    st.tuples(st.sampled_from(["task", "task", "task", "stop", "remove", "remove", "orphan"]), NUMBER),
    st.tuples(st.sampled_from(["pause", "resume", "close", "cut", "lie", "say_late", "say_old", "fail"]), NUMBER),
    st.tuples(st.sampled_from(["node_gone", "node_comes", "node_changes", "ports"]), NUMBER),
    st.tuples(st.sampled_from(["another_leads", "nobody_leads"]), NUMBER),
    st.tuples(st.just("wait"), st.sampled_from([1, 3, 10, 30, 70])),
    st.tuples(st.just("wait"), st.sampled_from([1, 3, 10, 30, 70])),
)


class Laws:
    """The state machine that the log drives: the store, looked at after each entry."""

    def __init__(self, swarm: Swarm, store: Store) -> None:
        self.swarm, self.store = swarm, store
        self._watch = store.watch("nodes", "tasks")

    def apply(self, index: int, data: bytes) -> object:
        result = self.store.apply(index, data)
        for event in self._watch.take():
            row, old = event.object, event.old
            if isinstance(row, Task):
                assert row.status.message not in ("lie", "late"), f"{row.id}: a {row.status.message} is in the store"
                if row.status.message == "old" and isinstance(old, Task):
                    assert row.status.state >= old.status.state, f"{row.id} went back"
                if isinstance(old, Task) and row.desired_state > RUNNING >= old.desired_state:
                    self.swarm.told_to_stop_s[row.id] = self.swarm.now_s()
            elif isinstance(row, Node) and isinstance(old, Node):
                self._check_node(old, row)
        return result

    def _check_node(self, old: Node, node: Node) -> None:
        if node.status.state == NodeStatus.DOWN != old.status.state:
            silent_s = self.swarm.now_s() - self.swarm.agents[node.id].heard_s()
            assert silent_s >= GRACE_S, f"{node.id} is DOWN though it spoke {silent_s:.2f} s ago"

    def snapshot(self) -> Callable[[], bytes]:
        return self.store.snapshot()

    def load(self, index: int, data: bytes) -> Callable[[], None]:
        return self.store.load(index, data)


class Agent:
    """A node: what it holds, what it has done with it, and how it speaks with whoever leads."""

    def __init__(self, swarm: Swarm, node_id: str) -> None:
        self.swarm, self.node_id, self.rng = swarm, node_id, random.Random(f"{swarm.seed} {node_id}")
        self.holdings, self.reporter = Holdings(), Reporter()
        self.states: dict[str, TaskStatus] = {}
        self.endpoints: set[str] = set()                     # in its kernel
        self._coming: set[str] = set()                       # of a view that is not whole yet
        self.running = asyncio.Event()                       # cleared while it is paused
        self.running.set()
        self.welcomed = False
        self.whole = False                                   # this session's complete set has come
        slowest = self.rng.choice([0.0, 0.05, 0.5])
        self.pace: Callable[[], float] = lambda: self.rng.uniform(0, slowest)
        self.channel = Channel(node_id, lambda: swarm.server, self.pace)
        self.session: Session | None = None

    def heard_s(self) -> float:
        return max((call.heard_s for call in self.channel.calls), default=-GRACE_S)

    async def live(self) -> None:
        """Sessions, one after the other."""
        while True:
            await self.running.wait()
            self.reporter.session()
            self.session = Session(self.channel, self.reporter, self.rng, ())  # type: ignore[arg-type]
            held = [TaskStatusUpdate(task_id=key, status=status) for key, status in self.states.items()]
            self.whole = False
            with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError, asyncio.InvalidStateError):
                await self.session.serve(NodeDescription(hostname=self.node_id), "", held, self._welcomed, self._hear)
            self.welcomed = False
            await asyncio.sleep(0.1 + self.pace())

    def _welcomed(self, welcome: Welcome) -> None:
        assert welcome.node_id == self.node_id
        self.welcomed = True

    async def _hear(self, message: ToAgent) -> None:
        await self.running.wait()
        await asyncio.sleep(self.pace())
        kind = message.WhichOneof("message")
        if kind == "assignments":
            self._take(message.assignments)
        elif kind == "stored":
            self.reporter.stored(message.stored.sequence)
        elif kind == "mesh":
            update = message.mesh
            self._coming = set() if update.complete else self._coming
            self._coming |= {task.id for task in update.tasks}
            self._coming -= set(update.removed_tasks)
            if not update.more:
                self.endpoints = set(self._coming)
                assert self.session is not None
                self.session.mesh_applied(update.version)

    def _take(self, message: Assignments) -> None:
        for task in message.tasks:
            assert assigned_to(task, self.node_id), f"{self.node_id} was told of {task.id} of {task.node_id}"
        changes = self.holdings.apply(message)
        self.whole |= changes.complete
        for task in message.tasks:
            assert self.whole is False or task.template_id in self.holdings.templates, f"{task.id} has no template"
            if task.desired_state > RUNNING:
                self.swarm.check_withdrawn(task)
        for task in changes.new:
            self.states[task.id] = TaskStatus(state=max(task.status.state, ASSIGNED))
        for task_id in changes.removed:
            self.states.pop(task_id, None)
            self.reporter.forget(task_id)

    async def work(self) -> None:
        """Take the tasks toward what is wanted, a step at a time."""
        while True:
            await asyncio.sleep(0.2 + self.pace())
            await self.running.wait()
            for task_id, task in self.holdings.tasks.items():
                state = self.states[task_id].state
                if state > RUNNING or self.rng.random() < 0.3:
                    continue
                if task.desired_state > RUNNING:
                    self.observe(task_id, SHUTDOWN)
                elif state < min(task.desired_state, RUNNING):
                    later = BELOW_RUNNING[BELOW_RUNNING.index(state) + 1 :]
                    self.observe(task_id, self.rng.choice(later[:2]))

    def observe(self, task_id: str, state: TaskState) -> None:
        self.states[task_id] = TaskStatus(state=state)
        self.reporter.changed(task_id, self.states[task_id])
        if self.session is not None:
            self.session.report()


class Swarm:
    """Nodes, a store, and whoever leads; and somebody who does one thing after the other to them."""

    def __init__(self, seed: int) -> None:
        self.seed, self.rng = seed, random.Random(seed)
        self.loop = asyncio.get_running_loop()
        self.failures: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.failures.append(str(context)))
        self.told_to_stop_s: dict[str, float] = {}
        self.store = Store(lambda: int(self.now_s() * S))
        self.log = MemoryLog(Laws(self, self.store))
        self.store.bind(self.log)
        self.ids = (f"id{number:04}" for number in itertools.count())
        self.agents: dict[str, Agent] = {}
        self._running: list[asyncio.Task[None]] = []
        self._new_manager()

    def now_s(self) -> float:
        return self.loop.time()

    # ------------------------------------------------------------------------------------------ who leads

    def _new_manager(self) -> None:
        self._dispatcher = Dispatcher(
            self.store, self.log, named_peer, monotonic=lambda: int(self.now_s() * S), new_id=lambda: next(self.ids),
            host_answers=self._host_answers,
        )
        self.server = Server(self._dispatcher)
        self._leading: asyncio.Task[None] | None = None

    async def _host_answers(self, host: str, port: int, patience_s: float) -> bool:
        await asyncio.sleep(self.rng.uniform(0, patience_s))
        return self.rng.random() < 0.5

    def lead(self) -> None:
        if self._leading is None:
            self._leading = asyncio.create_task(self._dispatcher.run())

    async def nobody_leads(self) -> None:
        """The leader falls, wherever it is; the manager that agents find then does not serve."""
        if self._leading is not None:
            self._leading.cancel()
            [result] = await asyncio.gather(self._leading, return_exceptions=True)
            assert isinstance(result, asyncio.CancelledError), result
        self._new_manager()

    # ------------------------------------------------------------------------------------------ life

    async def begin(self) -> None:
        transaction = Transaction()
        ingress = Network(id="ingress")
        ingress.spec.ingress = True
        ingress.spec.annotations.name = "ingress"
        transaction.put(Cluster(id="cluster"), ingress)
        for number in range(SERVICES):
            spec = TaskSpec()
            spec.container.image = f"image{number}"
            service = Service(id=f"s{number}", template_id=template_of(spec).id)
            service.spec.annotations.name = service.id
            service.endpoint.ports.add(published_port=80 + number, target_port=80)
            transaction.put(template_of(spec), service)
        transaction.put(*(self.node(number) for number in range(NODES)))
        await self.store.commit(transaction)
        self.lead()
        for number in range(NODES):
            agent = self.agents[f"n{number}"] = Agent(self, f"n{number}")
            self._running += [asyncio.create_task(agent.live()), asyncio.create_task(agent.work())]
        await self.wait(1)

    def node(self, number: int) -> Node:
        node = Node(id=f"n{number}")
        node.ingress.network_id = "ingress"
        node.ingress.addresses.append(f"10.0.0.{200 + number}/24")
        return node

    async def close(self) -> None:
        tasks = [*self._running, *([self._leading] if self._leading is not None else [])]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert not self.failures, self.failures
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        for task in (*self._running, self._leading):
            if task is not None and task.done():
                task.result()
        assert not self.failures, self.failures

    # ------------------------------------------------------------------------------------------ laws

    def check_withdrawn(self, task: Task) -> None:
        """Its owner hears that it is to stop: nobody sends it connections any more, or had long enough."""
        present = self.store.tasks.get(task.id)
        told_s = self.told_to_stop_s.get(task.id)
        if present is None or present.status.state != RUNNING or told_s is None:
            return
        for agent in self.agents.values():
            if agent.welcomed and task.id in agent.endpoints:
                assert (self.now_s() - told_s) * S >= WITHDRAWAL_NS, (
                    f"{task.id} is to stop while {agent.node_id} sends it connections"
                )

    async def check_agreement(self) -> None:
        """Mend everything, wait, and compare the nodes with the store."""
        await self.mend()
        await self.wait(MENDED_S)
        self._compare("as told bit by bit")
        for agent in self.agents.values():
            agent.holdings = Holdings()
            agent.states.clear()
            agent.channel.calls[-1].cancel()
        kept = {task.id: task.status.state for task in self.store.tasks.values()}
        await self.wait(MENDED_S)
        self._compare("as told anew")
        assert kept == {task.id: task.status.state for task in self.store.tasks.values()}

    def _compare(self, how: str) -> None:
        store = self.store
        ingress_view = {task.id for task in store.tasks.values() if endpoint_of(task, "ingress") is not None}
        for node_id, agent in self.agents.items():
            mine = {task.id: task for task in store.tasks.by_node(node_id)}
            assert agent.whole and agent.welcomed, f"{how}: {node_id} has no complete set"
            held = {key: task.desired_state for key, task in agent.holdings.tasks.items()}
            assert held == {key: task.desired_state for key, task in mine.items()}, f"{how}: {node_id}"
            assert set(agent.holdings.templates) == {task.template_id for task in mine.values()}, f"{how}: {node_id}"
            assert agent.endpoints == ingress_view, f"{how}: {node_id} sends connections elsewhere"
            assert not agent.reporter.owed, f"{how}: {node_id} was not told what is stored"
            assert store.nodes[node_id].status.state == NodeStatus.READY
            for task_id, task in mine.items():
                seen = agent.states[task_id].state
                assert task.status.state == seen or task.status.state == ORPHANED, f"{how}: {task_id}"

    # ------------------------------------------------------------------------------------------ events

    async def act(self, act: str, number: int) -> None:
        node_id = f"n{number % NODES}"
        agent = self.agents[node_id]
        if act == "wait":
            await self.wait(number / 10)
        elif act == "another_leads":
            await self.nobody_leads()
            self.lead()
        elif act == "nobody_leads":
            await self.nobody_leads()
        elif act == "pause":
            agent.running.clear()
        elif act == "resume":
            agent.running.set()
        elif act == "close":
            agent.channel.calls[-1].cancel()
        elif act == "cut":
            agent.channel.calls[-1].cut()
        elif act == "fail":
            alive = sorted(key for key, status in agent.states.items() if status.state <= RUNNING)
            if alive:
                agent.observe(alive[number % len(alive)], self.rng.choice([FAILED, COMPLETE]))
        elif act == "lie":
            others = [task.id for task in self.store.tasks.values() if task.node_id != node_id]
            agent.channel.calls[-1].post(report_of("lie", others, FAILED))
        elif act == "say_late":
            for call in agent.channel.calls[:-1]:
                call.post(report_of("late", list(self.store.tasks), FAILED))
        elif act == "say_old":
            agent.channel.calls[-1].post(report_of("old", list(agent.states), ASSIGNED))
        else:
            await self.change(act, number)

    async def change(self, act: str, number: int) -> None:
        """Somebody writes to the store, as what the dispatcher does not do itself."""
        transaction = Transaction()
        tasks = list(self.store.tasks.values())
        node = self.store.nodes.get(f"n{number % NODES}")
        if act == "task" and node is not None:
            transaction.put(self.new_task(node.id, f"s{number % SERVICES}"))
        elif act in ("stop", "orphan") and tasks:
            task = copy_of(tasks[number % len(tasks)])
            if act == "stop":
                task.desired_state = max(task.desired_state, self.rng.choice([SHUTDOWN, REMOVE]))
            elif task.status.state <= RUNNING:
                task.status.state = ORPHANED
                task.desired_state = max(task.desired_state, SHUTDOWN)
            transaction.put(task)
        elif act == "remove" and tasks:
            transaction.remove(tasks[number % len(tasks)])
        elif act == "node_gone" and node is not None:
            transaction.remove(node)
        elif act == "node_comes" and node is None:
            transaction.put(self.node(number % NODES))
        elif act == "node_changes" and node is not None:
            changed = copy_of(node)
            changed.spec.annotations.labels["tried"] += "x"
            transaction.put(changed)
        elif act == "ports":
            service = copy_of(self.store.services[f"s{number % SERVICES}"])
            service.endpoint.ports[0].publish_mode = self.rng.choice([PortConfig.INGRESS, PortConfig.HOST])
            transaction.put(service)
        with contextlib.suppress(Conflict, InvalidArgument):     # the dispatcher was faster
            await self.store.commit(transaction)

    def new_task(self, node_id: str, service_id: str) -> Task:
        service = self.store.services[service_id]
        task = Task(id=next(self.ids), service_id=service_id, template_id=service.template_id, node_id=node_id)
        task.desired_state, task.status.state = self.rng.choice([READY, RUNNING]), ASSIGNED
        task.networks.add(network_id="ingress", addresses=[f"10.0.0.{2 + len(self.store.tasks)}/24"])
        return task

    async def mend(self) -> None:
        """Everybody is there, and somebody leads."""
        self.lead()
        for number, agent in enumerate(self.agents.values()):
            agent.running.set()
            await self.change("node_comes", number)


def copy_of(row: Any) -> Any:
    copy = type(row)()
    copy.CopyFrom(row)
    return copy


def report_of(message: str, task_ids: list[str], state: TaskState) -> FromAgent:
    """Of all these tasks, beside what the reporter says."""
    status = TaskStatus(state=state, message=message)
    updates = [TaskStatusUpdate(task_id=task_id, status=status) for task_id in task_ids]
    return FromAgent(report=StatusReport(updates=updates))


# The leader changes while a node's first words are on their way to the one before.
HELLO_TOO_LATE = [
    ("node_gone", 0), *[("task", 0)] * 2, ("wait", 16), *[("task", 0)] * 6, ("another_leads", 0), ("wait", 3),
    ("task", 0), ("another_leads", 0),
]  # fmt: skip


@settings(deadline=None, max_examples=50)
@example(0, HELLO_TOO_LATE)
@given(st.integers(0, 10**6), st.lists(ACTS, min_size=20, max_size=60))
def test_all_agree_in_the_end_and_nobody_acts_on_what_is_not_his(seed: int, script: list[tuple[str, int]]) -> None:
    async def story() -> None:
        swarm = Swarm(seed)
        try:
            await swarm.begin()
            for act, number in script:
                await swarm.act(act, number)
            await swarm.check_agreement()
        finally:
            await swarm.close()

    run_in_virtual_time(story())
