"""Which containers a list shows, and in which order: `GET /containers/json`. Pure.

Source  Docker Engine API, `GET /containers/json`, parameter `filters`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from swarmpy.engine.checks import parse_port
from swarmpy.engine.endpoints import networks_of
from swarmpy.engine.filters import Filters
from swarmpy.engine.record import ContainerRecord
from swarmpy.engine.state import Status
from swarmpy.errors import InvalidArgument

__all__ = ["CONTAINER_FILTERS", "PRUNE_FILTERS", "select"]

CONTAINER_FILTERS = (
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name", "network",
    "publish", "since", "status", "volume",
)  # fmt: skip
PRUNE_FILTERS = ("label", "label!", "until")


def select(
    records: Iterable[ContainerRecord],
    filters: Filters,
    *,
    show_all: bool,
    limit: int | None,
    find: Callable[[str], ContainerRecord],
    image_ids: Callable[[str], set[str]],
) -> list[ContainerRecord]:
    """Matching containers, the newest first. Only running ones unless `show_all`, a limit, or a filter on state is set.

    `find` resolves `before` and `since`; `image_ids` says which image digests `ancestor` means.
    """
    _check(filters)
    before = [find(reference).created_ns for reference in filters.get("before")]
    since = [find(reference).created_ns for reference in filters.get("since")]
    ancestors = {image for name in filters.get("ancestor") for image in image_ids(name)}
    everything = show_all or limit is not None or bool(filters.get("status") or filters.get("exited"))
    chosen = [
        record
        for record in records
        if (everything or record.state.running)
        and _matches(record, filters)
        and (not filters.get("ancestor") or record.image_id in ancestors)
        and (not before or record.created_ns < min(before))
        and (not since or record.created_ns > max(since))
    ]
    chosen.sort(key=lambda record: record.created_ns, reverse=True)
    return chosen if limit is None else chosen[:limit]


def _check(filters: Filters) -> None:
    states = {status.value for status in Status}
    for value in filters.get("status"):
        if value not in states:
            raise InvalidArgument(f"invalid filter 'status={value}'; known are {', '.join(sorted(states))}")
    for value in filters.get("health"):
        if value not in ("none", "starting", "healthy", "unhealthy"):
            raise InvalidArgument(f"invalid filter 'health={value}'")
    for value in filters.get("exited"):
        if not value.isdigit():
            raise InvalidArgument(f"invalid filter 'exited={value}': not a number")


def _matches(record: ContainerRecord, filters: Filters) -> bool:
    state = record.state
    health = state.health.status if state.health else "none"
    volumes = {mount.name for mount in record.mounts} | {mount.target for mount in record.mounts}
    exposed = {parse_port(port) for port in record.config.exposed_ports}
    published = {(int(number), parse_port(port)[1]) for port, _, number in record.ports}
    task = filters.flag("is-task")
    networks = set(networks_of(record)) | {record.host.network_mode}
    return (
        filters.any("id", record.id.startswith)
        and filters.any("name", lambda pattern: _name_matches(pattern, record.name))
        and filters.any("status", lambda value: value == state.status.value)
        and filters.any("exited", lambda value: state.status is Status.EXITED and int(value) == state.exit_code)
        and filters.any("health", lambda value: value == health)
        and filters.any("volume", lambda value: value in volumes)
        and filters.any("network", lambda value: value in networks)
        and _ports_match(filters, exposed, published)
        and filters.labels_match("label", record.config.labels)
        and (task is None or task == ("com.docker.swarm.task.id" in record.config.labels))
    )


def _name_matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None or re.search(pattern, "/" + name) is not None
    except re.error:
        return pattern in name


def _ports_match(filters: Filters, exposed: set[tuple[int, str]], published: set[tuple[int, str]]) -> bool:
    """`publish` is about ports of the host and `expose` about the container's; with both, either will do."""
    wanted = [(value, published) for value in filters.get("publish")]
    wanted += [(value, exposed) for value in filters.get("expose")]
    return not wanted or any(_port_matches(value, ports) for value, ports in wanted)


def _port_matches(wanted: str, ports: set[tuple[int, str]]) -> bool:
    """ "80", "80/udp" or "8000-8010"; the protocol is tcp when it is not said."""
    numbers, _, protocol = wanted.partition("/")
    first, _, last = numbers.partition("-")
    if not first.isdigit() or (last and not last.isdigit()):
        raise InvalidArgument(f"invalid port in a filter: '{wanted}'")
    span = range(int(first), int(last or first) + 1)
    return any(number in span and kind == (protocol or "tcp") for number, kind in ports)
