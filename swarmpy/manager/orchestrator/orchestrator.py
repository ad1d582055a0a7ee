"""The orchestrator stage: for every service, the tasks it should have.

Owns    the creation of tasks, their desired state, ORPHANED, and the progress of updates.
In      services, tasks, nodes and templates, as the store shows them.
Out     units of writes, each decided by `reconcile`; and timers for restart delays, update delays and monitoring.
Laws    a slot is looked at when something that matters to it changed or its time came. Everything else is decided from
        the store at that moment, so it does not matter which leader looks, or how often. What an event costs does not
        depend on how many slots a service has.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator

from swarmpy.manager.orchestrator.fitness import NodeFitness, fitness
from swarmpy.manager.orchestrator.progress import config_of
from swarmpy.manager.orchestrator.reconcile import Swarm, reconcile
from swarmpy.manager.orchestrator.view import ServiceView
from swarmpy.manager.store import (
    Event,
    EventKind,
    IdSource,
    NotLeader,
    Sleep,
    Store,
    Transaction,
    commit_units,
    in_turns,
)
from swarmpy.rpc.types_pb2 import RUNNING, Node, Service, Task, UpdateConfig

__all__ = ["Orchestrator"]

_AT_ONCE = 250   # slots of a service looked at, and as many filled, before others have a turn
_UNITS = 1000    # decided before the news is looked at again
_UPDATE = 0      # where a slot's number stands: slots count from 1


class Orchestrator:
    """Runs on the leader; everything it knows is in the store."""

    def __init__(
        self, store: Store, clock: Callable[[], int], new_id: IdSource, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._sleep = sleep
        self._views: dict[str, ServiceView] = {}
        self._dirty: dict[str, None] = {}                    # services to look at, in the order they came up
        self._timers: list[tuple[int, str, int]] = []        # when to look at which slot of which service, as a heap
        self._armed: dict[tuple[str, int], int] = {}         # the live timer of each; others in the heap are stale

    async def run(self) -> None:
        """Orchestrate for as long as this manager leads; returns when it no longer does."""
        with self._store.watch("services", "tasks", "nodes") as watch:
            for service_id in dict.fromkeys([*self._store.services, *self._store.tasks.services()]):
                self._view(service_id)
                self._dirty[service_id] = None
            try:
                while True:
                    await self._look()
                    if self._dirty:
                        await asyncio.sleep(0)
                    news = watch.take() if self._dirty else await watch.wait(self._next_timer_s(), self._sleep)
                    async for events in in_turns(news):
                        for event in events:
                            self._note(event)
            except NotLeader:
                return

    async def _look(self) -> None:
        now = self._clock()
        self._ring(now)
        again: dict[str, None] = {}
        for unit in await commit_units(self._store, self._decide(now, again)):
            for row in unit.objects:
                if isinstance(row, Task):
                    self._stir(row)
                elif isinstance(row, Service):
                    self._dirty[row.id] = None
        self._dirty |= again

    def _decide(self, now: int, again: dict[str, None]) -> Iterator[Transaction]:
        """The next services' units, each service decided when it is asked for. Those with more to do are `again`'s."""
        swarm = Swarm(self._store.nodes.get, self._store.spec_of, self._store.versions, self._new_id, now)
        left = _UNITS
        for service_id in list(self._dirty):
            if left <= 0:
                return
            del self._dirty[service_id]
            view = self._view(service_id)
            stirred = view.take_stirred(_AT_ONCE)
            decision = reconcile(view, stirred, swarm, _AT_ONCE)
            if decision.more or view.has_stirred:
                again[service_id] = None
            for wake_ns, number in decision.wakes:
                self._arm(wake_ns, service_id, number)
            self._drop_if_gone(service_id)
            left -= max(len(decision.units), len(stirred) // 4)     # a look without a decision costs too
            yield from decision.units

    def _view(self, service_id: str) -> ServiceView:
        view = self._views.get(service_id)
        if view is None:
            view = self._views[service_id] = ServiceView(
                self._store.services.get(service_id), self._store.tasks.by_service(service_id), self._store.versions
            )
        return view

    # ------------------------------------------------------------------------------------------ timers

    def _arm(self, wake_ns: int, service_id: str, number: int) -> None:
        """Only the earliest timer of a slot lives: whoever is looked at then asks for the next."""
        key = (service_id, number)
        if wake_ns < self._armed.get(key, wake_ns + 1):
            self._armed[key] = wake_ns
            heapq.heappush(self._timers, (wake_ns, *key))

    def _ring(self, now: int) -> None:
        while self._timers and self._timers[0][0] <= now:
            wake_ns, service_id, number = heapq.heappop(self._timers)
            if self._armed.get((service_id, number)) == wake_ns:
                del self._armed[service_id, number]
                self._stir_slot(service_id, number)

    def _next_timer_s(self) -> float | None:
        return max(0, self._timers[0][0] - self._clock()) / 1e9 if self._timers else None

    # ------------------------------------------------------------------------------------------ what matters

    def _note(self, event: Event) -> None:
        row = event.object
        if isinstance(row, Service):
            self._note_service(event, row)
        elif isinstance(row, Node):
            for task in self._store.tasks.by_node(row.id):
                self._view(task.service_id).put_task(task)      # its node may no longer be one that it may be on
                self._stir(task)
        elif isinstance(row, Task):
            self._note_task(event, row)

    def _note_service(self, event: Event, service: Service) -> None:
        gone = event.kind is EventKind.REMOVE
        self._view(service.id).put_service(None if gone else service)
        self._dirty[service.id] = None
        self._drop_if_gone(service.id)

    def _note_task(self, event: Event, task: Task) -> None:
        view = self._view(task.service_id)
        if event.kind is EventKind.REMOVE:
            view.remove_task(task)
            self._drop_if_gone(task.service_id)
            return
        view.put_task(task)
        if self._matters(event, task):
            self._stir(task)

    def _drop_if_gone(self, service_id: str) -> None:
        view = self._views[service_id]
        if view.service is None and not view.slots:
            del self._views[service_id]

    def _stir(self, task: Task) -> None:
        self._stir_slot(task.service_id, task.slot)

    def _stir_slot(self, service_id: str, number: int) -> None:
        if number != _UPDATE:
            self._view(service_id).stir(number)
        self._dirty[service_id] = None

    def _matters(self, event: Event, task: Task) -> bool:
        """Whether a change of a task may change what is decided. Most are progress that changes nothing."""
        old, state = event.old if isinstance(event.old, Task) else Task(desired_state=RUNNING), task.status.state
        if old.desired_state != task.desired_state:
            return True
        if old.status.state != state and (state > RUNNING or (state == RUNNING and self._is_awaited(task))):
            return True
        if task.node_id and not old.node_id:     # assigned, perhaps to a node that changed just then
            node = self._store.nodes.get(task.node_id)
            return fitness(task, node, self._store.spec_of(task.template_id), self._clock()) is not NodeFitness.FIT
        return False

    def _is_awaited(self, task: Task) -> bool:
        """Whether an update waits for a task to run, or another task of its slot does."""
        service = self._store.services.get(task.service_id)
        return task.by_update or (service is not None and config_of(service).order == UpdateConfig.START_FIRST)
