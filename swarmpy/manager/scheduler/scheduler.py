"""The scheduler stage: PENDING tasks are ASSIGNED a node.

Owns    the choice of a node. Its picture of the nodes is derived from the store and kept up by a watch.
In      nodes, tasks, services and templates, as the store shows them.
Out     Task.node_id with ASSIGNED, or Task.status.error that says why no node will do.
Laws    reservations, host ports, constraints and the replicas allowed on a node hold for every assignment, counted
        with all earlier ones. Equal tasks are placed together in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from swarmpy.errors import InvalidArgument
from swarmpy.manager.scheduler.filters import explain, needs_of
from swarmpy.manager.scheduler.node_info import HostPort, host_ports
from swarmpy.manager.scheduler.nodes import NodeView
from swarmpy.manager.scheduler.spread import place
from swarmpy.manager.store import Event, EventKind, NotLeader, Store, Transaction, commit_units, in_turns
from swarmpy.rpc.types_pb2 import ASSIGNED, PENDING, RUNNING, Node, Task, TaskSpec

__all__ = ["Scheduler"]

_AT_ONCE = 1000     # tasks decided before the news is looked at again

_Group = tuple[str, str, tuple[HostPort, ...]]     # service, template, host ports


class Scheduler:
    """Runs on the leader; everything it knows is rebuilt from the store."""

    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self._store = store
        self._clock = clock
        self._view = NodeView(self._spec_of)
        self._pending: dict[_Group, dict[str, Task]] = {}
        self._stuck: dict[_Group, str] = {}   # for which no node had room, and why; looked at again if that may change
        self._late: list[Task] = []           # which joined such a group, and are yet to be told why they wait

    async def run(self) -> None:
        """Schedule for as long as this manager leads; returns when it no longer does."""
        with self._store.watch("nodes", "tasks") as watch:
            self.rebuild()
            try:
                while True:
                    for unit in await commit_units(self._store, map(_unit, self.decide(self._clock(), _AT_ONCE))):
                        self._reconsider(unit)
                    more = any(group not in self._stuck for group in self._pending)
                    async for events in in_turns(watch.take() if more else await anext(watch)):
                        for event in events:
                            self._note(event)
            except NotLeader:
                return

    # ------------------------------------------------------------------------------------------ what is known

    def _spec_of(self, template_id: str) -> TaskSpec | None:
        template = self._store.templates.get(template_id)
        return None if template is None else template.spec

    def rebuild(self) -> None:
        """Read the store into a new scheduler; `run` does it first."""
        for node in self._store.nodes.values():
            self._view.put_node(node)
        for task in self._store.tasks.values():
            self._note_task(task)
        for task in sorted(self._store.tasks.values(), key=lambda task: task.ended_ns):
            self._view.note_failure(task)

    def _note(self, event: Event) -> None:
        row = event.object
        if isinstance(row, Node):
            if event.kind is EventKind.REMOVE:
                for task in self._store.tasks.by_node(row.id):
                    self._view.remove_task(task.id)       # to be counted again, should the node come back
                self._view.remove_node(row.id)
            else:
                self._view.put_node(row)
                if event.kind is EventKind.CREATE:
                    for task in self._store.tasks.by_node(row.id):
                        self._view.put_task(task)
            self._stuck.clear()
        elif isinstance(row, Task):
            self._note_change(event, row)

    def _note_change(self, event: Event, task: Task) -> None:
        if event.kind is EventKind.REMOVE:
            if self._view.remove_task(task.id):
                self._stuck.clear()
            self._drop(task)
            return
        old = event.old
        if isinstance(old, Task) and _goes_on(old, task) and (old.node_id or self._view.holds(task.id, task.node_id)):
            return
        self._note_task(task)
        if task.ended_ns and not (isinstance(old, Task) and old.ended_ns):
            self._view.note_failure(task)

    def _note_task(self, task: Task) -> None:
        if self._view.put_task(task):
            self._stuck.clear()
        if task.status.state == PENDING and task.desired_state <= RUNNING:
            group = _group(task)
            waiting = self._pending.setdefault(group, {})
            if group in self._stuck and task.id not in waiting:
                self._late.append(task)
            waiting[task.id] = task
        elif task.status.state >= PENDING:
            self._drop(task)

    def _drop(self, task: Task) -> None:
        group = _group(task)
        waiting = self._pending.get(group)
        if waiting is not None and waiting.pop(task.id, None) is not None and not waiting:
            del self._pending[group]
            self._stuck.pop(group, None)

    def _reconsider(self, unit: Transaction) -> None:
        """An assignment was refused, because the task or its node changed: take it back."""
        for row in unit.objects:
            if isinstance(row, Task):
                self._view.remove_task(row.id)
                if (present := self._store.tasks.get(row.id)) is not None:
                    self._note_task(present)
        self._stuck.clear()

    # ------------------------------------------------------------------------------------------ decisions

    def decide(self, now: int, at_once: int | None = None) -> Iterator[Task]:
        """The tasks to write: assigned, or with a new explanation why they cannot be; about `at_once` of them, or all.

        Each assignment is counted in the view at once, so that the next decision knows of it.
        """
        late, self._late = self._late, []
        for task in late:
            if error := self._stuck.get(_group(task), ""):
                yield from _told([task], error, now)
        left = at_once
        for group in [group for group in self._pending if group not in self._stuck]:
            if left is not None and left <= 0:
                return
            waiting = list(islice(self._pending[group].values(), left))
            spec = self._spec_of(group[1])
            if spec is None:                  # the service went, and its template with it
                self._stuck[group] = ""
                continue
            try:
                needs = needs_of(waiting[0], spec)
            except InvalidArgument as error:
                yield from self._refuse(group, list(self._pending[group].values()), str(error), now)
                continue
            chosen = place(needs, len(waiting), self._view, now)
            placed = waiting[: len(chosen)]
            self._view.take(needs.claim, [task.id for task in placed], chosen)
            self._forget(group, placed)
            if left is not None:
                left -= len(waiting)
            for task, info in zip(placed, chosen, strict=True):     # copied as they are asked for: others have turns
                yield _assigned(task, info.id, now)
            if len(placed) < len(waiting):
                rest = list(self._pending[group].values())
                yield from self._refuse(group, rest, explain(needs, self._view.all()), now)

    def _refuse(self, group: _Group, waiting: Iterable[Task], error: str, now: int) -> Iterator[Task]:
        self._stuck[group] = error
        yield from _told(waiting, error, now)

    def _forget(self, group: _Group, assigned: Iterable[Task]) -> None:
        waiting = self._pending[group]
        for task in assigned:
            del waiting[task.id]
        if not waiting:
            del self._pending[group]


def _goes_on(old: Task, new: Task) -> bool:
    """Whether a task holds what it held, or what its place was chosen for."""
    return new.status.state <= RUNNING and old.desired_state == new.desired_state


def _assigned(task: Task, node_id: str, now: int) -> Task:
    changed = Task()
    changed.CopyFrom(task)
    changed.node_id = node_id
    status = changed.status
    status.state, status.timestamp_ns = ASSIGNED, now
    status.message, status.error = "scheduler assigned task to node", ""
    return changed


def _told(waiting: Iterable[Task], error: str, now: int) -> Iterator[Task]:
    """Those of the tasks that do not say so yet, as they are to be written."""
    for task in waiting:
        if task.status.error != error:
            changed = Task()
            changed.CopyFrom(task)
            changed.status.error, changed.status.timestamp_ns = error, now
            yield changed


def _group(task: Task) -> _Group:
    return task.service_id, task.template_id, host_ports(task)


def _unit(task: Task) -> Transaction:
    unit = Transaction()
    unit.put(task)
    return unit
