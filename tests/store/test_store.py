"""The store through its public door, over the in-process log."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from typing import TypeVar

import pytest

from swarmpy.errors import Conflict, Internal, InvalidArgument, NotFound, SwarmpyError
from swarmpy.manager.store import (
    Event,
    EventKind,
    MemoryLog,
    NotLeader,
    ResumeExpired,
    Store,
    StoreObject,
    Transaction,
    ids_from,
    template_of,
)
from swarmpy.rpc.types_pb2 import (
    ASSIGNED,
    FAILED,
    NEW,
    PENDING,
    REMOVE,
    RUNNING,
    SHUTDOWN,
    Cluster,
    Network,
    Node,
    Service,
    StoreSnapshot,
    StoreTransaction,
    Task,
    TaskSpec,
)

R = TypeVar("R")


def run(coroutine: Coroutine[object, object, R]) -> R:
    return asyncio.run(coroutine)


def make_store() -> tuple[Store, MemoryLog]:
    ticks = iter(range(1, 1 << 30))
    store = Store(lambda: next(ticks))
    log = MemoryLog(store)
    store.bind(log)
    return store, log


async def put(store: Store, *objects: StoreObject) -> int:
    transaction = Transaction()
    transaction.put(*objects)
    return await store.commit(transaction)


async def remove(store: Store, *objects: StoreObject) -> int:
    transaction = Transaction()
    transaction.remove(*objects)
    return await store.commit(transaction)


TEMPLATE = template_of(TaskSpec(force_update=1))


def make_service(service_id: str, name: str) -> Service:
    service = Service(id=service_id, template_id=TEMPLATE.id)
    service.spec.annotations.name = name
    return service


def make_task(task_id: str, service_id: str = "s1", slot: int = 1) -> Task:
    return Task(id=task_id, service_id=service_id, slot=slot, template_id=TEMPLATE.id, desired_state=RUNNING)


def changed(task: Task, **fields: object) -> Task:
    copy = Task()
    copy.CopyFrom(task)
    for name, value in fields.items():
        if name == "state":
            copy.status.state = value  # type: ignore[assignment]  # a state number from the test
        else:
            setattr(copy, name, value)
    return copy


def test_versions_are_log_indexes_and_times_are_the_proposers() -> None:
    async def story() -> None:
        store, _ = make_store()
        assert await put(store, Node(id="n1")) == 1
        node = store.nodes["n1"]
        assert (node.meta.version, node.meta.created_ns, node.meta.updated_ns) == (1, 1, 1)
        again = Node()
        again.CopyFrom(node)
        again.status.addr = "10.1.1.1"
        assert await put(store, again) == 2
        node = store.nodes["n1"]
        assert (node.meta.version, node.meta.created_ns, node.meta.updated_ns) == (2, 1, 2)
        assert store.index == 2

    run(story())


def test_a_stale_write_is_refused_and_changes_nothing() -> None:
    async def story() -> None:
        store, _ = make_store()
        await put(store, Node(id="n1"), Node(id="n2"))
        first = store.nodes["n1"]
        await put(store, first)
        before = store.snapshot()()
        with pytest.raises(Conflict, match="update out of sequence: node n1 is at version 2, not 1"):
            await put(store, store.nodes["n2"], first)
        with pytest.raises(Conflict, match="exists already"):
            await put(store, Node(id="n1"))
        with pytest.raises(Conflict, match="removed meanwhile"):
            ghost = Node(id="ghost")
            ghost.meta.version = 1
            await put(store, ghost)
        assert StoreSnapshot.FromString(store.snapshot()()).objects == StoreSnapshot.FromString(before).objects
        with pytest.raises(NotFound, match="no such node: ghost"):
            store.nodes["ghost"]

    run(story())


def test_names_are_unique_whatever_their_case() -> None:
    async def story() -> None:
        store, _ = make_store()
        await put(store, TEMPLATE, make_service("s1", "web"))
        with pytest.raises(Conflict, match="the service name WEB is in use by service s1"):
            await put(store, make_service("s2", "WEB"))
        assert store.services.by_name("Web") is store.services["s1"]
        renamed = Service()
        renamed.CopyFrom(store.services["s1"])
        renamed.spec.annotations.name = "shop"
        await put(store, renamed)
        assert store.services.by_name("web") is None
        await put(store, make_service("s2", "web"))
        network = Network(id="x1")
        network.spec.annotations.name = "ingress"
        await put(store, network)
        with pytest.raises(Conflict):
            twin = Network(id="x2")
            twin.spec.annotations.name = "ingress"
            await put(store, twin)

    run(story())


def test_tasks_belong_to_a_service_a_template_and_one_node() -> None:
    async def story() -> None:
        store, _ = make_store()
        with pytest.raises(Conflict, match="its service s1 was removed"):
            await put(store, TEMPLATE, make_task("t1"))
        assert len(store.templates) == 0
        with pytest.raises(Conflict, match="is not in the store"):
            await put(store, make_service("s1", "web"))
        await put(store, make_task("t1"), make_service("s1", "web"), TEMPLATE, Node(id="n1"))
        with pytest.raises(Conflict, match="node n9 was removed"):
            await put(store, changed(store.tasks["t1"], node_id="n9", state=ASSIGNED))
        await put(store, changed(store.tasks["t1"], node_id="n1", state=ASSIGNED))
        assert [task.id for task in store.tasks.by_node("n1")] == ["t1"]
        with pytest.raises(InvalidArgument, match="never moved"):
            await put(store, changed(store.tasks["t1"], node_id=""))
        with pytest.raises(InvalidArgument, match="never change"):
            await put(store, changed(store.tasks["t1"], slot=9))
        with pytest.raises(InvalidArgument, match="cannot go from ASSIGNED to PENDING"):
            await put(store, changed(store.tasks["t1"], state=PENDING))
        await put(store, changed(store.tasks["t1"], desired_state=SHUTDOWN, state=FAILED))
        with pytest.raises(InvalidArgument, match="cannot go from SHUTDOWN to RUNNING"):
            await put(store, changed(store.tasks["t1"], desired_state=RUNNING))
        with pytest.raises(InvalidArgument, match="cannot go from FAILED to REMOVE"):
            await put(store, changed(store.tasks["t1"], state=REMOVE))

    run(story())


def test_a_template_goes_when_nobody_needs_it() -> None:
    async def story() -> None:
        store, _ = make_store()
        await put(store, TEMPLATE, make_service("s1", "web"), make_task("t1"))
        await put(store, TEMPLATE)
        assert store.uses_of_template(TEMPLATE.id) == 2
        with pytest.raises(Conflict, match="in use by 2 services and tasks"):
            await remove(store, store.templates[TEMPLATE.id])
        await remove(store, store.templates[TEMPLATE.id], store.tasks["t1"], store.services["s1"])
        assert len(store.templates) == 0
        assert store.tasks.by_service("s1") == ()

    run(story())


def test_there_is_one_cluster() -> None:
    async def story() -> None:
        store, _ = make_store()
        await put(store, Cluster(id="c1"))
        with pytest.raises(Conflict, match="one cluster object"):
            await put(store, Cluster(id="c2"))
        assert store.cluster is not None and store.cluster.id == "c1"

    run(story())


def test_a_watch_tells_each_object_once_and_shares_it() -> None:
    async def story() -> None:
        store, _ = make_store()
        with store.watch("nodes") as watch:
            await put(store, Node(id="n1"), Node(id="n2"))
            await put(store, store.nodes["n1"])
            await remove(store, store.nodes["n2"])
            await put(store, TEMPLATE)
            (event,) = await anext(watch)
            assert (event.kind, event.index, event.old) == (EventKind.CREATE, 2, None)
            assert event.object is store.nodes["n1"]
            first = store.nodes["n1"]
            await put(store, first)
            await put(store, store.nodes["n1"])
            (event,) = await anext(watch)
            assert (event.kind, event.old) == (EventKind.UPDATE, first)
            await put(store, store.nodes["n1"])
            await remove(store, store.nodes["n1"])
            (event,) = await anext(watch)
            assert event.kind is EventKind.REMOVE
            assert watch.take() == ()

    run(story())


def test_a_watch_wakes_its_reader_and_ends_when_closed() -> None:
    async def story() -> None:
        store, _ = make_store()
        watch = store.watch()
        seen: list[str] = []

        async def read() -> None:
            async for events in watch:
                seen.extend(event.object.id for event in events)

        reader = asyncio.create_task(read())
        await put(store, Node(id="n1"))
        while not seen:
            await asyncio.sleep(0)
        watch.close()
        await reader
        assert seen == ["n1"]

    run(story())


def test_a_watch_resumes_while_the_past_is_kept() -> None:
    async def story() -> None:
        store, _ = make_store()
        for number in range(5):
            await put(store, Node(id=f"n{number}"))
        with store.watch("nodes", since=3) as watch:
            assert [event.object.id for event in await anext(watch)] == ["n3", "n4"]
        for number in range(20_000 // 1000):
            await put(store, *(Node(id=f"m{number}-{other}") for other in range(1000)))
        with pytest.raises(ResumeExpired):
            store.watch("nodes", since=3)
        with pytest.raises(InvalidArgument):
            store.watch("planets")

    run(story())


def test_only_the_leader_writes() -> None:
    async def story() -> None:
        store, log = make_store()
        log.lead(False)
        with pytest.raises(NotLeader):
            await put(store, Node(id="n1"))
        log.lead(True)
        writing = asyncio.create_task(put(store, Node(id="n1")))
        await asyncio.sleep(0)
        log.lead(False)
        with pytest.raises(NotLeader) as caught:
            await writing
        assert caught.value.lost

    run(story())


def random_actions(rng: random.Random, store: Store) -> Transaction:
    transaction = Transaction()
    for _ in range(rng.randrange(1, 6)):
        choice = rng.randrange(8)
        tasks = list(store.tasks.values())
        services = list(store.services.values())
        if choice == 0:
            transaction.put(Node(id=f"n{rng.randrange(6)}"))
        elif choice == 1:
            transaction.put(TEMPLATE, make_service(f"s{rng.randrange(4)}", f"name{rng.randrange(3)}"))
        elif choice <= 3:
            transaction.put(make_task(f"t{rng.randrange(40)}", f"s{rng.randrange(4)}"))
        elif choice == 4 and tasks:
            transaction.put(changed(rng.choice(tasks), node_id=f"n{rng.randrange(6)}", state=ASSIGNED))
        elif choice == 5 and tasks:
            transaction.remove(rng.choice(tasks))
        elif choice == 6 and services:
            transaction.remove(rng.choice(services))
        elif choice == 7 and tasks:
            transaction.put(changed(rng.choice(tasks), state=rng.choice([NEW, PENDING, FAILED])))
    return transaction


@pytest.mark.parametrize("seed", range(20))
def test_replay_snapshot_and_watches_agree_with_the_store(seed: int) -> None:
    """Random transactions, many refused: a replica, a restored snapshot and a fold of events show the same objects."""

    async def story() -> None:
        rng = random.Random(seed)
        store, log = make_store()
        replica = Store(lambda: 0)
        mirror: dict[tuple[str, str], StoreObject] = {}
        watch = store.watch()
        follower = Store(lambda: 0)
        follower_watch = follower.watch()
        follower_mirror: dict[tuple[str, str], StoreObject] = {}
        for _ in range(120):
            try:
                await store.commit(random_actions(rng, store))
            except (Conflict, InvalidArgument):
                pass
            check_indexes(store)
            if rng.random() < 0.2:
                follow(mirror, watch.take())
                assert mirror == contents(store)
            if rng.random() < 0.05:
                follower.load(store.index, store.snapshot()())()
                follow(follower_mirror, follower_watch.take())
                assert follower_mirror == contents(store) == contents(follower)
                check_indexes(follower)
        for index, data in enumerate(log.entries, 1):
            replica.apply(index, data)
        assert contents(replica) == contents(store)
        parsed = StoreSnapshot.FromString(store.snapshot()())
        assert parsed.index == store.index
        assert len(parsed.objects) == len(contents(store))

    run(story())


def test_a_snapshot_is_of_its_moment_whatever_is_applied_before_it_is_written() -> None:
    async def story(seed: int) -> None:
        rng = random.Random(seed)
        store, _ = make_store()
        taken: list[tuple[int, dict[tuple[str, str], StoreObject], Callable[[], bytes]]] = []
        for _ in range(60):
            with contextlib.suppress(Conflict, InvalidArgument):
                await store.commit(random_actions(rng, store))
            if rng.random() < 0.2:
                taken.append((store.index, contents(store), store.snapshot()))
        for index, then, write in taken:
            data = write()
            assert StoreSnapshot.FromString(data).index == index
            copy = Store(lambda: 0)
            replace = copy.load(index, data)
            assert (copy.index, contents(copy)) == (0, {}), "nothing has changed yet"
            replace()
            assert (copy.index, contents(copy)) == (index, then)
            check_indexes(copy)

    for seed in range(5):
        run(story(seed))


def follow(mirror: dict[tuple[str, str], StoreObject], events: tuple[Event, ...]) -> None:
    for event in events:
        key = (event.table, event.object.id)
        assert (key in mirror) == (event.kind is not EventKind.CREATE)
        if event.kind is EventKind.REMOVE:
            del mirror[key]
        else:
            mirror[key] = event.object


def contents(store: Store) -> dict[tuple[str, str], StoreObject]:
    found: dict[tuple[str, str], StoreObject] = {}
    for table in ("nodes", "services", "tasks", "templates", "networks"):
        for row in getattr(store, table).values():
            found[table, row.id] = row
    return found


def check_indexes(store: Store) -> None:
    """Each index says what a look at every task says."""
    for service_id in {task.service_id for task in store.tasks.values()} | {"s0", "s1"}:
        naive = {task.id for task in store.tasks.values() if task.service_id == service_id}
        assert {task.id for task in store.tasks.by_service(service_id)} == naive
    for node_id in ("n0", "n1", "n2", "n3", "n4", "n5"):
        naive = {task.id for task in store.tasks.values() if task.node_id == node_id}
        assert {task.id for task in store.tasks.by_node(node_id)} == naive
    uses = sum(task.template_id == TEMPLATE.id for task in store.tasks.values()) + len(store.services)
    assert store.uses_of_template(TEMPLATE.id) == uses


def test_bad_content_is_answered_not_raised() -> None:
    store, _ = make_store()
    assert isinstance(store.apply(1, b"\xff\xff"), SwarmpyError)
    empty = StoreTransaction()
    empty.actions.add().put.SetInParent()
    assert isinstance(store.apply(2, empty.SerializeToString()), InvalidArgument)
    unknown = StoreTransaction()
    unknown.actions.add().remove.table = "planets"
    assert isinstance(store.apply(3, unknown.SerializeToString()), InvalidArgument)
    assert store.index == 3
    with pytest.raises(Internal):
        store.load(4, b"\x12\x7f\x00")


def test_ids_are_25_digits_of_base_36() -> None:
    new_id = ids_from(random.Random(1))
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(one) == 25 and one.isalnum() and one == one.lower() for one in ids)
    assert template_of(TaskSpec()).id != TEMPLATE.id == template_of(TaskSpec(force_update=1)).id
