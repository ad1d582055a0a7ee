"""What the event bus is told about the volumes and networks of a container that starts or has ended.

Source  `docker events`: volume mount and unmount, network connect and disconnect.
"""

from __future__ import annotations

from collections.abc import Iterator

from swarmpy.engine.events import EventBus
from swarmpy.engine.record import ContainerRecord
from swarmpy.engine.view import network_id

__all__ = ["tell_of_joining", "tell_of_leaving"]

_DRIVERS = {"bridge": "bridge", "host": "host", "ingress": "overlay", "none": "null"}


def tell_of_joining(events: EventBus, record: ContainerRecord) -> None:
    """It has its volumes and networks; `record` has the endpoints."""
    for mount in record.mounts:
        if mount.name:
            about = {
                "container": record.id, "destination": mount.target, "driver": "local",
                "propagation": mount.propagation, "read/write": str(not mount.read_only).lower(),
            }  # fmt: skip
            events.publish("volume", "mount", mount.name, about)
    for name in _networks(record):
        events.publish("network", "connect", network_id(name), _network(record, name))


def tell_of_leaving(events: EventBus, record: ContainerRecord) -> None:
    """It has given them back; `record` has the endpoints that it had."""
    for name in _networks(record):
        events.publish("network", "disconnect", network_id(name), _network(record, name))
    for mount in record.mounts:
        if mount.name:
            events.publish("volume", "unmount", mount.name, {"container": record.id, "driver": "local"})


def _networks(record: ContainerRecord) -> Iterator[str]:
    if record.host.network_mode in ("host", "none"):
        yield record.host.network_mode
    for endpoint in record.endpoints:
        yield endpoint.network


def _network(record: ContainerRecord, name: str) -> dict[str, str]:
    return {"container": record.id, "name": name, "type": _DRIVERS.get(name, "")}
