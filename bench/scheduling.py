"""Placements a second on a swarm of 1,000 nodes, and what the store costs for a task.

All in one process: the store, the log in memory and the scheduler stage, without network or disk. No peer on this
machine can be asked for the same without its network and disk, so these figures stand alone. Services are of mixed
sizes; "with constraints", one in three asks for a label, memory and processors, and one in three is spread over racks.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from bench.harness import Row, compare
from swarmpy.manager.scheduler import Scheduler
from swarmpy.manager.store import IdSource, MemoryLog, Store, StoreObject, Transaction, ids_from, template_of
from swarmpy.rpc.types_pb2 import (
    ASSIGNED,
    PENDING,
    RUNNING,
    Node,
    NodeStatus,
    Service,
    StoreTransaction,
    Task,
    TaskSpec,
)

__all__ = ["measure"]

NODES = 1_000
MANY_NODES = 100_000
SIZES = 1, 2, 5, 12, 30, 50         # replicas of services, in turn: a swarm runs many small ones
GOAL = 50_000


def measure(repeats: int) -> list[Row]:
    """All rows of this benchmark; `repeats` samples each, and one of the largest swarm."""
    plain, asking = (TaskSpec(),), (TaskSpec(), _demanding(), _spreading())
    rows: list[Row] = []
    for count in (10_000, 100_000):
        for name, specs in (("", plain), (", with constraints", asking)):
            rows.append(_row(f"scheduling {count:,} tasks{name}", repeats, partial(_decide, NODES, count, specs)))
        rows.append(_row(f"the same, decided and committed: {count:,}", repeats, partial(_scheduled, count, asking)))
    rows.append(
        _row("scheduling 1,000,000 tasks on 100,000 nodes", 1, partial(_decide, MANY_NODES, 1_000_000, asking), None)
    )
    rows.append(_row("store: task writes applied", repeats, _apply))
    rows.append(compare("store: memory of a task", "bytes", "less", [_task_bytes()], [], "no peer", None))
    return rows


def _row(name: str, repeats: int, sample: Callable[[], float], goal: float | None = GOAL) -> Row:
    return compare(name, "/s", "more", [sample() for _ in range(repeats)], [], "no peer", goal, goal_of="figure")


# ---------------------------------------------------------------------------------------------- what is scheduled


def _demanding() -> TaskSpec:
    spec = TaskSpec()
    spec.resources.reservations.memory_bytes = 1 << 28
    spec.resources.reservations.nano_cpus = 10**8
    spec.placement.constraints.append("node.labels.disk == ssd")
    return spec


def _spreading() -> TaskSpec:
    spec = TaskSpec()
    spec.placement.preferences.add(spread_descriptor="node.labels.rack")
    return spec


def _nodes(count: int) -> Iterator[Node]:
    for number in range(count):
        node = Node(id=f"node{number:021d}")
        node.status.state = NodeStatus.READY
        node.description.resources.nano_cpus = 64 * 10**9
        node.description.resources.memory_bytes = 256 << 30
        node.spec.annotations.labels["rack"] = f"rack{number % 10}"
        node.spec.annotations.labels["disk"] = "ssd" if number % 2 else "hdd"
        yield node


def _mixed(count: int, specs: Sequence[TaskSpec]) -> list[StoreObject]:
    """Services with `count` tasks in all, of the specs and sizes in turn."""
    rows: list[StoreObject] = []
    templates = [template_of(spec) for spec in specs]
    rows.extend(templates)
    new_id = ids_from(random.Random(1))
    for number in itertools.count():
        replicas = min(SIZES[number % len(SIZES)], count)
        if not replicas:
            return rows
        count -= replicas
        # a spec keeps for a round of sizes, so that every spec comes with every size
        service = _service(number, templates[number // len(SIZES) % len(templates)].id, new_id)
        rows += [service, *(_task(new_id(), service, slot) for slot in range(1, replicas + 1))]
    raise AssertionError


def _service(number: int, template_id: str, new_id: IdSource) -> Service:
    service = Service(id=new_id(), template_id=template_id)
    service.spec.annotations.name = f"service-{number}"
    return service


def _task(task_id: str, service: Service, slot: int) -> Task:
    task = Task(id=task_id, service_id=service.id, service_name=service.spec.annotations.name, slot=slot)
    task.template_id, task.desired_state, task.spec_version = service.template_id, RUNNING, 1
    task.status.state, task.status.message = PENDING, "pending task scheduling"
    return task


def _store(rows: list[StoreObject], nodes: int = NODES) -> Store:
    ticks = itertools.count(1)
    store = Store(lambda: next(ticks))
    log = MemoryLog(store)
    store.bind(log)
    transaction = Transaction()
    transaction.put(*_nodes(nodes), *rows)
    store.apply(1, transaction.encode(1))
    log.entries.append(b"")
    return store


# ---------------------------------------------------------------------------------------------- samples


def _decide(nodes: int, tasks: int, specs: Sequence[TaskSpec]) -> float:
    """Placements a second, decided only."""
    store = _store(_mixed(tasks, specs), nodes)
    scheduler = Scheduler(store, time.time_ns)
    scheduler.rebuild()
    began = time.perf_counter()
    placed = sum(task.status.state == ASSIGNED for task in scheduler.decide(1))
    took = time.perf_counter() - began
    assert placed == len(store.tasks) == tasks
    return placed / took


def _scheduled(tasks: int, specs: Sequence[TaskSpec]) -> float:
    """Placements a second, from the start of the stage until the last one is in the store."""
    return asyncio.run(_schedule(_store(_mixed(tasks, specs))))


async def _schedule(store: Store) -> float:
    with store.watch("tasks") as watch:
        began = time.perf_counter()
        running = asyncio.create_task(Scheduler(store, time.time_ns).run())
        placed = 0
        while placed < len(store.tasks):
            placed += len(await anext(watch))
        took = time.perf_counter() - began
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return placed / took


def _apply() -> float:
    """Task writes a second of `Store.apply`: each task is created, then assigned, a hundred to a transaction."""
    rows = _mixed(20_000, (TaskSpec(),))
    tasks = [row for row in rows if isinstance(row, Task)]
    store = _store([row for row in rows if not isinstance(row, Task)])
    created = _apply_all(store, tasks)
    changed = []
    for task in store.tasks.values():
        copy = Task()
        copy.CopyFrom(task)
        copy.node_id, copy.status.state = f"node{0:021d}", ASSIGNED
        changed.append(copy)
    return 2 * len(tasks) / (created + _apply_all(store, changed))


def _apply_all(store: Store, tasks: Sequence[StoreObject]) -> float:
    """Seconds to apply these writes."""
    entries = [_encoded(tasks[start : start + 100]) for start in range(0, len(tasks), 100)]
    began = time.perf_counter()
    for index, entry in enumerate(entries, store.index + 1):
        assert store.apply(index, entry) == index
    return time.perf_counter() - began


def _encoded(rows: Sequence[StoreObject]) -> bytes:
    transaction = Transaction()
    transaction.put(*rows)
    return transaction.encode(1)


def _task_bytes() -> float:
    """Resident bytes of the process for each running task with an address and a port, indexes included."""
    count = 100_000
    template, new_id = template_of(TaskSpec()), ids_from(random.Random(2))
    services = [_service(number, template.id, new_id) for number in range(100)]
    store = _store([template, *services])
    gc.collect()
    before = _resident()
    for number in range(0, count, 1000):
        message = StoreTransaction(now_ns=1)
        for slot in range(number, number + 1000):
            task = message.actions.add().put.task
            task.CopyFrom(_task(new_id(), services[slot % len(services)], slot))
            task.node_id, task.status.state = f"node{slot % NODES:021d}", RUNNING
            task.networks.add(network_id=task.service_id, addresses=["10.0.0.2/24"])
            task.ports.add(target_port=80, published_port=8080)
            task.status.container.container_id = "c" * 64
        store.apply(store.index + 1, message.SerializeToString())
    gc.collect()
    return (_resident() - before) / count


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
