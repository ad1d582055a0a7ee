"""Building a transaction: the writes that one decision asks for, applied together or not at all."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from swarmpy.manager.store.tables import StoreObject
from swarmpy.rpc.types_pb2 import (
    Cluster,
    Network,
    Node,
    Object,
    Service,
    StoreAction,
    StoreTransaction,
    Task,
    TaskTemplate,
)

__all__ = ["TABLES", "Transaction", "table_of", "wrap"]

# Table names, with the field of `Object` that holds a row of each.
TABLES: dict[str, str] = {
    "nodes": "node",
    "services": "service",
    "tasks": "task",
    "templates": "template",
    "networks": "network",
    "cluster": "cluster",
}
_PUT_ORDER = {"templates": 0, "tasks": 2}       # the others between them
_TABLE_OF: dict[type, str] = {
    Node: "nodes", Service: "services", Task: "tasks", TaskTemplate: "templates", Network: "networks",
    Cluster: "cluster",
}


def table_of(row: StoreObject) -> str:
    """The name of the table that a row belongs to."""
    return _TABLE_OF[type(row)]


def wrap(row: StoreObject) -> Object:
    """The row as the member of `Object` that its kind has."""
    wrapped = Object()
    getattr(wrapped, TABLES[table_of(row)]).CopyFrom(row)
    return wrapped


class Transaction:
    """Writes that are applied in order, all or none.

    `meta.version` of a message is the version that was read: the store refuses the transaction with Conflict when the
    object has changed since. Version 0 creates. A second write to the same object takes the place of the first.
    """

    __slots__ = ("_puts", "_removes")

    def __init__(self) -> None:
        self._puts: dict[tuple[str, str], StoreObject] = {}
        self._removes: dict[tuple[str, str], int] = {}

    def put(self, *objects: StoreObject) -> None:
        """Create or change objects. They are read when the transaction is committed: leave them alone until then."""
        for row in objects:
            key = (table_of(row), row.id)
            if self._removes:
                self._removes.pop(key, None)
            self._puts[key] = row

    def remove(self, *objects: StoreObject) -> None:
        """Remove objects, at the version that was read."""
        for row in objects:
            key = (table_of(row), row.id)
            self._puts.pop(key, None)
            self._removes[key] = row.meta.version

    @classmethod
    def joined(cls, units: Iterable[Transaction]) -> Transaction:
        """One transaction that does what all of these do."""
        whole = cls()
        for unit in units:
            whole._puts.update(unit._puts)
            whole._removes.update(unit._removes)
        return whole

    @property
    def objects(self) -> Collection[StoreObject]:
        """What is to be put."""
        return self._puts.values()

    def __len__(self) -> int:
        return len(self._puts) + len(self._removes)

    def encode(self, now_ns: int) -> bytes:
        """The transaction as the log carries it, puts first. Templates come before what refers to them."""
        message = StoreTransaction(now_ns=now_ns)
        actions = message.actions
        for (table, _), row in sorted(self._puts.items(), key=_templates_first):
            action: StoreAction = actions.add(expected_version=row.meta.version)
            getattr(action.put, TABLES[table]).CopyFrom(row)
        for (table, object_id), version in sorted(self._removes.items(), key=_templates_last):
            action = actions.add(expected_version=version)
            action.remove.table = table
            action.remove.id = object_id
        return message.SerializeToString()


def _templates_first(item: tuple[tuple[str, str], object]) -> int:
    return _PUT_ORDER.get(item[0][0], 1)


def _templates_last(item: tuple[tuple[str, str], object]) -> bool:
    return item[0][0] == "templates"
