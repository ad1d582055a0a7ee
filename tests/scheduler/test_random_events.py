"""The scheduler stage alone, while nodes come, go, shrink, drain and change their labels, and the stage crashes.

Real store, log in memory, real stage. Judged by a plain reading of the store: after every log entry, no assignment
takes what a node does not have or stands where it may not; at rest, nothing waits that fits, and what waits says why.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Coroutine, Iterable

from hypothesis import example, given, settings
from hypothesis import strategies as st

from swarmpy.manager.scheduler import Scheduler
from swarmpy.manager.store import Event, Store, template_of
from swarmpy.rpc.types_pb2 import (
    ASSIGNED,
    FAILED,
    PENDING,
    RUNNING,
    SHUTDOWN,
    Node,
    NodeSpec,
    NodeStatus,
    PortConfig,
    Service,
    Task,
    TaskSpec,
)
from tests.store.lone_stage import Laws, LoneStage, run

NODES, SERVICES = 4, 4
STATES = [NodeStatus.READY, NodeStatus.READY, NodeStatus.DOWN, NodeStatus.UNKNOWN, NodeStatus.DISCONNECTED]
AVAILABLE = [NodeSpec.ACTIVE, NodeSpec.ACTIVE, NodeSpec.PAUSE, NodeSpec.DRAIN]
MEMORY = [100, 250, 400]
DISKS = ["ssd", "hdd"]

REST = ("rest", 0, 0)
NODE = st.integers(0, NODES - 1)
ACTS = st.one_of(
    st.tuples(st.just("tasks"), st.integers(0, SERVICES - 1), st.integers(1, 4)),
    st.tuples(st.just("tasks"), st.integers(0, SERVICES - 1), st.integers(1, 4)),
    st.tuples(st.sampled_from(["runs", "ends", "unwanted", "gone"]), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("node"), NODE, st.integers(0, 2)),
    st.tuples(st.just("node_gone"), NODE, st.just(0)),
    st.tuples(st.just("state"), NODE, st.integers(0, len(STATES) - 1)),
    st.tuples(st.just("available"), NODE, st.integers(0, len(AVAILABLE) - 1)),
    st.tuples(st.just("memory"), NODE, st.integers(0, len(MEMORY) - 1)),
    st.tuples(st.just("disk"), NODE, st.integers(0, len(DISKS) - 1)),
    st.tuples(st.sampled_from(["crash", "another_leads", "rest"]), st.just(0), st.just(0)),
    st.tuples(st.just("turn"), st.integers(1, 4), st.just(0)),
)


def specs() -> list[TaskSpec]:
    """What the services ask for: nothing, memory, a disk, few on a node; each of several things."""
    plain, memory, disk, few = TaskSpec(), TaskSpec(), TaskSpec(), TaskSpec()
    memory.resources.reservations.memory_bytes = 100
    disk.resources.reservations.memory_bytes = 50
    disk.placement.constraints.append("node.labels.disk == ssd")
    few.placement.max_replicas = 2
    few.placement.constraints.append("node.labels.disk != hdd")
    plain.placement.preferences.add(spread_descriptor="node.labels.disk")
    return [plain, memory, disk, few]


def may_stand_on(node: Node, spec: TaskSpec) -> bool:
    """Whether the node as such takes tasks of this kind."""
    disk = node.spec.annotations.labels.get("disk", "")
    admitted = {"node.labels.disk == ssd": disk == "ssd", "node.labels.disk != hdd": disk != "hdd"}
    return (
        node.status.state == NodeStatus.READY
        and node.spec.availability == NodeSpec.ACTIVE
        and all(admitted[constraint] for constraint in spec.placement.constraints)
    )


class SchedulerLaws(Laws):
    """No assignment takes what a node does not have, or stands where it may not."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._lately: dict[str, list[Node]] = {}             # the versions of each node that the stage may go by

    def at_rest(self) -> None:
        """The stage has seen everything."""
        self._lately = {node.id: [node] for node in self.store.nodes.values()}

    def look(self, events: Iterable[Event]) -> None:
        for event in events:
            row, old = event.object, event.old
            if isinstance(row, Node):
                self._lately.setdefault(row.id, []).append(row)
            elif isinstance(row, Task) and isinstance(old, Task) and row.node_id != old.node_id:
                self._check_assignment(row)

    def _check_assignment(self, task: Task) -> None:
        spec = self.store.templates[task.template_id].spec
        node = next((node for node in self._lately[task.node_id] if may_stand_on(node, spec)), None)
        assert node is not None, f"{task.id} may not stand on {task.node_id}"
        largest = max(node.description.resources.memory_bytes for node in self._lately[task.node_id])
        memory = spec.resources.reservations.memory_bytes
        assert not memory or reserved(self.store, task.node_id) <= largest, f"{task.node_id} is overcommitted"
        ports = Counter(itertools.chain.from_iterable(map(host_ports, living(self.store, task.node_id))))
        assert max(ports.values(), default=0) <= 1, f"a host port of {task.node_id} is used twice"
        limit = spec.placement.max_replicas
        assert not limit or wanted(self.store, task) <= limit, f"{task.node_id} has more than {limit} of a service"


def living(store: Store, node_id: str) -> list[Task]:
    return [task for task in store.tasks.by_node(node_id) if task.status.state <= RUNNING]


def reserved(store: Store, node_id: str) -> int:
    tasks = living(store, node_id)
    return sum(store.templates[task.template_id].spec.resources.reservations.memory_bytes for task in tasks)


def host_ports(task: Task) -> list[int]:
    return [port.published_port for port in task.ports if port.publish_mode == PortConfig.HOST]


def wanted(store: Store, task: Task) -> int:
    """How many tasks of the task's service are wanted on its node."""
    return sum(
        other.service_id == task.service_id and other.desired_state <= RUNNING for other in living(store, task.node_id)
    )


class Swarm(LoneStage):
    """Tasks of all kinds, and nodes that change under them."""

    laws: SchedulerLaws

    def __init__(self) -> None:
        super().__init__(SchedulerLaws)

    def stage(self) -> Coroutine[object, object, None]:
        return Scheduler(self.store, lambda: next(self.ticks)).run()

    async def begin(self) -> None:
        for number, spec in enumerate(specs()):
            service = Service(id=f"s{number}", template_id=template_of(spec).id, spec={"task": spec})
            service.spec.annotations.name = service.id
            self.put(template_of(spec), service)
        for number in range(2):
            await self.act("node", number, 2)
        await self.rest()

    def at_rest(self) -> None:
        """Whatever waits fits nowhere, and says why."""
        self.laws.at_rest()
        for task in self.store.tasks.values():
            if task.status.state == PENDING and task.desired_state <= RUNNING:
                fitting = [node.id for node in self.store.nodes.values() if self._fits(node, task)]
                assert not fitting, f"{task.id} waits, and fits on {fitting}"
                assert task.status.error.startswith("no suitable node"), f"{task.id} does not say why it waits"

    def _fits(self, node: Node, task: Task) -> bool:
        spec = self.store.templates[task.template_id].spec
        there = living(self.store, node.id)
        memory, limit = spec.resources.reservations.memory_bytes, spec.placement.max_replicas
        of_service = sum(other.service_id == task.service_id and other.desired_state <= RUNNING for other in there)
        taken = set(itertools.chain.from_iterable(map(host_ports, there)))
        return (
            may_stand_on(node, spec)
            and (not memory or reserved(self.store, node.id) + memory <= node.description.resources.memory_bytes)
            and (not limit or of_service < limit)
            and taken.isdisjoint(host_ports(task))
        )

    # ------------------------------------------------------------------------------------------ events

    async def act(self, act: str, number: int, value: int) -> None:
        if act == "crash":
            await self.crash()
        elif act == "another_leads":
            await self.another_leads()
        elif act == "rest":
            await self.rest()
        elif act == "turn":
            await self.turn(number)
        elif act == "tasks":
            self.put(*(self._task(f"s{number}") for _ in range(value)))
        elif act in ("runs", "ends", "unwanted", "gone"):
            self._change_task(act, number)
        else:
            self._change_node(act, f"n{number}", value)

    def _task(self, service_id: str) -> Task:
        template_id = self.store.services[service_id].template_id
        task = Task(id=next(self.ids), service_id=service_id, template_id=template_id, desired_state=RUNNING)
        task.status.state = PENDING
        if service_id == "s3":
            task.ports.add(target_port=80, published_port=80, publish_mode=PortConfig.HOST)
        return task

    def _change_task(self, act: str, number: int) -> None:
        tasks = list(self.store.tasks.values())
        if not tasks:
            return
        present = tasks[number % len(tasks)]
        if act == "gone":
            self.remove(present)
            return
        task = Task()
        task.CopyFrom(present)
        if act == "unwanted":
            task.desired_state = SHUTDOWN
        elif task.status.state <= RUNNING:
            if act == "ends":
                task.status.state = FAILED
            elif task.node_id:
                task.status.state = RUNNING
        self.put(task)

    def _change_node(self, act: str, node_id: str, value: int) -> None:
        present = self.store.nodes.get(node_id)
        node = Node(id=node_id)
        node.CopyFrom(present or node)
        if act == "node":
            if present is not None:
                return
            node.status.state = NodeStatus.READY
            node.description.resources.memory_bytes = MEMORY[value]
        elif present is None:
            return
        elif act == "node_gone":
            self.remove(present)
            return
        elif act == "state":
            node.status.state = STATES[value]
        elif act == "available":
            node.spec.availability = AVAILABLE[value]
        elif act == "memory":
            node.description.resources.memory_bytes = MEMORY[value]
        else:
            node.spec.annotations.labels["disk"] = DISKS[value]
        self.put(node)


@settings(deadline=None, max_examples=100)
@given(st.lists(ACTS, min_size=10, max_size=60))
@example([("tasks", 1, 4)] * 3 + [REST, ("tasks", 1, 4)])                # more of what did not fit
@example([("tasks", 3, 4), REST, ("node_gone", 0, 0), ("turn", 2, 0), ("node", 0, 2)])      # and its tasks still run
def test_no_assignment_breaks_a_promise_and_nothing_waits_that_fits(script: list[tuple[str, int, int]]) -> None:
    async def story(swarm: Swarm) -> None:
        await swarm.begin()
        for act in script:
            await swarm.act(*act)
        await swarm.rest()
        assert all(task.node_id for task in swarm.store.tasks.values() if task.status.state == ASSIGNED)
        before = {task.id: (task.node_id, task.status.state) for task in swarm.store.tasks.values()}
        await swarm.crash()
        await swarm.rest()
        after = {task.id: (task.node_id, task.status.state) for task in swarm.store.tasks.values()}
        assert before == after, "a new leader assigned what had waited at rest"

    run(Swarm, story)
