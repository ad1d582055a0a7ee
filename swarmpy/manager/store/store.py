"""The replicated objects of a swarm, as this manager has applied them.

Owns    every object of the swarm in memory, at the version of its last write: the index of that log entry.
In      committed transactions from the log, in index order (`apply`), or a snapshot (`load`).
Out     shared messages from tables, events to watches, and proposals to the log (`commit`).
Laws    apply is deterministic and all or nothing; what it refuses, it refuses on every manager alike.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, cast

from google.protobuf.message import DecodeError

from swarmpy.errors import Conflict, Internal, InvalidArgument, SwarmpyError
from swarmpy.manager.replicated_log import ReplicatedLog
from swarmpy.manager.store.ports import IngressPorts
from swarmpy.manager.store.snapshot import write_snapshot
from swarmpy.manager.store.state import State, difference
from swarmpy.manager.store.tables import NamedTable, StoreObject, Table, TaskTable
from swarmpy.manager.store.task_states import check_desired, check_observed
from swarmpy.manager.store.transaction import TABLES, Transaction, table_of
from swarmpy.manager.store.versions import Versions
from swarmpy.manager.store.watch import Event, EventKind, History, Watch
from swarmpy.rpc.types_pb2 import (
    RUNNING,
    Cluster,
    Network,
    Node,
    Object,
    Service,
    StoreAction,
    StoreTransaction,
    Task,
    TaskSpec,
    TaskTemplate,
)

__all__ = ["Store"]

_EVERY_TABLE = frozenset(TABLES)


class Store:
    """A `StateMachine` of the replicated log. Used on the event loop's thread alone."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock` gives Unix time in ns; it stamps proposals, never what is applied."""
        self._clock = clock
        self._log: ReplicatedLog | None = None
        self._watchers: set[Watch] = set()
        self.index = 0
        self._history = History(0)
        self._use(State())
        self.versions = Versions(self.spec_of, lambda node_id: self.nodes.get(node_id))

    def _use(self, state: State) -> None:
        self._state = state
        self.nodes: Table[Node] = state.nodes
        self.services: NamedTable[Service] = state.services
        self.tasks: TaskTable = state.tasks
        self.templates: Table[TaskTemplate] = state.templates
        self.networks: NamedTable[Network] = state.networks
        self.ports: IngressPorts = state.ports

    @property
    def cluster(self) -> Cluster | None:
        """The one cluster object; None before the swarm is made."""
        return next(iter(self._state.cluster.values()), None)

    def spec_of(self, template_id: str) -> TaskSpec | None:
        """The task spec of a template; None when the template is gone."""
        template = self.templates.get(template_id)
        return None if template is None else template.spec

    def running(self, service_id: str) -> int:
        """How many tasks of a service run, on nodes that are not down."""
        return self._state.running.of(service_id)

    def uses_of_template(self, template_id: str) -> int:
        """How many services and tasks refer to a template; at 0 it may be removed."""
        return self._state.uses_of_template(template_id)

    # ------------------------------------------------------------------------------------------ writing

    def bind(self, log: ReplicatedLog) -> None:
        """Tell the store which log drives it; `commit` proposes there."""
        self._log = log

    async def commit(self, transaction: Transaction) -> int:
        """Propose a transaction, wait until it is applied here, and return its index.

        An empty transaction proposes nothing and returns the present index. Raises Conflict when an object is not at
        the version that was read, or a name is in use, or something it refers to is gone; InvalidArgument when it
        would move a task backward; NotLeader when this manager may not write.
        """
        if not len(transaction):
            return self.index
        if self._log is None:
            raise Internal("the store has no log to propose to: bind() it first")
        return cast(int, await self._log.propose(transaction.encode(self._clock())))

    def watch(self, *tables: str, since: int | None = None) -> Watch:
        """Watch the named tables, or all of them, from now on or from after the index `since`.

        Raises ResumeExpired when `since` is too long ago, InvalidArgument for an unknown table.
        """
        wanted = frozenset(tables) or _EVERY_TABLE
        if not wanted <= _EVERY_TABLE:
            raise InvalidArgument(f"no such tables: {sorted(wanted - _EVERY_TABLE)}")
        return Watch(wanted, self._watchers, () if since is None else self._history.after(since))

    # ------------------------------------------------------------------------------------------ StateMachine

    def apply(self, index: int, data: bytes) -> object:
        """Apply one committed transaction. Returns its index, or the SwarmpyError for which nothing of it was done."""
        self.index = index
        try:
            transaction = StoreTransaction.FromString(data)
        except DecodeError as error:
            return Internal(f"log entry {index} is not a store transaction: {error}")
        events: list[Event] = []
        try:
            for action in transaction.actions:
                if (event := self._apply_action(index, transaction.now_ns, action)) is not None:
                    events.append(event)
        except SwarmpyError as refusal:
            for event in reversed(events):
                self._undo(event)
            return refusal
        self._publish(events)
        return index

    def snapshot(self) -> Callable[[], bytes]:
        """The whole store as it is now; called, a serialized `StoreSnapshot`. Rows never change, so they are shared."""
        index = self.index
        rows = list(chain.from_iterable(table.values() for table in self._state.tables.values()))
        return lambda: write_snapshot(index, rows)

    def load(self, index: int, data: bytes) -> Callable[[], None]:
        """Read a snapshot; called, what is returned replaces everything by it. Raises Internal on a damaged one.

        Watches see the difference as ordinary events.
        """
        before, state = self._state, State.of_snapshot(data)
        changes = {table: difference(table, before, state, index) for table in self._watched()}

        def replace() -> None:
            self._use(state)
            self.index = index
            self._history.forget(index)
            for table in self._watched():
                events = changes[table] if table in changes else difference(table, before, state, index)
                for watch in tuple(self._watchers) if events else ():
                    watch.deliver(events, frozenset((table,)))

        return replace

    def _watched(self) -> list[str]:
        """The tables that anybody watches: a million changes that nobody asks for are not worth finding."""
        watches = tuple(self._watchers)
        return [table for table in TABLES if any(table in watch.tables for watch in watches)]

    # ------------------------------------------------------------------------------------------ one action

    def _apply_action(self, index: int, now_ns: int, action: StoreAction) -> Event | None:
        if action.HasField("put"):
            return self._put(index, now_ns, action.put, action.expected_version)
        return self._remove(index, action)

    def _put(self, index: int, now_ns: int, put: Object, expected_version: int) -> Event | None:
        kind = put.WhichOneof("object")
        if kind is None:
            raise InvalidArgument(f"log entry {index} writes an object of a kind unknown to this version")
        written = getattr(put, kind)
        new = type(written)()
        new.CopyFrom(written)           # parsed messages share the memory of the whole transaction; rows must not
        table, object_id = table_of(new), new.id
        old = self._state.tables[table].get(object_id)
        if old is not None and kind == "template" and not expected_version:
            return None                 # a template's id is its content: it is here already
        self._check_version(table, object_id, old, expected_version)
        self._check_rules(old, new)
        meta = new.meta
        meta.version, meta.updated_ns = index, now_ns
        meta.created_ns = now_ns if old is None else old.meta.created_ns
        if isinstance(new, Task):
            _stamp_task(old, new, now_ns)
        elif isinstance(new, Node | Service):
            meta.spec_index = old.meta.spec_index if old is not None and old.spec == new.spec else index
        self._state.replace(table, object_id, old, new)
        return Event(EventKind.CREATE if old is None else EventKind.UPDATE, table, object_id, new, old, index)

    def _remove(self, index: int, action: StoreAction) -> Event:
        table, object_id = action.remove.table, action.remove.id
        if table not in self._state.tables:
            raise InvalidArgument(f"log entry {index} removes from table {table!r}, unknown to this version")
        old = self._state.tables[table].get(object_id)
        self._check_version(table, object_id, old, action.expected_version)
        if old is None:
            raise Conflict(f"the {self._state.tables[table].noun} {object_id} is gone already")
        if table == "templates" and (uses := self.uses_of_template(object_id)):
            raise Conflict(f"task template {object_id} is in use by {uses} services and tasks")
        self._state.replace(table, object_id, old, None)
        return Event(EventKind.REMOVE, table, object_id, old, old, index)

    def _check_version(self, table: str, object_id: str, old: StoreObject | None, expected: int) -> None:
        present = 0 if old is None else old.meta.version
        if present == expected:
            return
        noun = self._state.tables[table].noun
        if old is None:
            raise Conflict(f"the {noun} {object_id} was removed meanwhile")
        if not expected:
            raise Conflict(f"a {noun} {object_id} exists already")
        raise Conflict(
            f"update out of sequence: {noun} {object_id} is at version {present}, not {expected}; read it again"
        )

    def _check_rules(self, old: Any, new: Any) -> None:
        if isinstance(new, Task):
            self._check_task(old, new)
        elif isinstance(new, Service):
            self.services.check_name(new.id, new)
            self.ports.check(new)
            self._check_template("service", new.id, new.template_id)
        elif isinstance(new, Network):
            self.networks.check_name(new.id, new)
        elif isinstance(new, Cluster) and old is None and len(self._state.cluster):
            raise Conflict("a swarm has one cluster object, and it exists already")

    def _check_task(self, old: Task | None, new: Task) -> None:
        if old is None:
            if new.service_id not in self.services:
                raise Conflict(f"task {new.id}: its service {new.service_id} was removed")
            self._check_template("task", new.id, new.template_id)
            old_node = ""
        else:
            if old.service_id != new.service_id or old.slot != new.slot or old.template_id != new.template_id:
                raise InvalidArgument(f"task {new.id}: service, slot and template of a task never change")
            check_observed(new.id, old.status.state, new.status.state)
            check_desired(new.id, old.desired_state, new.desired_state)
            old_node = old.node_id
        node = new.node_id
        if node != old_node:
            if old_node:
                raise InvalidArgument(f"task {new.id}: a task is never moved from one node to another")
            if node not in self.nodes:
                raise Conflict(f"task {new.id}: node {node} was removed")

    def _check_template(self, noun: str, object_id: str, template_id: str) -> None:
        if template_id not in self.templates:
            raise Conflict(f"{noun} {object_id}: task template {template_id!r} is not in the store")

    # ------------------------------------------------------------------------------------------ effects

    def _undo(self, event: Event) -> None:
        now = None if event.kind is EventKind.REMOVE else event.object
        self._state.replace(event.table, event.id, now, event.old)

    def _publish(self, events: list[Event]) -> None:
        if not events:
            return
        self._history.add(events)
        tables = frozenset(event.table for event in events)
        for watch in tuple(self._watchers):
            watch.deliver(events, tables)


def _stamp_task(old: Task | None, new: Task, now_ns: int) -> None:
    """Note when a task was first seen to run and to end, by the proposer's clock: agents' clocks may differ."""
    state = new.status.state
    running_ns, ended_ns = (0, 0) if old is None else (old.running_ns, old.ended_ns)
    new.running_ns = running_ns or (now_ns if state == RUNNING else 0)
    new.ended_ns = ended_ns or (now_ns if state > RUNNING else 0)
