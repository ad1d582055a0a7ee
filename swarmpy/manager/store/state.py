"""All objects of a swarm at one index, with every index over them: what a snapshot holds and a transaction changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from swarmpy.manager.store.ports import IngressPorts
from swarmpy.manager.store.running import RunningTasks
from swarmpy.manager.store.snapshot import politely, read_snapshot
from swarmpy.manager.store.tables import NamedTable, StoreObject, Table, TaskTable
from swarmpy.manager.store.transaction import table_of
from swarmpy.manager.store.watch import Event, EventKind
from swarmpy.rpc.types_pb2 import Cluster, Network, Node, Service, TaskTemplate

__all__ = ["State", "difference"]


class State:
    """Changed by `replace` alone. Rows are shared and never changed in place."""

    def __init__(self) -> None:
        self.nodes: Table[Node] = Table("node")
        self.services: NamedTable[Service] = NamedTable("service", lambda row: row.spec.annotations.name)
        self.tasks = TaskTable()
        self.templates: Table[TaskTemplate] = Table("task template")
        self.networks: NamedTable[Network] = NamedTable("network", lambda row: row.spec.annotations.name)
        self.cluster: Table[Cluster] = Table("cluster")
        self.ports = IngressPorts()
        self.running = RunningTasks()
        self._services_of_template: dict[str, int] = {}
        self.tables: dict[str, Table[Any]] = {
            "nodes": self.nodes,
            "services": self.services,
            "tasks": self.tasks,
            "templates": self.templates,
            "networks": self.networks,
            "cluster": self.cluster,
        }

    @classmethod
    def of_snapshot(cls, data: bytes) -> State:
        """The state that a serialized `StoreSnapshot` holds. Raises Internal when it is damaged."""
        state = cls()
        for row in read_snapshot(data):
            state.replace(table_of(row), row.id, None, row)
        return state

    def uses_of_template(self, template_id: str) -> int:
        """How many services and tasks refer to a template."""
        return self.tasks.uses_of(template_id) + self._services_of_template.get(template_id, 0)

    def replace(self, table: str, object_id: str, old: Any, new: Any) -> None:
        """Put `new` where `old` was; None is no row."""
        self.tables[table].replace(object_id, old, new)
        if table == "tasks":
            self.running.replace_task(old, new)
        elif table == "nodes":
            self.running.replace_node(object_id, new, self.tasks.by_node(object_id))
        elif table == "services":
            self.ports.replace(old, new)
            for row, step in ((old, -1), (new, 1)):
                if row is not None:
                    count = self._services_of_template.get(row.template_id, 0) + step
                    if count:
                        self._services_of_template[row.template_id] = count
                    else:
                        del self._services_of_template[row.template_id]


def difference(table: str, before: State, after: State, index: int) -> list[Event]:
    """The events that lead one table from one state to another; rows at the same version are the same."""
    return list(_difference(table, before.tables[table], after.tables[table], index))


def _difference(name: str, before: Table[StoreObject], after: Table[StoreObject], index: int) -> Iterator[Event]:
    for row in politely(before.values()):
        if row.id not in after:
            yield Event(EventKind.REMOVE, name, row.id, row, row, index)
    for row in politely(after.values()):
        old = before.get(row.id)
        if old is None:
            yield Event(EventKind.CREATE, name, row.id, row, None, index)
        elif old.meta.version != row.meta.version:
            yield Event(EventKind.UPDATE, name, row.id, row, old, index)
