"""Placements a second on a swarm of 5,000 nodes, and what the store costs for a task.

All in one process: the store, the log in memory and the scheduler stage, without network or disk. No peer on this
machine can be asked for the same without its network and disk, so these figures stand alone.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.harness import Row, compare
from swarmpy.manager.scheduler import Scheduler
from swarmpy.manager.store import MemoryLog, Store, StoreObject, Transaction, ids_from, template_of
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

NODES = 5_000
TASKS = 20_000


def measure(repeats: int) -> list[Row]:
    """All rows of this benchmark; `repeats` samples each."""
    return [
        _row("scheduling: one service of 20,000", 20_000, repeats, lambda: _decide(_tasks(1, TASKS))),
        _row("scheduling: 2,000 services of 10", None, repeats, lambda: _decide(_tasks(2_000, 10))),
        _row("scheduling: constraint, reservation", None, repeats, lambda: _decide(_tasks(20, 1_000, _demanding()))),
        _row("scheduling: spread over 10 racks", None, repeats, lambda: _decide(_tasks(20, 1_000, _spreading()))),
        _row("scheduling: decided and committed", None, repeats, lambda: asyncio.run(_schedule())),
        _row("store: task writes applied", 50_000, repeats, _apply),
        compare("store: memory of a task", "bytes", "less", [_task_bytes()], [], "no peer", None),
    ]


def _row(name: str, goal: float | None, repeats: int, sample: Callable[[], float]) -> Row:
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


def _nodes() -> Iterator[Node]:
    for number in range(NODES):
        node = Node(id=f"node{number:021d}")
        node.status.state = NodeStatus.READY
        node.description.resources.nano_cpus = 64 * 10**9
        node.description.resources.memory_bytes = 256 << 30
        node.spec.annotations.labels["rack"] = f"rack{number % 10}"
        node.spec.annotations.labels["disk"] = "ssd" if number % 2 else "hdd"
        yield node


def _tasks(services: int, replicas: int, spec: TaskSpec | None = None) -> list[StoreObject]:
    new_id = ids_from(random.Random(1))
    template = template_of(spec or TaskSpec())
    rows: list[StoreObject] = [template]
    for number in range(services):
        service = Service(id=new_id(), template_id=template.id)
        service.spec.annotations.name = f"service-{number}"
        rows.append(service)
        for slot in range(1, replicas + 1):
            rows.append(_task(new_id(), service, slot))
    return rows


def _task(task_id: str, service: Service, slot: int) -> Task:
    task = Task(id=task_id, service_id=service.id, service_name=service.spec.annotations.name, slot=slot)
    task.template_id, task.desired_state, task.spec_version = service.template_id, RUNNING, 1
    task.status.state, task.status.message = PENDING, "pending task scheduling"
    return task


def _store(rows: list[StoreObject]) -> Store:
    ticks = itertools.count(1)
    store = Store(lambda: next(ticks))
    log = MemoryLog(store)
    store.bind(log)
    transaction = Transaction()
    transaction.put(*_nodes(), *rows)
    store.apply(1, transaction.encode(1))
    log.entries.append(b"")
    return store


# ---------------------------------------------------------------------------------------------- samples


def _decide(rows: list[StoreObject]) -> float:
    """Placements a second, decided only."""
    store = _store(rows)
    scheduler = Scheduler(store, time.time_ns)
    scheduler.rebuild()
    began = time.perf_counter()
    placed = sum(task.status.state == ASSIGNED for task in scheduler.decide(1))
    took = time.perf_counter() - began
    assert placed == len(store.tasks)
    return placed / took


async def _schedule() -> float:
    """Placements a second, from the start of the stage until the last one is in the store."""
    store = _store(_tasks(200, 100))
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
    """Task writes a second of `Store.apply`: each task is created, then assigned, a thousand to a transaction."""
    rows = _tasks(1, TASKS)
    store = _store(rows[:2])
    entries = []
    for start in range(2, len(rows), 1000):
        entries.append(_encoded(rows[start : start + 1000]))
    began = time.perf_counter()
    for index, entry in enumerate(entries, 2):
        store.apply(index, entry)
    created = time.perf_counter() - began
    changed = []
    for task in store.tasks.values():
        copy = Task()
        copy.CopyFrom(task)
        copy.node_id, copy.status.state = f"node{0:021d}", ASSIGNED
        changed.append(copy)
    entries = [_encoded(list(changed[start : start + 1000])) for start in range(0, len(changed), 1000)]
    began = time.perf_counter()
    for index, entry in enumerate(entries, store.index + 1):
        assert store.apply(index, entry) == index
    return 2 * TASKS / (created + time.perf_counter() - began)


def _encoded(rows: list[StoreObject]) -> bytes:
    transaction = Transaction()
    transaction.put(*rows)
    return transaction.encode(1)


def _task_bytes() -> float:
    """Resident bytes of the process for each running task with an address and a port, indexes included."""
    count = 100_000
    rows = _tasks(100, 0)
    store = _store(rows)
    services = [row for row in rows if isinstance(row, Service)]
    new_id = ids_from(random.Random(2))
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
