"""The task reaper: deletes tasks that nobody needs to see any more, and templates that nothing refers to.

Owns    the deletion of tasks and templates.
In      tasks, services and the cluster's task history limit, as the store shows them.
Laws    a task is deleted only when it has stopped: one that never had a node, or that was seen to end. A task desired
        REMOVE goes at once then; of the others a slot keeps as many as the limit says, the newest. What still tells
        something is kept beyond the limit: the last task of a slot that is not to be restarted, and what an update
        under way has made. What an event costs does not depend on how many slots a service has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import chain

from swarmpy.manager.orchestrator.progress import counts_for_update, is_under_way
from swarmpy.manager.orchestrator.slots import Slot, SlotIndex, has_ended, is_wanted
from swarmpy.manager.store import (
    Event,
    EventKind,
    NotLeader,
    Sleep,
    Store,
    Transaction,
    Versions,
    commit_units,
    in_turns,
)
from swarmpy.rpc.types_pb2 import REMOVE, Cluster, Service, Task, TaskTemplate

__all__ = ["TaskReaper", "reap"]

_DEFAULT_LIMIT = 5
_NO_SLOTS = SlotIndex()
_GATHER_S = 0.25        # deletions are never urgent: those of a quarter second are decided together


class TaskReaper:
    """Runs on the leader; everything it knows is in the store."""

    def __init__(self, store: Store, sleep: Sleep = asyncio.sleep) -> None:
        self._store = store
        self._sleep = sleep
        self._slots: dict[str, SlotIndex] = {}              # by service
        self._dirty: dict[str, dict[int, None]] = {}        # slots to look at, by service
        self._templates: set[str] = set()

    async def run(self) -> None:
        """Reap for as long as this manager leads; returns when it no longer does."""
        with self._store.watch("cluster", "services", "tasks", "templates") as watch:
            self._note_all()
            try:
                while True:
                    await commit_units(self._store, chain(self._reap_tasks(), self._reap_templates()))
                    first = await anext(watch)
                    await self._sleep(_GATHER_S)
                    async for events in in_turns((*first, *watch.take())):
                        for event in events:
                            self._note(event)
            except NotLeader:
                return

    def _note_all(self) -> None:
        self._templates = set(self._store.templates)
        for service_id in self._store.tasks.services():
            self._slots[service_id] = SlotIndex(self._store.tasks.by_service(service_id))
            self._look_at_all(service_id)

    def _note(self, event: Event) -> None:
        row = event.object
        if isinstance(row, Task):
            self._note_task(event.kind, row)
        elif isinstance(row, Service):
            self._look_at_all(row.id)
            self._templates.add(row.template_id)
            if isinstance(event.old, Service):
                self._templates.add(event.old.template_id)
        elif isinstance(row, TaskTemplate):
            self._templates.add(row.id)
        elif isinstance(row, Cluster):
            for service_id in self._slots:
                self._look_at_all(service_id)

    def _note_task(self, kind: EventKind, task: Task) -> None:
        slots = self._slots.get(task.service_id)
        if slots is None:
            slots = self._slots[task.service_id] = SlotIndex()
        if kind is not EventKind.REMOVE:
            if slots.put_progress(task) and is_wanted(task):
                return
            slots.put(task)
            if has_ended(task) or not is_wanted(task):
                self._dirty.setdefault(task.service_id, {})[task.slot] = None
            return
        self._templates.add(task.template_id)
        slots.remove(task)
        if not slots:
            del self._slots[task.service_id]

    def _look_at_all(self, service_id: str) -> None:
        self._dirty[service_id] = dict.fromkeys(self._slots.get(service_id, ()))

    def _reap_tasks(self) -> Iterator[Transaction]:
        dirty, self._dirty = self._dirty, {}
        cluster = self._store.cluster
        limit = _DEFAULT_LIMIT
        if cluster is not None and cluster.spec.HasField("task_history_limit"):
            limit = cluster.spec.task_history_limit
        for service_id in sorted(dirty):
            service, slots = self._store.services.get(service_id), self._slots.get(service_id, _NO_SLOTS)
            for slot in filter(None, map(slots.get, sorted(dirty[service_id]))):
                yield from _removals(reap(slot, service, limit, self._store.versions))

    def _reap_templates(self) -> Iterator[Transaction]:
        templates, self._templates = self._templates, set()
        rows = (self._store.templates.get(template_id) for template_id in sorted(templates))
        yield from _removals(row for row in rows if row is not None and not self._store.uses_of_template(row.id))


def reap(slot: Slot, service: Service | None, limit: int, versions: Versions) -> list[Task]:
    """The tasks of a slot to delete. A negative limit keeps all history."""
    gone = [task for task in slot.tasks if _has_stopped(task) and (task.desired_state == REMOVE or not task.node_id)]
    if limit < 0:
        return gone
    leaving = {task.id for task in gone}
    kept = [task for task in slot.tasks if task.id not in leaving]
    surplus = len(kept) - limit
    for task in kept:
        if surplus <= 0:
            break
        if _has_stopped(task) and task is not slot.tasks[-1] and not _is_evidence(task, service, versions):
            gone.append(task)
            surplus -= 1
    return gone


def _has_stopped(task: Task) -> bool:
    return not is_wanted(task) and (has_ended(task) or not task.node_id)


def _is_evidence(task: Task, service: Service | None, versions: Versions) -> bool:
    """Whether an update under way still counts the task."""
    return service is not None and is_under_way(service) and counts_for_update(service, task, versions)


def _removals(rows: Iterable[Task | TaskTemplate]) -> Iterator[Transaction]:
    for row in rows:
        unit = Transaction()
        unit.remove(row)
        yield unit
