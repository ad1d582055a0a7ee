"""The replicated object store: what the swarm should be and what it is, the same on every manager."""

from swarmpy.manager.replicated_log import NotLeader
from swarmpy.manager.store.ids import IdSource, ids_from, template_of
from swarmpy.manager.store.memory_log import MemoryLog
from swarmpy.manager.store.store import Store
from swarmpy.manager.store.tables import NamedTable, StoreObject, Table, TaskTable
from swarmpy.manager.store.task_states import may_report
from swarmpy.manager.store.transaction import Transaction
from swarmpy.manager.store.watch import Event, EventKind, ResumeExpired, Watch

__all__ = [
    "Event",
    "EventKind",
    "IdSource",
    "MemoryLog",
    "NamedTable",
    "NotLeader",
    "ResumeExpired",
    "Store",
    "StoreObject",
    "Table",
    "TaskTable",
    "Transaction",
    "Watch",
    "ids_from",
    "may_report",
    "template_of",
]
