"""The replicated object store: what the swarm should be and what it is, the same on every manager."""

from swarmpy.manager.replicated_log import NotLeader
from swarmpy.manager.store.batch import commit_units
from swarmpy.manager.store.constraints import (
    Constraint,
    constraints_of,
    node_attribute,
    normal_architecture,
    validate_constraint,
    validate_spread_descriptor,
)
from swarmpy.manager.store.ids import IdSource, ids_from, template_of
from swarmpy.manager.store.memory_log import MemoryLog
from swarmpy.manager.store.ports import is_ingress, publishes
from swarmpy.manager.store.root_ca import trusted_roots
from swarmpy.manager.store.store import Store
from swarmpy.manager.store.tables import NamedTable, StoreObject, Table, TaskTable
from swarmpy.manager.store.task_states import may_report
from swarmpy.manager.store.transaction import Transaction
from swarmpy.manager.store.versions import Versions
from swarmpy.manager.store.watch import Event, EventKind, ResumeExpired, Sleep, Watch, in_turns

__all__ = [
    "Constraint",
    "Event",
    "EventKind",
    "IdSource",
    "MemoryLog",
    "NamedTable",
    "NotLeader",
    "ResumeExpired",
    "Sleep",
    "Store",
    "StoreObject",
    "Table",
    "TaskTable",
    "Transaction",
    "Versions",
    "Watch",
    "commit_units",
    "constraints_of",
    "ids_from",
    "in_turns",
    "is_ingress",
    "may_report",
    "node_attribute",
    "normal_architecture",
    "publishes",
    "template_of",
    "trusted_roots",
    "validate_constraint",
    "validate_spread_descriptor",
]
