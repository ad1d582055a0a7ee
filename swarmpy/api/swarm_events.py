"""Swarm-scoped events on a manager: what changed in the store, as `docker events` tells it.

Source  Docker Engine API: EventMessage with scope "swarm"; create, update and remove of services and nodes, with
the old and new values of what a person watches (replicas, image, update state; state, availability and role).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from swarmpy.api.swarm_json.node import AVAILABILITY_NAMES, ROLE_NAMES
from swarmpy.api.swarm_json.service import UPDATE_STATES
from swarmpy.engine.events import EventBus
from swarmpy.manager.store import Event, EventKind, Store
from swarmpy.rpc.types_pb2 import Network, Node, NodeStatus, Service

__all__ = ["SwarmEvent", "publish_swarm_events", "swarm_events"]

ACTIONS = {EventKind.CREATE: "create", EventKind.UPDATE: "update", EventKind.REMOVE: "remove"}


@dataclass(frozen=True, slots=True)
class SwarmEvent:
    type: str
    action: str
    actor_id: str
    attributes: dict[str, str]


async def publish_swarm_events(store: Store, events: EventBus) -> None:
    """Publish what happens from now on, until cancelled."""
    with store.watch("services", "nodes", "networks") as watch:
        async for batch in watch:
            for change in batch:
                for event in swarm_events(change):
                    events.publish(event.type, event.action, event.actor_id, event.attributes, "swarm")


def swarm_events(change: Event) -> Iterator[SwarmEvent]:
    """The events one change of the store is worth: none when nothing of it concerns a person."""
    new, old = change.object, change.old if change.kind is EventKind.UPDATE else None
    action = ACTIONS[change.kind]
    if isinstance(new, Service):
        attributes = {"name": new.spec.annotations.name}
        if isinstance(old, Service):
            attributes |= changes(service_facts(old), service_facts(new))
            if len(attributes) == 1 and old.spec == new.spec:
                return
        yield SwarmEvent("service", action, new.id, attributes)
    elif isinstance(new, Node):
        attributes = {"name": new.description.hostname}
        if isinstance(old, Node):
            attributes |= changes(node_facts(old), node_facts(new))
            if len(attributes) == 1 and old.spec == new.spec:
                return
        yield SwarmEvent("node", action, new.id, attributes)
    elif isinstance(new, Network) and change.kind is not EventKind.UPDATE:
        yield SwarmEvent("network", action, new.id, {"name": new.spec.annotations.name, "type": "overlay"})


def changes(old: dict[str, str], new: dict[str, str]) -> dict[str, str]:
    """`{"replicas.old": "3", "replicas.new": "10"}` for each fact that is another now."""
    result = {}
    for name, value in new.items():
        if old[name] != value:
            result[f"{name}.old"] = old[name]
            result[f"{name}.new"] = value
    return {name: value for name, value in result.items() if value}


def service_facts(service: Service) -> dict[str, str]:
    replicated = service.spec.mode.replicated
    return {
        "replicas": str(replicated.replicas if replicated.HasField("replicas") else 1),
        "image": service.spec.task.container.image,
        "updatestate": UPDATE_STATES.get(service.update_status.state, ""),
    }


def node_facts(node: Node) -> dict[str, str]:
    return {
        "state": NodeStatus.State.Name(node.status.state).lower(),
        "availability": AVAILABILITY_NAMES[node.spec.availability],
        "role": ROLE_NAMES[node.spec.role],
    }
