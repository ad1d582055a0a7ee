"""The links of the routing mesh as values: one bridge, one VXLAN device, and who is where. Pure.

No address is learned and no question leaves the node: every remote endpoint has a forwarding entry (its MAC address is
on that VTEP), a neighbour entry from which the VXLAN device answers ARP itself, and a static entry on the bridge.

Source  RFC 7348; ip-link(8) VXLAN `nolearning`, `proxy`; bridge(8) fdb.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from swarmpy.network.addresses import mac_for

__all__ = ["EntryChange", "LinkState", "Remote", "entry_changes"]


@dataclass(frozen=True, slots=True, order=True)
class Remote:
    """An address of the ingress network that lives on another node."""

    address: IPv4Address
    vtep: IPv4Address

    @property
    def mac(self) -> str:
        return mac_for(self.address)


@dataclass(frozen=True, slots=True)
class LinkState:
    """What the kernel has, or must have."""

    forwarding: frozenset[tuple[str, str]] = frozenset()  # MAC, VTEP: VXLAN device's own table
    neighbours: frozenset[tuple[str, str]] = frozenset()  # address, MAC: what ARP is answered from
    bridged: frozenset[str] = frozenset()  # MAC: the bridge's static entries at the VXLAN port

    @classmethod
    def of(cls, remote: Iterable[Remote]) -> LinkState:
        known = tuple(remote)
        return cls(
            frozenset((item.mac, str(item.vtep)) for item in known),
            frozenset((str(item.address), item.mac) for item in known),
            frozenset(item.mac for item in known),
        )


@dataclass(frozen=True, slots=True)
class EntryChange:
    """Entries to write (replacing what has the same key) and to remove."""

    set_forwarding: tuple[tuple[str, str], ...] = ()
    set_neighbours: tuple[tuple[str, str], ...] = ()
    set_bridged: tuple[str, ...] = ()
    drop_forwarding: tuple[tuple[str, str], ...] = ()
    drop_neighbours: tuple[tuple[str, str], ...] = ()
    drop_bridged: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(len(getattr(self, name)) for name in self.__slots__)


def entry_changes(had: LinkState, wanted: LinkState) -> EntryChange:
    """What turns the entries of `had` into those of `wanted`, when the devices are the same.

    A MAC address that moves to another VTEP is only written: the kernel replaces the entry in place.
    """
    moved = {mac for mac, _ in wanted.forwarding}
    renamed = {address for address, _ in wanted.neighbours}
    return EntryChange(
        set_forwarding=tuple(sorted(wanted.forwarding - had.forwarding)),
        set_neighbours=tuple(sorted(wanted.neighbours - had.neighbours)),
        set_bridged=tuple(sorted(wanted.bridged - had.bridged)),
        drop_forwarding=tuple(sorted(item for item in had.forwarding - wanted.forwarding if item[0] not in moved)),
        drop_neighbours=tuple(sorted(item for item in had.neighbours - wanted.neighbours if item[0] not in renamed)),
        drop_bridged=tuple(sorted(had.bridged - wanted.bridged)),
    )
