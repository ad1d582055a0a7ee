"""What every route of the swarm begins with: is this host a manager, is its view current, what is it about.

Source  Docker Engine API: 503 of the paths under /services, /nodes and /tasks; names, ids and id prefixes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from swarmpy.api.swarm_node import LocalState, SwarmManager, SwarmNode
from swarmpy.errors import InvalidArgument, NotFound, Unavailable
from swarmpy.manager.store import Store
from swarmpy.rpc.types_pb2 import Node, Service, Task

__all__ = ["current_manager", "find_node", "find_service", "find_task", "task_name"]


class Identified(Protocol):
    id: str


T = TypeVar("T", bound=Identified)


async def current_manager(swarm: SwarmNode) -> SwarmManager:
    """The manager part of this host, up to date with every acknowledged write. Unavailable when it has none."""
    manager = swarm.manager
    if manager is not None:
        await manager.read_barrier()
        return manager
    if swarm.local_state is LocalState.LOCKED:
        raise Unavailable(
            'What this node knows of its swarm is encrypted. Unlock it first: "docker swarm unlock" asks for the key.'
        )
    if swarm.local_state is LocalState.INACTIVE:
        raise Unavailable(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
            "swarm and try again."
        )
    raise Unavailable(
        "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this "
        "command on a manager node or promote the current node to a manager."
    )


def find_service(store: Store, reference: str) -> Service:
    """By id, then name, then a prefix of the id that only one has."""
    found = store.services.get(reference) or store.services.by_name(reference)
    return found or by_prefix("service", reference, store.services.by_prefix(reference))


def find_node(store: Store, reference: str, own_id: str) -> Node:
    """By id (`self` is this one), then host name if only one has it, then name, then a prefix of the id."""
    found = store.nodes.get(own_id if reference == "self" else reference)
    if found is not None:
        return found
    nodes = store.nodes.values()
    for named in (
        [node for node in nodes if node.description.hostname == reference],
        [node for node in nodes if node.spec.annotations.name == reference],
    ):
        if len(named) > 1:
            raise InvalidArgument(f"node {reference} is ambiguous ({len(named)} matches found)")
        if named:
            return named[0]
    return by_prefix("node", reference, store.nodes.by_prefix(reference))


def find_task(store: Store, reference: str) -> Task:
    """By id, then name (`web.1.<id>`), then a prefix of the id."""
    found = store.tasks.get(reference)
    if found is None and reference.count(".") >= 2:
        candidate = store.tasks.get(reference.rsplit(".", 1)[1])
        if candidate is not None and task_name(candidate) == reference:
            found = candidate
    return found or by_prefix("task", reference, store.tasks.by_prefix(reference))


def task_name(task: Task) -> str:
    """`web.1.<task id>`: also the name of its container."""
    return f"{task.service_name}.{task.slot}.{task.id}"


def by_prefix(noun: str, reference: str, matches: Iterable[T]) -> T:
    found = list(matches) if reference else []
    if not found:
        raise NotFound(f"{noun} {reference} not found")
    if len(found) > 1:
        raise InvalidArgument(f"{noun} {reference} is ambiguous ({len(found)} matches found)")
    return found[0]
