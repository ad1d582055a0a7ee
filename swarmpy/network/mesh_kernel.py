"""What the kernel holds of the routing mesh: read, compared and changed.

Owns    the record of what was last written. The methods that change something run on one kernel thread, one at a time.
        One that fails leaves the record unknown, and the next `settle` starts from what the kernel itself says.
        Those that only look may run beside them on another thread: they then may see a change half-way, and call it a
        disturbance; `settle` knows better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import TypeVar

from swarmpy.errors import Internal
from swarmpy.network import mesh_rules, overlay
from swarmpy.network.kernel import IP_FORWARD, Handles, read_sysctl, write_sysctl
from swarmpy.network.mesh_links import LinkState, Remote, entry_changes
from swarmpy.network.mesh_rules import PublishedKey, Route
from swarmpy.network.ruleset import Ruleset, change, comments, observed
from swarmpy.network.view import IngressNetwork

__all__ = ["MeshKernel"]

K = TypeVar("K")
V = TypeVar("V")
Entries = Mapping[IPv4Address, IPv4Address]  # remote address to the VTEP it is behind


class MeshKernel:
    """See the module."""

    def __init__(self, names: overlay.OverlayNames, table: str) -> None:
        self._names = names
        self._table = table
        self._ingress: IngressNetwork | None = None
        self._entries: dict[IPv4Address, IPv4Address] = {}
        self._routes: dict[PublishedKey, Route] = {}
        self._sizes: Counter[int] = Counter()
        self._devices: tuple[int | None, ...] = ()
        self._generation = 0
        self._known = False  # the record is what the kernel holds, if nobody else touched it

    def reaches(self, address: IPv4Address) -> bool:
        """Whether packets to this remote address find their way."""
        return address in self._entries

    def route(self, key: PublishedKey) -> Route | None:
        """Where the published port was last led."""
        return self._routes.get(key)

    def entries(self, handles: Handles) -> dict[IPv4Address, IPv4Address]:
        """Remote addresses that the kernel itself knows, with their VTEPs; an earlier daemon may have written them."""
        links = overlay.read_entries(handles, self._names)
        vteps = dict(links.forwarding)
        return {IPv4Address(address): IPv4Address(vteps[mac]) for address, mac in links.neighbours if mac in vteps}

    def undisturbed(self, handles: Handles) -> bool:
        """Whether devices and rules look as they were left. The cost is that of the rules, and of none when nobody has
        changed any table of the host."""
        if not self._known or overlay.devices(handles, self._names) != self._devices:
            return False
        generation = handles.rules.generation()
        if generation != self._generation:
            awake = handles.rules.tables().get(self._table) == 0
            if not awake or handles.rules.comments(self._table) != comments(self._rendered({})):
                return False
            self._generation = generation
        return True

    def agrees(self, handles: Handles) -> bool:
        """Whether everything down to the last element looks as it was left."""
        return self.undisturbed(handles) and self._as_left(handles, *self._read(handles))

    def settle(
        self, handles: Handles, ingress: IngressNetwork, entries: Entries, routes: Mapping[PublishedKey, Route]
    ) -> bool:
        """The kernel holds just this, whatever it held. Whether it held anything but what is on record.

        The devices count as unknown, so they are looked after too.
        """
        known, self._known = self._known, False
        rules, links = self._read(handles)
        others = known and not self._as_left(handles, rules, links)
        self._ingress, self._entries, self._routes = ingress, dict(entries), dict(routes)
        self._sizes = Counter(len(route.backends) for route in routes.values())
        write_sysctl(IP_FORWARD, "1")
        overlay.ensure_devices(handles, self._names, ingress)
        links = overlay.read_entries(handles, self._names)
        overlay.change_entries(handles, self._names, entry_changes(links, _links(entries)))
        self._replace(handles, rules, self._rendered(routes))
        self._devices = overlay.devices(handles, self._names)
        self._known = True
        return others

    def change(
        self, handles: Handles, entries: Mapping[IPv4Address, IPv4Address | None],
        routes: Mapping[PublishedKey, Route | None],
    ) -> None:  # fmt: skip
        """These entries and routes are as given, None: not there; the rest stays. The cost is that of the given."""
        self._known = False
        had = {address: self._entries[address] for address in entries if address in self._entries}
        wanted = {address: vtep for address, vtep in entries.items() if vtep is not None}
        if had != wanted:
            overlay.change_entries(handles, self._names, entry_changes(_links(had), _links(wanted)))
        _merge(self._entries, entries)

        before = self._rendered({key: self._routes[key] for key in routes if key in self._routes})
        self._sizes.subtract(len(self._routes[key].backends) for key in routes if key in self._routes)
        self._sizes.update(len(route.backends) for route in routes.values() if route is not None)
        _merge(self._routes, routes)
        after = self._rendered({key: route for key, route in routes.items() if route is not None})
        handles.nftables.run(change(before, after))
        self._known = True

    def remove(self, handles: Handles) -> None:
        """Nothing of the mesh is in the kernel."""
        self._known = False
        overlay.remove_devices(handles, self._names)
        if self._table in handles.rules.tables():
            handles.nftables.run(change(Ruleset(self._table), None))
        self._entries, self._routes, self._sizes = {}, {}, Counter()

    def _read(self, handles: Handles) -> tuple[Ruleset | None, LinkState]:
        listed = handles.own_table(self._table)
        rules = observed(self._table, listed) if listed is not None else None
        return rules, overlay.read_entries(handles, self._names)

    def _as_left(self, handles: Handles, rules: Ruleset | None, links: LinkState) -> bool:
        assert self._ingress is not None, "what was never written was not left"
        address = f"{self._ingress.address.ip}/{self._ingress.subnet.prefixlen}"
        return (
            rules == self._rendered(dict(self._routes))
            and links == _links(dict(self._entries))
            and overlay.addresses(handles, self._names) == {address}
            and overlay.master(handles, self._names) == handles.index_of(self._names.bridge)
            and read_sysctl(IP_FORWARD) == "1"
        )

    def _rendered(self, routes: Mapping[PublishedKey, Route]) -> Ruleset:
        assert self._ingress is not None, "a mesh without an ingress network has no rules"
        sizes = (size for size, count in dict(self._sizes).items() if count > 0)
        return mesh_rules.render(self._table, self._names.bridge, self._ingress, sizes, routes)

    def _replace(self, handles: Handles, had: Ruleset | None, wanted: Ruleset) -> None:
        """What others have made of the table may be beyond any change; then it is made anew."""
        try:
            handles.nftables.run(change(had, wanted))
        except Internal:
            handles.nftables.run([*change(had, None), *change(None, wanted)])


def _links(entries: Entries) -> LinkState:
    return LinkState.of(Remote(address, vtep) for address, vtep in entries.items())


def _merge(table: dict[K, V], news: Mapping[K, V | None]) -> None:
    for key, value in news.items():
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value
