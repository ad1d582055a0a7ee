"""A whole swarm's decisions in one process and virtual time: the real store and stages, simulated nodes.

After every applied log entry the invariants that hold at all times are checked (`Laws`); `converge` checks those that
hold once nothing is left to do. Everything random comes from one seeded source.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Protocol

from swarmpy.errors import Conflict
from swarmpy.manager.allocator import Allocator
from swarmpy.manager.control import services as control
from swarmpy.manager.orchestrator import Orchestrator, TaskReaper
from swarmpy.manager.orchestrator.progress import config_of
from swarmpy.manager.orchestrator.slots import is_live
from swarmpy.manager.scheduler import Scheduler
from swarmpy.manager.store import (
    EventKind,
    MemoryLog,
    Store,
    StoreObject,
    Transaction,
    constraints_of,
    ids_from,
    is_ingress,
    may_report,
    template_of,
)
from swarmpy.rpc.types_pb2 import (
    RUNNING,
    Cluster,
    Node,
    NodeSpec,
    NodeStatus,
    PortConfig,
    Service,
    ServiceSpec,
    Task,
    TaskState,
    UpdateConfig,
    UpdateStatus,
)
from swarmpy.worker.admission import check_runnable
from tests.orchestrator.agent import AT_ONCE, Agent

SECOND = 10**9
QUIET_TURNS = 12         # of the event loop without a log entry: then every stage waits


class VirtualTime:
    """A clock that moves when told, and a sleep that follows it."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000 * SECOND
        self.leader_is_ahead_ns = 0        # the clocks of managers differ
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def clock(self) -> int:
        """The clock of the leader."""
        return self.now_ns + self.leader_is_ahead_ns

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        await self.wake_at(self.now_ns + round(seconds * SECOND))

    def wake_at(self, now_ns: int) -> asyncio.Future[None]:
        """Done at that time, which is not passed over."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (now_ns, next(self._order), future))
        return future

    def next_wake(self) -> int | None:
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def move_to(self, now_ns: int) -> None:
        self.now_ns = max(self.now_ns, now_ns)
        while self._sleepers and self._sleepers[0][0] <= self.now_ns:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)


class Stage(Protocol):
    async def run(self) -> None: ...


class Laws:
    """The state machine the log drives: the store, with the invariants checked after each entry."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.start_first: set[str] = set()      # services that ever had the order start-first
        self.watchers: list[Callable[[], None]] = []
        self._watch = store.watch("nodes", "tasks")
        self._up_since: dict[str, int] = {}     # index at which a node was last seen to come up

    def apply(self, index: int, data: bytes) -> object:
        result = self.store.apply(index, data)
        for event in self._watch.take():
            row, old = event.object, event.old
            if isinstance(row, Node) and isinstance(old, Node) and old.status.state == NodeStatus.DOWN:
                self._up_since[row.id] = index
            elif isinstance(row, Task) and row.desired_state == RUNNING and (
                not isinstance(old, Task) or old.desired_state != RUNNING
            ):
                self._check_start(row, index)
            if event.kind is EventKind.CREATE and isinstance(row, Task) and row.by_update:
                self._check_parallelism(row)
        self.check()
        for watcher in self.watchers:
            watcher()
        return result

    def snapshot(self) -> Callable[[], bytes]:
        return self.store.snapshot()

    def load(self, index: int, data: bytes) -> Callable[[], None]:
        return self.store.load(index, data)

    def check(self) -> None:
        store = self.store
        addresses: Counter[str] = Counter(
            address for node in store.nodes.values() for address in node.ingress.addresses
        )
        slots: Counter[tuple[str, int]] = Counter()
        for task in store.tasks.values():
            if task.status.state > RUNNING:
                continue
            addresses.update(address for attachment in task.networks for address in attachment.addresses)
            if task.desired_state == RUNNING:
                slots[task.service_id, task.slot] += 1
        assert max(addresses.values(), default=0) <= 1, f"an address has two owners: {addresses.most_common(3)}"
        for (service_id, slot), count in slots.items():
            allowed = 2 if service_id in self.start_first else 1
            assert count <= allowed, f"slot {slot} of {service_id} has {count} tasks that may run"
        for node in store.nodes.values():
            self._check_node(node)
        ports: Counter[tuple[int, int]] = Counter()
        for service in store.services.values():
            ports.update({
                (port.protocol, port.published_port)
                for port in service.endpoint.ports
                if is_ingress(port)
            })
        assert max(ports.values(), default=0) <= 1, f"a port has two services: {ports.most_common(3)}"

    def _check_start(self, task: Task, index: int) -> None:
        """A task is let run: what else may still run in its slot is silent, or the old task of a start-first update."""
        for other in self.store.tasks.by_service(task.service_id):
            if other.slot != task.slot or other.id == task.id or other.status.state > RUNNING or not other.node_id:
                continue
            node = self.store.nodes.get(other.node_id)
            silent = node is None or node.status.state == NodeStatus.DOWN
            just_up = index - self._up_since.get(other.node_id, -100) < 30     # decided while it was still down
            beside = task.service_id in self.start_first and other.desired_state <= RUNNING
            assert silent or just_up or beside, f"slot {task.slot}: {task.id} may run beside {other.id}"

    def _check_parallelism(self, task: Task) -> None:
        """The update took one more slot: no more than `parallelism` are between versions, whoever began them."""
        service = self.store.services.get(task.service_id)
        if service is None or service.spec_version != task.spec_version:
            return                      # decided before the spec changed: the next look sees both
        parallelism, is_current = config_of(service).parallelism, self.store.versions.is_current
        between = {
            other.slot
            for other in self.store.tasks.by_service(service.id)
            if other.by_update and is_live(other) and not other.running_ns and is_current(service, other)
        }
        assert not parallelism or len(between) <= parallelism, (
            f"slots {sorted(between)} of {service.id} are between versions, parallelism is {parallelism}"
        )

    def _check_node(self, node: Node) -> None:
        memory = 0
        host_ports: Counter[int] = Counter()
        wanted: Counter[tuple[str, str]] = Counter()
        for task in self.store.tasks.by_node(node.id):
            if task.status.state > RUNNING:
                continue
            memory += self.store.templates[task.template_id].spec.resources.reservations.memory_bytes
            host_ports.update(
                port.published_port for port in task.ports if port.publish_mode == PortConfig.HOST
            )
            wanted[task.service_id, task.template_id] += task.desired_state <= RUNNING
        assert memory <= node.description.resources.memory_bytes, f"{node.id} is overcommitted"
        assert max(host_ports.values(), default=0) <= 1, f"a host port of {node.id} is used twice"
        for (_, template_id), count in wanted.items():
            limit = self.store.templates[template_id].spec.placement.max_replicas
            assert not limit or count <= limit, f"{node.id} has {count} replicas, {limit} are allowed"


class Simulation:
    """Build it inside a running event loop; `close` when done."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.time = VirtualTime()
        self.store = Store(self.time.clock)
        self.laws = Laws(self.store)
        self.log = MemoryLog(self.laws)
        self.store.bind(self.log)
        self.new_id = ids_from(random.Random(seed + 1))
        self.pace = AT_ONCE                     # of the nodes that are added
        self.agents: dict[str, Agent] = {}
        self._stages: dict[str, asyncio.Task[None]] = {}
        for name in self.makers():
            self.start(name)

    # ------------------------------------------------------------------------------------------ stages

    def makers(self) -> dict[str, Callable[[], Stage]]:
        store, clock, sleep = self.store, self.time.clock, self.time.sleep
        return {
            "allocator": lambda: Allocator(store, clock, self.new_id),
            "orchestrator": lambda: Orchestrator(store, clock, self.new_id, sleep),
            "reaper": lambda: TaskReaper(store, sleep),
            "scheduler": lambda: Scheduler(store, clock),
        }

    def start(self, name: str) -> None:
        self._stages[name] = asyncio.create_task(self.makers()[name]().run(), name=name)

    async def stop(self, name: str) -> None:
        """End a stage wherever it is."""
        stage = self._stages.pop(name)
        stage.cancel()
        await asyncio.gather(stage, return_exceptions=True)

    async def crash(self, name: str) -> None:
        """End a stage, and start a new one that knows the store alone."""
        await self.stop(name)
        self.start(name)

    async def new_leader(self, ahead_s: float = 0.0) -> None:
        """Another manager leads, with a clock of its own: all stages start from the store, wherever they were."""
        for name in self.makers():
            await self.stop(name)
        self.time.leader_is_ahead_ns = round(ahead_s * SECOND)
        for name in self.makers():
            self.start(name)

    async def close(self) -> None:
        for stage in self._stages.values():
            stage.cancel()
        results = await asyncio.gather(*self._stages.values(), return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    # ------------------------------------------------------------------------------------------ time

    async def turn(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        for stage in self._stages.values():
            if stage.done():
                stage.result()
                raise AssertionError(f"stage {stage.get_name()} ended")

    async def idle(self) -> None:
        """Until no stage has anything to do at this time."""
        while True:
            before = len(self.log.entries)
            await self.turn(QUIET_TURNS)
            if len(self.log.entries) == before:
                return

    async def settle(self) -> None:
        """Until neither stages nor connected agents have anything to do at this time."""
        while True:
            await self.idle()
            before = len(self.log.entries)
            for node_id in sorted(self.agents):
                await self.work(node_id)
            if len(self.log.entries) == before:
                return

    async def advance(self, seconds: float) -> None:
        end = self.time.now_ns + round(seconds * SECOND)
        await self.settle()
        while (wake := self.time.next_wake()) is not None and wake <= end:
            self.time.move_to(wake)
            await self.settle()
        self.time.move_to(end)
        await self.settle()

    # ------------------------------------------------------------------------------------------ writing

    async def put(self, *rows: StoreObject) -> None:
        transaction = Transaction()
        transaction.put(*rows)
        await self.store.commit(transaction)

    async def remove(self, row: StoreObject) -> None:
        transaction = Transaction()
        transaction.remove(row)
        await self.store.commit(transaction)

    async def cluster(self, subnet_size: int = 24, history: int | None = None) -> None:
        cluster = Cluster(id="cluster", subnet_size=subnet_size)
        if history is not None:
            cluster.spec.task_history_limit = history
        await self.put(cluster)

    async def add_node(self, name: str, memory: int = 1000, labels: dict[str, str] | None = None) -> None:
        node = Node(id=name)
        node.description.hostname = name
        node.description.platform.os, node.description.platform.architecture = "linux", "x86_64"
        node.description.resources.memory_bytes = memory
        node.description.resources.nano_cpus = 8 * SECOND
        node.status.state = NodeStatus.READY
        for key, value in (labels or {}).items():
            node.spec.annotations.labels[key] = value
        self.agents[name] = Agent(self.pace, self.time.wake_at)
        await self.put(node)

    async def change_node(self, name: str, change: Callable[[Node], None]) -> None:
        while True:
            node = Node()
            node.CopyFrom(self.store.nodes[name])
            change(node)
            try:
                await self.put(node)
            except Conflict:        # a stage wrote to the node meanwhile: read it again
                continue
            return

    async def silence(self, name: str) -> None:
        """The node is cut off; what it runs goes on running."""
        self.agents[name].connected = False
        await self.change_node(name, lambda node: setattr(node.status, "state", NodeStatus.DOWN))

    async def back(self, name: str) -> None:
        self.agents[name].connected = True
        self.agents[name].say_all()
        await self.change_node(name, lambda node: setattr(node.status, "state", NodeStatus.READY))

    async def availability(self, name: str, value: NodeSpec.Availability) -> None:
        await self.change_node(name, lambda node: setattr(node.spec, "availability", value))

    async def label(self, name: str, key: str, value: str) -> None:
        def change(node: Node) -> None:
            node.spec.annotations.labels[key] = value

        await self.change_node(name, change)

    async def remove_node(self, name: str) -> None:
        del self.agents[name]
        await self.remove(self.store.nodes[name])

    async def create_service(self, spec: ServiceSpec) -> Service:
        service = Service(id=f"id-{spec.annotations.name}", spec=spec, spec_version=1)
        template = template_of(spec.task)
        service.template_id = template.id
        self._note_order(service)
        await self.put(template, service)
        return service

    async def update_service(self, name: str, change: Callable[[ServiceSpec], None]) -> None:
        """As control does it: the old spec is kept, and the update status cleared."""
        old = self.store.services.by_name(name)
        assert old is not None
        service = Service()
        service.CopyFrom(old)
        service.previous_spec.CopyFrom(old.spec)
        change(service.spec)
        service.spec_version += 1
        template = template_of(service.spec.task)
        service.template_id = template.id
        service.ClearField("update_status")
        self._note_order(service)
        await self.put(template, service)

    async def roll_back(self, name: str) -> None:
        """As `docker service rollback` does it, by control's own code."""
        service = self.store.services.by_name(name)
        assert service is not None
        transaction = control.update_service(
            self.store, service.id, service.meta.version, None, self.time.clock(), check_runnable
        )
        await self.store.commit(transaction)

    def _note_order(self, service: Service) -> None:
        orders = (service.spec.update.order, service.spec.rollback.order)
        if UpdateConfig.START_FIRST in orders:
            self.laws.start_first.add(service.id)

    # ------------------------------------------------------------------------------------------ agents

    def image_of(self, task: Task) -> str:
        return self.store.templates[task.template_id].spec.container.image

    async def work(self, node_id: str) -> None:
        """Let a node do what it can, one step for each task, and report."""
        agent = self.agents[node_id]
        agent.hear(list(self.store.tasks.by_node(node_id)), self.image_of)
        agent.step(self.time.now_ns)
        await self.report(node_id)

    async def end(self, node_id: str, task_id: str, state: TaskState) -> None:
        """A container ends by itself."""
        self.agents[node_id].actual[task_id] = state
        await self.report(node_id)

    async def report(self, node_id: str) -> None:
        agent = self.agents[node_id]
        if not agent.connected:
            return
        for task_id, state in agent.news(self.time.now_ns).items():
            task = self.store.tasks.get(task_id)
            if task is None or task.status.state == state or not may_report(task.status.state, state):
                continue
            report = Task()
            report.CopyFrom(task)
            report.status.state, report.status.timestamp_ns = state, self.time.now_ns
            report.status.message, report.status.error = TaskState.Name(state).lower(), ""
            try:
                await self.put(report)
            except Conflict:
                agent.say_again(task_id)

    # ------------------------------------------------------------------------------------------ looking

    def running(self, name: str) -> list[Task]:
        service = self.store.services.by_name(name)
        assert service is not None
        return [
            task
            for task in self.store.tasks.by_service(service.id)
            if task.status.state == RUNNING and task.desired_state == RUNNING
        ]

    def check_rest(self) -> None:
        """With every stage waiting: no task is wanted on a node that cannot have it."""
        for task in self.store.tasks.values():
            if task.node_id and task.desired_state <= RUNNING and task.status.state <= RUNNING:
                node = self.store.nodes.get(task.node_id)
                assert node is not None, f"{task.id} is wanted on {task.node_id}, which was removed"
                assert node.status.state != NodeStatus.DOWN, f"{task.id} is wanted on {task.node_id}, which is down"
                assert node.spec.availability != NodeSpec.DRAIN, f"{task.id} is wanted on a drained node"

    def check_converged(self, name: str) -> None:
        """Every replica runs, on a node that may have it, from the version that the update's end asks for."""
        service = self.store.services.by_name(name)
        assert service is not None
        running = self.running(name)
        replicas = service.spec.mode.replicated.replicas
        assert len(running) == replicas, f"{name}: {len(running)} of {replicas} run"
        assert len({task.slot for task in running}) == replicas
        state = service.update_status.state
        assert state not in (UpdateStatus.UPDATING, UpdateStatus.ROLLBACK_STARTED), f"{name} is still updating"
        if state not in (UpdateStatus.PAUSED, UpdateStatus.ROLLBACK_PAUSED):
            assert all(self.store.versions.is_current(service, task) for task in running), f"{name} has old tasks"
        for task in running:
            node = self.store.nodes[task.node_id]
            spec = self.store.templates[task.template_id].spec
            assert node.status.state == NodeStatus.READY
            assert node.spec.availability != NodeSpec.DRAIN
            if node.spec.availability == NodeSpec.ACTIVE:
                assert all(constraint.admits(node) for constraint in constraints_of(spec.placement.constraints))


def service_spec(name: str, replicas: int = 1, image: str = "web:1", **options: object) -> ServiceSpec:
    """A spec with the defaults that tests want; `options` as in `apply_option`."""
    spec = ServiceSpec()
    spec.annotations.name = name
    spec.mode.replicated.replicas = replicas
    spec.task.container.image = image
    for key, value in options.items():
        apply_option(spec, key, str(value))
    return spec


def apply_option(spec: ServiceSpec, key: str, value: str) -> None:
    """One `key=value` of a story, in seconds and bytes. `rollback_parallelism` and its like are of the rollback."""
    task, update = spec.task, spec.rollback if key.startswith("rollback_") else spec.update

    def number() -> int:
        return round(float(value) * SECOND)

    options: dict[str, Callable[[], object]] = {
        "replicas": lambda: setattr(spec.mode.replicated, "replicas", int(value)),
        "image": lambda: setattr(task.container, "image", value),
        "memory": lambda: setattr(task.resources.reservations, "memory_bytes", int(value)),
        "constraint": lambda: task.placement.constraints.append(value),
        "auth": lambda: setattr(task.container, "registry_auth", value),
        "spread": lambda: task.placement.preferences.add(spread_descriptor=value),
        "max_replicas": lambda: setattr(task.placement, "max_replicas", int(value)),
        "publish": lambda: spec.endpoint.ports.add(published_port=int(value), target_port=80),
        "host_port": lambda: spec.endpoint.ports.add(
            published_port=int(value), target_port=80, publish_mode=PortConfig.HOST
        ),
        "restart": lambda: setattr(task.restart, "condition", _enum(task.restart, "condition", value)),
        "restart_delay": lambda: setattr(task.restart, "delay_ns", number()),
        "attempts": lambda: setattr(task.restart, "max_attempts", int(value)),
        "window": lambda: setattr(task.restart, "window_ns", number()),
        "parallelism": lambda: setattr(update, "parallelism", int(value)),
        "delay": lambda: setattr(update, "delay_ns", number()),
        "monitor": lambda: setattr(update, "monitor_ns", number()),
        "order": lambda: setattr(update, "order", _enum(update, "order", value)),
        "on_failure": lambda: setattr(update, "failure_action", _enum(update, "failure_action", value)),
        "ratio": lambda: setattr(update, "max_failure_ratio", float(value)),
    }
    options[key.removeprefix("rollback_")]()


def _enum(message: object, field: str, value: str) -> int:
    descriptor = message.DESCRIPTOR.fields_by_name[field]  # type: ignore[attr-defined]  # any message
    number: int = descriptor.enum_type.values_by_name[value.upper().replace("-", "_")].number
    return number


def simulate(story: Callable[[Simulation], Coroutine[object, object, None]], seed: int = 0) -> None:
    """Run a story in a simulation of its own."""

    async def main() -> None:
        simulation = Simulation(seed)
        try:
            await story(simulation)
        finally:
            await simulation.close()

    asyncio.run(main())
