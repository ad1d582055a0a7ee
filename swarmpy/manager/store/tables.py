"""Tables and their indexes.

Owns    rows by id, names, and the tasks of each service, node and template. Keeping an index costs O(1) a write.
In      pairs of old and new row, from the store alone (`replace`).
Out     the rows themselves, shared and not copied: whoever wants to change one copies it first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, ValuesView
from typing import Generic, TypeVar

from swarmpy.errors import Conflict, NotFound
from swarmpy.rpc.types_pb2 import Cluster, Network, Node, Service, Task, TaskTemplate

__all__ = ["NamedTable", "StoreObject", "Table", "TaskTable"]

StoreObject = Node | Service | Task | TaskTemplate | Network | Cluster
T = TypeVar("T", bound=StoreObject)


class Table(Generic[T]):
    """All objects of one kind, by id."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._rows: dict[str, T] = {}

    def get(self, object_id: str) -> T | None:
        return self._rows.get(object_id)

    def __getitem__(self, object_id: str) -> T:
        """Raises NotFound."""
        row = self._rows.get(object_id)
        if row is None:
            raise NotFound(f"no such {self.noun}: {object_id}")
        return row

    def __contains__(self, object_id: object) -> bool:
        return object_id in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def values(self) -> ValuesView[T]:
        """A live view; do not await while iterating over it."""
        return self._rows.values()

    def by_prefix(self, prefix: str) -> tuple[T, ...]:
        """All rows whose id begins with `prefix`. Looks at every id."""
        return tuple(row for object_id, row in self._rows.items() if object_id.startswith(prefix))

    def replace(self, object_id: str, old: T | None, new: T | None) -> None:
        """Put `new` where `old` was; None is no row. For the store alone, which has checked that it may be done."""
        if new is None:
            del self._rows[object_id]
        else:
            self._rows[object_id] = new


class NamedTable(Table[T]):
    """A table whose rows have unique names; names differ by more than case."""

    def __init__(self, noun: str, name_of: Callable[[T], str]) -> None:
        super().__init__(noun)
        self._name_of = name_of
        self._names: dict[str, str] = {}

    def by_name(self, name: str) -> T | None:
        object_id = self._names.get(name.lower())
        return None if object_id is None else self._rows[object_id]

    def check_name(self, object_id: str, row: T) -> None:
        """Raises Conflict when another row has the name."""
        name = self._name_of(row)
        holder = self._names.get(name.lower())
        if holder is not None and holder != object_id:
            raise Conflict(f"the {self.noun} name {name} is in use by {self.noun} {holder}; choose another name")

    def replace(self, object_id: str, old: T | None, new: T | None) -> None:
        super().replace(object_id, old, new)
        if old is not None:
            del self._names[self._name_of(old).lower()]
        if new is not None:
            self._names[self._name_of(new).lower()] = object_id


class TaskTable(Table[Task]):
    """Tasks, also by the service they belong to, the node they are on, and the template they were made from."""

    def __init__(self) -> None:
        super().__init__("task")
        self._by_service: dict[str, dict[str, Task]] = {}
        self._by_node: dict[str, dict[str, Task]] = {}
        self._templates: dict[str, int] = {}

    def by_service(self, service_id: str) -> Collection[Task]:
        """A live view, in order of creation."""
        rows = self._by_service.get(service_id)
        return () if rows is None else rows.values()

    def by_node(self, node_id: str) -> Collection[Task]:
        """A live view."""
        rows = self._by_node.get(node_id)
        return () if rows is None else rows.values()

    def services(self) -> Collection[str]:
        """Ids of the services that have tasks, also of services that no longer exist."""
        return self._by_service.keys()

    def nodes(self) -> Collection[str]:
        """Ids of the nodes that have tasks, also of nodes that no longer exist."""
        return self._by_node.keys()

    def uses_of(self, template_id: str) -> int:
        """How many tasks were made from a template."""
        return self._templates.get(template_id, 0)

    def replace(self, object_id: str, old: Task | None, new: Task | None) -> None:
        super().replace(object_id, old, new)
        for index, old_key, new_key in (
            (self._by_service, old.service_id if old else "", new.service_id if new else ""),
            (self._by_node, old.node_id if old else "", new.node_id if new else ""),
        ):
            _move(index, object_id, old_key, new_key, new)
        if old is None and new is not None:
            self._templates[new.template_id] = self._templates.get(new.template_id, 0) + 1
        elif new is None and old is not None:
            left = self._templates[old.template_id] - 1
            if left:
                self._templates[old.template_id] = left
            else:
                del self._templates[old.template_id]


def _move(
    index: dict[str, dict[str, Task]], task_id: str, old_key: str, new_key: str, new: Task | None
) -> None:
    """Keep one index: an empty key is not indexed, and an empty bucket is dropped."""
    if old_key and old_key != new_key:
        bucket = index[old_key]
        del bucket[task_id]
        if not bucket:
            del index[old_key]
    if new_key and new is not None:
        held = index.get(new_key)
        if held is None:
            index[new_key] = {task_id: new}
        else:
            held[task_id] = new
