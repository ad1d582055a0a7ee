"""The orchestrator stage: for every service, the tasks it should have.

Owns    the creation of tasks, their desired state, ORPHANED, and the progress of updates.
In      services, tasks, nodes and templates, as the store shows them.
Out     units of writes, each decided by `reconcile`; and timers for restart delays, update delays and monitoring.
Laws    a service is looked at when something that matters to it changed or its time came. Everything else is decided
        from the store at that moment, so it does not matter which leader looks, or how often.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from swarmpy.manager.orchestrator.fitness import NodeFitness, fitness
from swarmpy.manager.orchestrator.reconcile import Swarm, reconcile
from swarmpy.manager.orchestrator.update import config_of
from swarmpy.manager.store import (
    Event,
    EventKind,
    IdSource,
    NotLeader,
    Sleep,
    Store,
    Transaction,
    commit_units,
)
from swarmpy.rpc.types_pb2 import RUNNING, Node, Service, Task, TaskSpec, UpdateConfig

__all__ = ["Orchestrator"]


class Orchestrator:
    """Runs on the leader; everything it knows is in the store."""

    def __init__(
        self, store: Store, clock: Callable[[], int], new_id: IdSource, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._sleep = sleep
        self._dirty: dict[str, None] = {}            # services to look at, in the order they came up
        self._timers: list[tuple[int, str]] = []     # when to look at which service, as a heap
        self._armed: set[tuple[int, str]] = set()    # the same, against doubles

    async def run(self) -> None:
        """Orchestrate for as long as this manager leads; returns when it no longer does."""
        with self._store.watch("services", "tasks", "nodes") as watch:
            self._dirty = dict.fromkeys([*self._store.services, *self._store.tasks.services()])
            try:
                while True:
                    await self._look()
                    for event in await watch.wait(self._next_timer_s(), self._sleep):
                        self._note(event)
            except NotLeader:
                return

    async def _look(self) -> None:
        now = self._clock()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)
            self._armed.discard(timer)
            self._dirty[timer[1]] = None
        dirty, self._dirty = self._dirty, {}
        swarm = Swarm(self._store.nodes.get, self._spec_of, self._new_id, now)
        units: list[Transaction] = []
        for service_id in dirty:
            decision = reconcile(
                self._store.services.get(service_id), self._store.tasks.by_service(service_id), swarm
            )
            units += decision.units
            if decision.wake_ns is not None:
                self._arm(decision.wake_ns, service_id)
        for unit in await commit_units(self._store, units):
            for row in unit.objects:
                if isinstance(row, Task | Service):
                    self._dirty[row.service_id if isinstance(row, Task) else row.id] = None

    def _arm(self, wake_ns: int, service_id: str) -> None:
        if (wake_ns, service_id) not in self._armed:
            self._armed.add((wake_ns, service_id))
            heapq.heappush(self._timers, (wake_ns, service_id))

    def _next_timer_s(self) -> float | None:
        if self._dirty:
            return 0
        return max(0, self._timers[0][0] - self._clock()) / 1e9 if self._timers else None

    def _spec_of(self, template_id: str) -> TaskSpec | None:
        template = self._store.templates.get(template_id)
        return None if template is None else template.spec

    # ------------------------------------------------------------------------------------------ what matters

    def _note(self, event: Event) -> None:
        row = event.object
        if isinstance(row, Service):
            self._dirty[row.id] = None
        elif isinstance(row, Node):
            for task in self._store.tasks.by_node(row.id):
                self._dirty[task.service_id] = None
        elif isinstance(row, Task) and self._matters(event, row):
            self._dirty[row.service_id] = None

    def _matters(self, event: Event, task: Task) -> bool:
        """Whether a change of a task may change what is decided. Most are progress that changes nothing."""
        if event.kind is EventKind.REMOVE:
            return False
        old, state = event.old if isinstance(event.old, Task) else Task(desired_state=RUNNING), task.status.state
        if old.desired_state != task.desired_state:
            return True
        if old.status.state != state and (state > RUNNING or (state == RUNNING and self._is_awaited(task))):
            return True
        if task.node_id and not old.node_id:     # assigned, perhaps to a node that changed just then
            node = self._store.nodes.get(task.node_id)
            return fitness(task, node, self._spec_of, self._clock()) is not NodeFitness.FIT
        return False

    def _is_awaited(self, task: Task) -> bool:
        """Whether an update waits for a task to run, or another task of its slot does."""
        service = self._store.services.get(task.service_id)
        return task.by_update or (service is not None and config_of(service).order == UpdateConfig.START_FIRST)
