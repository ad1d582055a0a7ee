"""Slots a second that the orchestrator fills, updates and refills, by the size of the service.

All in one process: the store, the log in memory, orchestrator and reaper, and a driver that takes the place of the
stages and nodes below them: it lets every task run as soon as it is wanted. The driver and the store have their part
in the time, which is the processor's: the process waits for nothing. What a slot costs should not depend on how many
there are, so a large service is compared with a small one. No peer on this machine can be asked for the same without
its network and disk.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Coroutine

from bench.harness import Row, compare
from swarmpy.manager.orchestrator import Orchestrator, TaskReaper
from swarmpy.manager.store import MemoryLog, Store, StoreObject, Transaction, Watch, commit_units, ids_from, template_of
from swarmpy.rpc.types_pb2 import (
    FAILED,
    RUNNING,
    SHUTDOWN,
    Node,
    NodeStatus,
    Service,
    ServiceSpec,
    Task,
    TaskState,
)

__all__ = ["measure"]

SMALL, LARGE = 1_000, 20_000
NODES = 100
AT_ONCE = 10                # slots between versions, or failing, at a time


def measure(repeats: int) -> list[Row]:
    """All rows of this benchmark; `repeats` samples each."""
    rows = []
    for name, sample in (("created", _create), ("updated 10 at a time", _update), ("refilled 10 at a time", _refill)):
        small, large = (_samples(sample, slots, repeats) for slots in (SMALL, LARGE))
        title = f"orchestration: slots {name}"
        rows += [
            compare(f"{title}, {SMALL:,}", "/s", "more", small, [], "no peer", None),
            compare(f"{title}, {LARGE:,}", "/s", "more", large, small, f"ours of {SMALL:,} slots", 0.7),
        ]
    return rows


def _samples(sample: Callable[[int], Coroutine[None, None, float]], slots: int, repeats: int) -> list[float]:
    return [slots / asyncio.run(sample(slots)) for _ in range(repeats)]


# ---------------------------------------------------------------------------------------------- samples, seconds


async def _create(slots: int) -> float:
    async with _Swarm() as swarm:
        return await swarm.timed(swarm.create(slots), slots)


async def _update(slots: int) -> float:
    async with _Swarm() as swarm:
        await swarm.timed(swarm.create(slots), slots)
        return await swarm.timed(swarm.update(), slots)


async def _refill(slots: int) -> float:
    """Tasks fail, and are replaced at once: as many as a small service has slots, scaled up to all slots."""
    async with _Swarm() as swarm:
        await swarm.timed(swarm.create(slots), slots)
        await swarm.timed(swarm.fail(AT_ONCE), AT_ONCE)        # the stages are then done with the creation
        took = 0.0
        for _ in range(SMALL // AT_ONCE):
            took += await swarm.timed(swarm.fail(AT_ONCE), AT_ONCE)
        return took * slots / SMALL


class _Swarm:
    """A store with nodes, the stages measured, and the driver."""

    def __init__(self) -> None:
        ticks = itertools.count(1)
        self._store = Store(lambda: next(ticks))
        self._store.bind(MemoryLog(self._store))
        self._new_id = ids_from(random.Random(1))
        self._nodes = itertools.cycle(f"node{number:021d}" for number in range(NODES))
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> _Swarm:
        nodes = []
        for number in range(NODES):
            node = Node(id=f"node{number:021d}")
            node.status.state = NodeStatus.READY
            nodes.append(node)
        await self._put(*nodes)
        stages = (
            Orchestrator(self._store, time.time_ns, self._new_id),
            TaskReaper(self._store, lambda _: asyncio.sleep(0)),        # without gathering: each deletion is paid for
        )
        self._running = [asyncio.create_task(stage.run()) for stage in stages]
        return self

    async def __aexit__(self, *_: object) -> None:
        for stage in self._running:
            stage.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def timed(self, change: Coroutine[None, None, None], slots: int) -> float:
        """Processor seconds from a change until as many new tasks as there are slots concerned have come to run."""
        with self._store.watch("tasks") as watch:
            began = time.process_time()
            await change
            await self._drive(watch, slots)
            return time.process_time() - began

    async def create(self, slots: int) -> None:
        spec = ServiceSpec()
        spec.annotations.name = "web"
        spec.mode.replicated.replicas = slots
        spec.update.parallelism = AT_ONCE
        spec.task.restart.delay_ns = 0
        await self._commit_spec(Service(id=self._new_id()), spec)

    async def update(self) -> None:
        service = Service()
        service.CopyFrom(next(iter(self._store.services.values())))
        spec = ServiceSpec()
        spec.CopyFrom(service.spec)
        spec.task.force_update += 1
        await self._commit_spec(service, spec)

    async def fail(self, count: int) -> None:
        running = (task for task in self._store.tasks.values() if task.status.state == RUNNING)
        await self._put(*(_observed(task, FAILED) for task in itertools.islice(running, count)))

    async def _commit_spec(self, service: Service, spec: ServiceSpec) -> None:
        template = template_of(spec.task)
        service.spec.CopyFrom(spec)
        service.spec_version += 1
        service.template_id = template.id
        await self._put(template, service)

    async def _drive(self, watch: Watch, slots: int) -> None:
        while slots > 0:
            reports = []
            for event in await anext(watch):
                task, old = event.object, event.old
                if not isinstance(task, Task) or task.status.state > RUNNING:
                    continue
                if task.status.state == RUNNING and isinstance(old, Task) and old.status.state != RUNNING:
                    slots -= 1
                elif task.desired_state > RUNNING:
                    reports.append(_observed(task, SHUTDOWN))
                elif task.desired_state == RUNNING != task.status.state:
                    reports.append(_observed(task, RUNNING, next(self._nodes)))
            await commit_units(self._store, [_unit(report) for report in reports])   # a stale one is told again

    async def _put(self, *rows: StoreObject) -> None:
        await self._store.commit(_unit(*rows))


def _unit(*rows: StoreObject) -> Transaction:
    unit = Transaction()
    unit.put(*rows)
    return unit


def _observed(task: Task, state: TaskState, node_id: str = "") -> Task:
    copy = Task()
    copy.CopyFrom(task)
    copy.status.state = state
    copy.node_id = copy.node_id or node_id
    return copy
