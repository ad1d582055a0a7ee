"""The allocator stage alone, under random events, crashes and lost leads: nothing is given twice, and all is had again.

Real store, log in memory, real stage. The laws of what is given are checked after every log entry; those of what waits,
whenever the stage has nothing left to do.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator
from ipaddress import ip_interface, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.manager.allocator import Allocator, endpoints
from swarmpy.manager.store import Event, Store, StoreObject, Transaction, is_ingress, template_of
from swarmpy.rpc.types_pb2 import (
    ASSIGNED,
    FAILED,
    NEW,
    PENDING,
    RUNNING,
    SHUTDOWN,
    Cluster,
    Node,
    PortConfig,
    Service,
    Task,
    TaskSpec,
)
from tests.store.lone_stage import Laws, LoneStage, run

SUBNET_SIZE = 29                            # 8 addresses; of these are the network, the gateway and broadcast not given
SIZE = 5
DYNAMIC_PORTS = range(30000, 30003)         # so few that they run out

FIXED = [8000, 8001, DYNAMIC_PORTS[1]]
OPEN, HOST = -1, -2
ACTS = st.one_of(
    st.tuples(st.just("service"), st.integers(0, 3), st.lists(st.sampled_from([OPEN, OPEN, HOST, *FIXED]), max_size=3)),
    st.tuples(st.just("unserve"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("tasks"), st.integers(0, 3), st.integers(1, 5)),
    st.tuples(st.sampled_from(["task_on", "task_ends", "task_unwanted", "task_gone"]), st.integers(0, 30), st.just(0)),
    st.tuples(st.sampled_from(["node", "node_changes", "node_gone"]), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("crash"), st.just(0), st.just(0)),
    st.tuples(st.just("another_leads"), st.just(0), st.just(0)),
    st.tuples(st.just("turn"), st.integers(1, 4), st.just(0)),
    st.tuples(st.just("rest"), st.just(0), st.just(0)),
)


@pytest.fixture(autouse=True, scope="module")
def few_dynamic_ports() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoints, "DYNAMIC_PORTS", DYNAMIC_PORTS)
        yield


class AllocatorLaws(Laws):
    """What was given stays, and nothing is given twice."""

    def look(self, events: Iterable[Event]) -> None:
        for event in events:
            row, old = event.object, event.old
            if isinstance(row, Node) and isinstance(old, Node) and old.HasField("ingress"):
                assert row.ingress == old.ingress, f"node {row.id} lost its address"
            if isinstance(row, Task) and isinstance(old, Task) and row.status.state >= PENDING:
                self._check_given(old, row)
        self._check()

    def _check_given(self, old: Task, task: Task) -> None:
        if old.status.state >= PENDING:
            assert (task.networks, task.ports) == (old.networks, old.ports), f"{task.id} has something else now"
        elif task.status.state == PENDING:
            assert all(port.published_port or not is_ingress(port) for port in task.ports)
            assert bool(task.networks) == any(is_ingress(port) for port in task.ports), f"{task.id} lacks its address"

    def _check(self) -> None:
        ingress = [row for row in self.store.networks.values() if row.spec.ingress]
        assert len(ingress) <= 1
        given = given_addresses(self.store)
        assert max(given.values(), default=0) <= 1, f"an address has two owners: {given.most_common(3)}"
        for address in given:
            subnet = ip_network(ingress[0].ipam[0].subnet)
            assert ip_interface(address).network == subnet
            assert ip_interface(address).ip not in (subnet[0], subnet[1], subnet[-1])
        ports = Counter(itertools.chain.from_iterable(map(published, self.store.services.values())))
        assert max(ports.values(), default=0) <= 1, f"a port has two services: {ports.most_common(3)}"


def given_addresses(store: Store) -> Counter[str]:
    """The addresses that nodes and living tasks have."""
    owners = [node.ingress.addresses for node in store.nodes.values()]
    owners += [
        attachment.addresses
        for task in store.tasks.values() if task.status.state <= RUNNING for attachment in task.networks
    ]  # fmt: skip
    return Counter(itertools.chain.from_iterable(owners))


def published(service: Service) -> set[int]:
    """The published ports of a service, asked for or given."""
    ports = (*service.endpoint.ports, *service.spec.endpoint.ports)
    return {port.published_port for port in ports if is_ingress(port) and port.published_port}


class Swarm(LoneStage):
    """Services, tasks and nodes that want addresses and ports."""

    def __init__(self) -> None:
        super().__init__(AllocatorLaws)
        self.template = template_of(TaskSpec())

    def stage(self) -> Coroutine[object, object, None]:
        return Allocator(self.store, lambda: next(self.ticks), lambda: next(self.ids)).run()

    async def begin(self) -> None:
        """More is asked for than there is, from the beginning."""
        transaction = Transaction()
        transaction.put(Cluster(id="cluster", subnet_size=SUBNET_SIZE), self.template)
        await self.store.commit(transaction)
        self.service("s0", [OPEN, OPEN])
        self.service("s1", [OPEN])
        await self.rest()
        self.service("s2", [OPEN])
        self.tasks("s0", 3)
        self.tasks("s1", 3)
        await self.rest()

    def at_rest(self) -> None:
        free_addresses = SIZE - len(given_addresses(self.store))
        free_ports = len(set(DYNAMIC_PORTS).difference(*map(published, self.store.services.values())))
        waiting = set()
        for service in self.store.services.values():
            if service.endpoint.spec != service.spec.endpoint:
                waiting.add(service.id)
                asks = sum(is_ingress(port) and not port.published_port for port in service.spec.endpoint.ports)
                assert asks > free_ports, f"{service.id} waits for {asks} ports, and {free_ports} are free"
        for node in self.store.nodes.values():
            assert node.HasField("ingress") or not free_addresses, f"{node.id} waits for an address"
        for task in self.store.tasks.values():
            if task.status.state != NEW or task.desired_state > RUNNING or task.service_id not in self.store.services:
                continue
            if task.service_id in waiting:
                assert "no free published port" in task.status.error, f"{task.id} waits and does not say for what"
            else:
                assert not free_addresses, f"{task.id} waits, and {free_addresses} addresses are free"
                assert "no free address" in task.status.error, f"{task.id} waits and does not say for what"

    async def act(self, act: str, number: int, value: int | list[int]) -> None:
        if act == "crash":
            await self.crash()
        elif act == "another_leads":
            await self.another_leads()
        elif act == "turn":
            await self.turn(number)
        elif act == "rest":
            await self.rest()
        elif isinstance(value, list):
            self.service(f"s{number}", value)
        elif act == "unserve":
            self.remove(self.store.services.by_name(f"s{number}"))
        elif act == "tasks":
            self.tasks(f"s{number}", value)
        elif act.startswith("task"):
            self.task(act, number)
        else:
            self.node(act, f"n{number}")

    def service(self, name: str, ports: list[int]) -> None:
        """Create it, or ask for other ports."""
        present = self.store.services.by_name(name)
        service = Service()
        service.CopyFrom(present or Service(id=next(self.ids), template_id=self.template.id))
        service.spec.annotations.name = name
        del service.spec.endpoint.ports[:]
        for place, port in enumerate(ports):
            mode = PortConfig.HOST if port == HOST else PortConfig.INGRESS
            service.spec.endpoint.ports.add(target_port=80 + place, published_port=max(port, 0), publish_mode=mode)
        self.put(service)

    def tasks(self, name: str, count: int) -> None:
        service = self.store.services.by_name(name)
        if service is not None:
            self.put(*(
                Task(
                    id=next(self.ids), service_id=service.id, template_id=self.template.id, desired_state=RUNNING,
                    status={"state": NEW},
                )
                for _ in range(count)
            ))  # fmt: skip

    def task(self, act: str, number: int) -> None:
        """Something happens to a task of those that there are."""
        tasks = list(self.store.tasks.values())
        if not tasks:
            return
        present = tasks[number % len(tasks)]
        if act == "task_gone":
            self.remove(present)
            return
        task = Task()
        task.CopyFrom(present)
        if act == "task_unwanted":
            task.desired_state = SHUTDOWN
        elif task.status.state <= RUNNING:
            if act == "task_ends":
                task.status.state = FAILED
            elif task.status.state != NEW:
                task.status.state = RUNNING if task.status.state >= ASSIGNED else ASSIGNED
        self.put(task)

    def node(self, act: str, node_id: str) -> None:
        present = self.store.nodes.get(node_id)
        if act == "node":
            if present is None:
                self.put(Node(id=node_id))
        elif act == "node_gone":
            self.remove(present)
        elif present is not None:
            node = Node()
            node.CopyFrom(present)
            node.description.hostname += "x"
            self.put(node)

    # ------------------------------------------------------------------------------------------ the end

    async def settle(self) -> None:
        """A new leader finds nothing to change."""
        await self.rest()
        before = len(self.log.entries)
        await self.crash()
        await self.rest()
        assert len(self.log.entries) == before, "a new leader changed what was at rest"

    async def all_can_be_had_again(self) -> None:
        """Everything goes; then exactly as much as there is can be had."""
        rows: list[StoreObject] = [*self.store.tasks.values(), *self.store.nodes.values()]
        for row in rows + list(self.store.services.values()):
            self.remove(row)
        await self.rest()
        self.service("s0", [OPEN] * len(DYNAMIC_PORTS))
        await self.rest()
        [service] = self.store.services.values()
        assert published(service) == set(DYNAMIC_PORTS)
        self.tasks("s0", SIZE + 1)
        await self.rest()
        states = Counter(task.status.state for task in self.store.tasks.values())
        assert states == {PENDING: SIZE, NEW: 1}


Act = tuple[str, int, int | list[int]]


@settings(deadline=None, max_examples=100)
@given(st.lists(ACTS, min_size=10, max_size=60))
def test_nothing_is_given_twice_and_what_is_freed_can_be_had_again(script: list[Act]) -> None:
    async def story(swarm: Swarm) -> None:
        await swarm.begin()
        for act in script:
            await swarm.act(*act)
        await swarm.settle()
        await swarm.all_can_be_had_again()

    run(Swarm, story)


@settings(deadline=None, max_examples=40)
@given(st.lists(ACTS, min_size=10, max_size=40))
def test_a_stage_that_starts_again_gives_as_the_first_would_have(script: list[Act]) -> None:
    """Ports and who has an address; which address depends on how far round the subnet the first had come."""

    def end(crashes: bool) -> object:
        found: list[object] = []

        async def story(swarm: Swarm) -> None:
            await swarm.begin()
            for act, number, value in script:
                await swarm.act("rest" if act in ("crash", "another_leads", "turn") else act, number, value)
                await swarm.rest()
                if crashes:
                    await swarm.crash()
            await swarm.rest()
            tasks, services = swarm.store.tasks.values(), swarm.store.services.values()
            found.append([(task.id, task.status.state, len(task.networks), str(task.ports)) for task in tasks])
            found.append([(service.id, str(service.endpoint)) for service in services])
            found.append([(node.id, node.HasField("ingress")) for node in swarm.store.nodes.values()])

        run(Swarm, story)
        return found

    assert end(crashes=True) == end(crashes=False)
