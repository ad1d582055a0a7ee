"""What a view means to one node, kept from view to view at the cost of what changed. Pure.

Owns    which service has a published port, which of its backends this node can reach, and behind which VTEP each
        remote address of the ingress network lies.
In      views, whole.
Out     `Touched`: the published ports and addresses that a move from one view to the next may have changed.

When two claim the same thing, each node gives it to the same one: a port to the lower service id, an address to the
peer whose own it is, and otherwise to the lower task id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TypeVar

from swarmpy.network.mesh_rules import PublishedKey
from swarmpy.network.view import NO_VIEW, Backend, MeshView, Peer, Port, ViewChange

__all__ = ["Touched", "ViewIndex", "Withdrawn"]

K = TypeVar("K")
L = TypeVar("L")
T = TypeVar("T")
Claimant = tuple[int, str]  # 0 and a node id, or 1 and a task id: the lowest has the address


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Where a remote backend was that is none any more, and the published ports that led there."""

    vtep: IPv4Address
    ports: frozenset[PublishedKey]


@dataclass(slots=True)
class Touched:
    """`left` are the addresses that belonged to backends on other nodes and now belong to nobody."""

    ports: set[PublishedKey] = field(default_factory=set)
    addresses: set[IPv4Address] = field(default_factory=set)
    left: dict[IPv4Address, Withdrawn] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a task that this node can reach is; `vtep` is None for one of its own."""

    service_id: str
    address: IPv4Address
    vtep: IPv4Address | None


class ViewIndex:
    """The index of one view at a time; of an empty one at first."""

    def __init__(self) -> None:
        self._mark: object = None
        self._node_id = ""
        self._peers: dict[str, Peer] = {}
        self._ports_of: dict[str, tuple[Port, ...]] = {}
        self._tasks: dict[str, Backend] = {}
        self._vteps: dict[IPv4Address, int] = {}  # how many peers have it
        self._on_node: dict[str, set[str]] = {}
        self._places: dict[str, Place] = {}
        self._backends: dict[str, dict[IPv4Address, int]] = {}  # by service: how many tasks have the address
        self._services: dict[IPv4Address, dict[str, int]] = {}  # the same, the other way round
        self._claims: dict[IPv4Address, dict[Claimant, IPv4Address | None]] = {}
        self._ports: dict[PublishedKey, dict[str, Port]] = {}

    # ------------------------------------------------------------------------------------------ what it says

    def published(self) -> Iterator[PublishedKey]:
        """Every published port."""
        return iter(self._ports)

    def port(self, key: PublishedKey) -> tuple[str, Port] | None:
        """The service that has the published port, and the port as it wants it."""
        claims = self._ports.get(key)
        if not claims:
            return None
        service_id = min(claims)
        return service_id, claims[service_id]

    def backends(self, service_id: str) -> frozenset[IPv4Address]:
        """Addresses of the service's tasks that this node can reach."""
        return frozenset(self._backends.get(service_id, ()))

    def ports_to(self, address: IPv4Address) -> frozenset[PublishedKey]:
        """Published ports of the services that have a task at this address."""
        return frozenset(key for name in self._services.get(address, {}) for key in _keys(self._ports_of.get(name)))

    def addresses(self) -> Iterator[IPv4Address]:
        """Every address that a task or a peer has."""
        return iter(self._claims)

    def holds(self, address: IPv4Address) -> bool:
        """Whether a task or a peer has the address."""
        return address in self._claims

    def vtep(self, address: IPv4Address) -> IPv4Address | None:
        """Where the address is reached; None when nobody has it, and when it is on this node."""
        claims = self._claims.get(address)
        return claims[min(claims)] if claims else None

    def is_vtep(self, address: IPv4Address) -> bool:
        """Whether a peer has this VTEP."""
        return address in self._vteps

    def is_remote_backend(self, address: IPv4Address) -> bool:
        """Whether a task on another node has the address."""
        return address in self._services and self.vtep(address) is not None

    # ------------------------------------------------------------------------------------------ how it moves

    def move(self, view: MeshView) -> Touched:
        """Become the index of `view`."""
        touched = Touched()
        if view.node_id != self._node_id:
            self._move(self._compare(NO_VIEW), touched)
            self._node_id = view.node_id
        known = view.change is not None and view.change.mark is self._mark
        self._move(view.change if known and view.change is not None else self._compare(view), touched)
        self._mark = view.mark
        touched.left = {address: left for address, left in touched.left.items() if not self.holds(address)}
        return touched

    def _compare(self, view: MeshView) -> ViewChange:
        return ViewChange(
            view.mark, _differing(self._peers, view.peers), _differing(self._ports_of, view.services),
            _differing(self._tasks, view.tasks),
        )  # fmt: skip

    def _move(self, change: ViewChange, touched: Touched) -> None:
        peers = {node_id: self._peers.get(node_id) for node_id in change.peers}
        ports = {service_id: self._ports_of.get(service_id) for service_id in change.services}
        for task_id, task in change.tasks.items():
            self._renode(task_id, self._tasks.get(task_id), task)
        _update(self._peers, change.peers)
        _update(self._ports_of, change.services)
        _update(self._tasks, change.tasks)
        for task_id in set(change.tasks).union(*(self._on_node.get(node_id, ()) for node_id in peers)):
            self._replace(task_id, ports, touched)
        for node_id, before in peers.items():
            self._move_peer(node_id, before, touched)
        for service_id, had in ports.items():
            self._move_ports(service_id, had, touched)

    def _renode(self, task_id: str, before: Backend | None, after: Backend | None) -> None:
        if before is not None:
            self._on_node[before.node_id].discard(task_id)
            if not self._on_node[before.node_id]:
                del self._on_node[before.node_id]
        if after is not None:
            self._on_node.setdefault(after.node_id, set()).add(task_id)

    def _replace(self, task_id: str, ports_before: Mapping[str, tuple[Port, ...] | None], touched: Touched) -> None:
        before, after = self._places.pop(task_id, None), self._place(task_id)
        if after is not None:
            self._places[task_id] = after
        if before == after:
            return
        if before is not None and (vtep := self.vtep(before.address)) is not None:
            ports = ports_before.get(before.service_id, self._ports_of.get(before.service_id))
            had = touched.left.setdefault(before.address, Withdrawn(vtep, frozenset()))
            touched.left[before.address] = Withdrawn(had.vtep, had.ports | _keys(ports))
        for place, step in ((before, -1), (after, 1)):
            if place is not None:
                _count(self._backends.setdefault(place.service_id, {}), place.address, step)
                _count(self._services.setdefault(place.address, {}), place.service_id, step)
                self._claim(place.address, (1, task_id), place if step > 0 else None, touched)
                touched.ports |= _keys(self._ports_of.get(place.service_id))
        if before is not None:
            _prune(self._backends, before.service_id)
            _prune(self._services, before.address)

    def _place(self, task_id: str) -> Place | None:
        task = self._tasks.get(task_id)
        if task is None:
            return None
        if task.node_id == self._node_id:
            return Place(task.service_id, task.address, None)
        peer = self._peers.get(task.node_id)
        return Place(task.service_id, task.address, peer.vtep) if peer is not None else None

    def _move_peer(self, node_id: str, before: Peer | None, touched: Touched) -> None:
        after = self._peers.get(node_id)
        if node_id == self._node_id:
            return
        for peer, step in ((before, -1), (after, 1)):
            if peer is not None:
                _count(self._vteps, peer.vtep, step)
                place = Place("", peer.ingress, peer.vtep) if step > 0 else None
                self._claim(peer.ingress, (0, node_id), place, touched)

    def _claim(self, address: IPv4Address, who: Claimant, place: Place | None, touched: Touched) -> None:
        touched.addresses.add(address)
        claims = self._claims.setdefault(address, {})
        claims.pop(who, None)
        if place is not None:
            claims[who] = place.vtep
        _prune(self._claims, address)

    def _move_ports(self, service_id: str, before: tuple[Port, ...] | None, touched: Touched) -> None:
        after = self._ports_of.get(service_id)
        touched.ports |= _keys(before) | _keys(after)
        for key in _keys(before):
            self._ports[key].pop(service_id)
            _prune(self._ports, key)
        for port in after or ():
            self._ports.setdefault((port.protocol, port.published), {}).setdefault(service_id, port)


def _differing(old: Mapping[str, T], new: Mapping[str, T]) -> dict[str, T | None]:
    """What is not the same, with its new value. What did not change is nearly all, and is the very same object."""
    changed: dict[str, T | None] = {key: value for key, value in new.items() if _is_new(old.get(key), value)}
    changed.update(dict.fromkeys(old.keys() - new.keys()))
    return changed


def _is_new(had: object, value: object) -> bool:
    return had is not value and had != value


def _update(table: dict[str, T], news: Mapping[str, T | None]) -> None:
    for key, value in news.items():
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value


def _keys(ports: tuple[Port, ...] | None) -> set[PublishedKey]:
    return {(port.protocol, port.published) for port in ports or ()}


def _count(counts: dict[K, int], key: K, step: int) -> None:
    counts[key] = counts.get(key, 0) + step
    if not counts[key]:
        del counts[key]


def _prune(table: dict[K, dict[L, T]], key: K) -> None:
    if key in table and not table[key]:
        del table[key]
