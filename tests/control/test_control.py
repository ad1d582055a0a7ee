"""Control on a leader and through another manager, over real gRPC, with the log in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

import grpc.aio
import pytest

from swarmpy.errors import Conflict, InvalidArgument, NotFound, Unavailable
from swarmpy.manager.control import Control, ControlServicer, LeaderControl, NewSecrets
from swarmpy.manager.replicated_log import Leadership, NotLeader
from swarmpy.manager.store import MemoryLog, Store, Transaction, ids_from
from swarmpy.rpc.control_pb2 import (
    CreateServiceRequest,
    RemoveRequest,
    ServiceResponse,
    UpdateClusterRequest,
    UpdateNodeRequest,
    UpdateServiceRequest,
)
from swarmpy.rpc.control_pb2_grpc import ControlServicer as GeneratedServicer
from swarmpy.rpc.control_pb2_grpc import add_ControlServicer_to_server
from swarmpy.rpc.types_pb2 import (
    Annotations,
    Cluster,
    ClusterSpec,
    Node,
    NodeSpec,
    NodeStatus,
    RootRotation,
    ServiceSpec,
    UpdateStatus,
)
from swarmpy.worker.admission import check_runnable
from tests.full_listener import full_listener

new_id = ids_from(Random(7))
NOW = 1_700_000_000_000_000_000
NEW = NewSecrets(lambda _: "token", lambda: "key", lambda *_: RootRotation(cert_pem="new"))


class Follower(MemoryLog):
    """The log of a manager that knows who leads and does not lead itself."""

    def follow(self, addr: str) -> str | None:
        """Another leads now; returns who did before."""
        before = self._leadership
        self._leadership = Leadership(before.term + 1, is_leader=False, leader_addr=addr)
        for callback in self._callbacks:
            callback(self._leadership)
        return before.leader_addr


class Falling(MemoryLog):
    """Commits what it is given, and loses the lead before it knows."""

    async def propose(self, data: bytes) -> object:
        await super().propose(data)
        raise NotLeader(None, lost=True)


class Restless(MemoryLog):
    """A node's status is always written just before what is proposed."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.store = store

    async def propose(self, data: bytes) -> object:
        if len(self.store.nodes):
            await super().propose(status(self.store).encode(NOW))
        return await super().propose(data)


class Hurried(Restless):
    """So it is once."""

    async def propose(self, data: bytes) -> object:
        node = self.store.nodes.get("n1")
        hurry = node is not None and node.status.state != NodeStatus.READY
        return await (super().propose(data) if hurry else MemoryLog.propose(self, data))


def status(store: Store) -> Transaction:
    node = Node()
    node.CopyFrom(store.nodes["n1"])
    node.status.state = NodeStatus.READY
    transaction = Transaction()
    transaction.put(node)
    return transaction


async def ready(store: Store) -> None:
    await store.commit(status(store))


async def put(store: Store, node: Node) -> None:
    transaction = Transaction()
    transaction.put(node)
    await store.commit(transaction)


def make_store() -> Store:
    return Store(lambda: NOW)


def web(image: str = "web:1") -> ServiceSpec:
    spec = ServiceSpec()
    spec.annotations.name = "web"
    spec.task.container.image = image
    spec.mode.replicated.replicas = 3
    return spec


@asynccontextmanager
async def two_managers(
    new_log: Callable[[Store], MemoryLog] = MemoryLog,
) -> AsyncIterator[tuple[Control, Control, Store, Follower]]:
    """(the leader's control, another manager's control, the leader's store, the other's log)."""
    store = make_store()
    log = new_log(store)
    store.bind(log)
    leader = LeaderControl(store, log, lambda: NOW, NEW, check_runnable)
    server = grpc.aio.server()
    add_ControlServicer_to_server(ControlServicer(leader, lambda _: None), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    other_log = Follower(make_store())
    other_log.follow(f"127.0.0.1:{port}")
    other_leader = LeaderControl(make_store(), other_log, lambda: NOW, NEW, check_runnable)
    here = Control(leader, log, grpc.aio.insecure_channel)
    there = Control(other_leader, other_log, grpc.aio.insecure_channel)
    try:
        yield here, there, store, other_log
    finally:
        await here.close()
        await there.close()
        await server.stop(None)


def on_both(
    test: Callable[[Control, Store], Awaitable[None]], new_log: Callable[[Store], MemoryLog] = MemoryLog
) -> None:
    async def run() -> None:
        async with two_managers(new_log) as (here, _, store, _):
            await test(here, store)
        async with two_managers(new_log) as (_, there, store, _):
            await test(there, store)

    asyncio.run(run())


def test_create_update_rollback_remove() -> None:
    async def scenario(control: Control, store: Store) -> None:
        made = (await control.create_service(CreateServiceRequest(spec=web(), id=new_id()))).service
        assert store.services[made.id].template_id in store.templates
        updated = (
            await control.update_service(
                UpdateServiceRequest(id=made.id, version=made.meta.version, spec=web("web:2"))
            )
        ).service
        assert updated.previous_spec.task.container.image == "web:1"
        assert updated.spec_version == 2
        back = (
            await control.update_service(
                UpdateServiceRequest(id=made.id, version=updated.meta.version, rollback=True)
            )
        ).service
        assert back.spec.task.container.image == "web:1"
        assert back.update_status.state == UpdateStatus.ROLLBACK_STARTED
        await control.remove_service(RemoveRequest(id=made.id))
        assert made.id not in store.services

    on_both(scenario)


def test_what_an_update_of_the_swarm_leaves_out_stays() -> None:
    async def scenario(control: Control, store: Store) -> None:
        begin = Transaction()
        cluster = Cluster(id="c")
        cluster.spec.annotations.labels["old"] = "1"
        cluster.spec.task_history_limit, cluster.spec.heartbeat_period_ns = 2, 3_000_000_000
        begin.put(cluster)
        await store.commit(begin)
        change = ClusterSpec(task_history_limit=-1)
        change.annotations.labels["new"] = "2"
        await control.update_cluster(UpdateClusterRequest(version=store.index, spec=change))
        assert store.cluster is not None
        spec = store.cluster.spec
        assert (spec.task_history_limit, spec.heartbeat_period_ns) == (-1, 3_000_000_000)
        assert spec.annotations.labels == {"new": "2"}

    on_both(scenario)


def test_a_repeated_creation_is_one_service() -> None:
    async def scenario(control: Control, store: Store) -> None:
        request = CreateServiceRequest(spec=web(), id=new_id())
        first = await control.create_service(request)
        assert (await control.create_service(request)).service.id == first.service.id
        assert len(store.services) == 1

    on_both(scenario)


def test_refusals_keep_their_kind_across_managers() -> None:
    async def scenario(control: Control, _: Store) -> None:
        made = (await control.create_service(CreateServiceRequest(spec=web(), id=new_id()))).service
        with pytest.raises(Conflict, match="already exists"):
            await control.create_service(CreateServiceRequest(spec=web(), id=new_id()))
        with pytest.raises(Conflict, match="out of sequence"):
            await control.update_service(UpdateServiceRequest(id=made.id, version=999, spec=web()))
        with pytest.raises(InvalidArgument, match="previous spec"):
            await control.update_service(
                UpdateServiceRequest(id=made.id, version=made.meta.version, rollback=True)
            )
        with pytest.raises(NotFound, match="absent"):
            await control.remove_service(RemoveRequest(id="absent"))

    on_both(scenario)


def test_what_a_falling_leader_did_is_not_tried_again_and_refused() -> None:
    async def scenario(control: Control, store: Store) -> None:
        made = (await control.create_service(CreateServiceRequest(spec=web(), id=new_id()))).service
        update = UpdateServiceRequest(id=made.id, version=made.meta.version, spec=web("web:2"))
        with pytest.raises(Unavailable, match="it may have been carried out"):
            await control.update_service(update)
        assert store.services[made.id].spec.task.container.image == "web:2"

    on_both(scenario, Falling)


class Deaf(GeneratedServicer):
    """A leader that takes requests and never answers."""

    def __init__(self) -> None:
        self.asked = 0

    async def CreateService(self, request: CreateServiceRequest, context: object) -> ServiceResponse:  # noqa: N802
        self.asked += 1
        await asyncio.Event().wait()
        raise AssertionError("nothing sets it")


def test_requests_under_way_when_the_leader_changes_are_done_by_the_next() -> None:
    async def run() -> None:
        deaf, server = Deaf(), grpc.aio.server()
        add_ControlServicer_to_server(deaf, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with two_managers() as (_, there, store, log):
            leads = str(log.follow(f"127.0.0.1:{port}"))
            requests = [CreateServiceRequest(spec=web(), id=new_id()) for _ in range(3)]
            for number, request in enumerate(requests):
                request.spec.annotations.name = f"web{number}"
            under_way = [asyncio.create_task(there.create_service(request)) for request in requests[:2]]
            async with asyncio.timeout(5):
                while deaf.asked < 2:
                    await asyncio.sleep(0.005)
            log.follow(leads)
            under_way.append(asyncio.create_task(there.create_service(requests[2])))    # it calls the next one first
            for made in await asyncio.gather(*under_way):
                assert made.service.id in store.services
        await server.stop(None)

    asyncio.run(run())


def test_a_leader_that_cannot_be_reached_is_given_up_when_another_leads() -> None:
    async def run() -> None:
        with full_listener() as port:
            async with two_managers() as (_, there, _, log):
                leads = str(log.follow(f"127.0.0.1:{port}"))
                removing = asyncio.create_task(there.remove_service(RemoveRequest(id="none")))
                await asyncio.sleep(0)
                log.follow(leads)
                with pytest.raises(NotFound):
                    await removing

    asyncio.run(run())


def test_only_a_change_of_the_spec_comes_before_a_change_of_the_spec() -> None:
    async def scenario(control: Control, store: Store) -> None:
        await put(store, Node(id="n1", spec=NodeSpec(annotations=Annotations(name="a"))))
        read = store.nodes["n1"].meta.version
        await ready(store)
        request = UpdateNodeRequest(id="n1", version=read, spec=NodeSpec(availability=NodeSpec.DRAIN))
        await control.update_node(request)
        node = store.nodes["n1"]
        assert (node.spec.availability, node.status.state) == (NodeSpec.DRAIN, NodeStatus.READY)
        with pytest.raises(Conflict, match=f"node n1 is at version {node.meta.version}, .* made for {read}"):
            await control.update_node(request)
        with pytest.raises(Conflict, match="out of sequence"):
            await control.update_node(UpdateNodeRequest(id="n1", version=node.meta.version + 1, spec=NodeSpec()))

    on_both(scenario)


def test_a_status_written_while_an_update_is_under_way_does_not_refuse_it() -> None:
    async def scenario(control: Control, store: Store) -> None:
        await put(store, Node(id="n1"))
        version = store.nodes["n1"].meta.version
        update = UpdateNodeRequest(id="n1", version=version, spec=NodeSpec(availability=NodeSpec.PAUSE))
        await control.update_node(update)
        node = store.nodes["n1"]
        assert (node.spec.availability, node.status.state) == (NodeSpec.PAUSE, NodeStatus.READY)

    on_both(scenario, Hurried)


def test_what_cannot_be_because_of_others_is_refused_in_the_end() -> None:
    async def scenario(control: Control, store: Store) -> None:
        await put(store, Node(id="n1"))
        with pytest.raises(Conflict, match="out of sequence"):
            await control.update_node(UpdateNodeRequest(id="n1", version=store.nodes["n1"].meta.version))

    on_both(scenario, Restless)


def test_a_published_port_has_one_owner() -> None:
    async def scenario(control: Control, _: Store) -> None:
        first, second = web(), web()
        second.annotations.name = "other"
        for spec in (first, second):
            spec.endpoint.ports.add(target_port=80, published_port=8080)
        await control.create_service(CreateServiceRequest(spec=first, id=new_id()))
        with pytest.raises(InvalidArgument, match="8080/tcp is already in use by service web"):
            await control.create_service(CreateServiceRequest(spec=second, id=new_id()))

    on_both(scenario)
