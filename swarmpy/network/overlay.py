"""The mesh's bridge and VXLAN device in the kernel: made, read back, changed.

Functions take the handles of a kernel thread; what must be is decided in mesh_links.py.

Source  ip-link(8) vxlan; bridge(8) fdb; ip-neighbour(8); include/uapi/linux/neighbour.h.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import Any

from swarmpy.errors import Conflict, Unavailable
from swarmpy.network import rtnetlink
from swarmpy.network.kernel import Handles, NetlinkError
from swarmpy.network.links import (
    delete_link,
    ensure_bridge,
    mtu_towards,
    without_ipv6,
)
from swarmpy.network.mesh_links import EntryChange, LinkState
from swarmpy.network.rtnetlink import NUD_NOARP, NUD_PERMANENT
from swarmpy.network.view import IngressNetwork

__all__ = [
    "OverlayNames",
    "addresses",
    "change_entries",
    "devices",
    "ensure_devices",
    "master",
    "read_entries",
    "remove_devices",
]

SIOCGIFFLAGS, IFF_UP = 0x8913, 1  # include/uapi/linux/sockios.h, if.h
VXLAN_OVERHEAD_BYTES = 50  # outer Ethernet, IPv4, UDP and VXLAN headers: RFC 7348, section 5


@dataclass(frozen=True, slots=True)
class OverlayNames:
    """What the mesh's links are called."""

    bridge: str
    vxlan: str


def ensure_devices(handles: Handles, names: OverlayNames, ingress: IngressNetwork) -> None:
    """Bridge and VXLAN device exist as `ingress` says. A VXLAN device that differed is made anew, without entries."""
    mtu = mtu_towards(handles, ingress.vtep) - VXLAN_OVERHEAD_BYTES
    address = IPv4Interface(f"{ingress.address.ip}/{ingress.subnet.prefixlen}")
    bridge = ensure_bridge(handles, names.bridge, address, mtu)
    _ensure_vxlan(handles, names.vxlan, ingress, mtu)
    without_ipv6(names.vxlan)
    index = handles.index_of(names.vxlan)
    handles.links.link("set", index=index, mtu=mtu, master=bridge, state="up")
    handles.links.brport("set", index=index, learning=0, unicast_flood=0)


def devices(handles: Handles, names: OverlayNames) -> tuple[int | None, ...]:
    """What shows of the two devices at a glance, without waiting for a lock: their indexes, and whether each is up."""
    return (
        *(handles.index_of(name) for name in (names.bridge, names.vxlan)),
        *(_is_up(name) for name in (names.bridge, names.vxlan)),
    )


def master(handles: Handles, names: OverlayNames) -> int | None:
    """The index of the bridge that the VXLAN device is a port of."""
    index = handles.index_of(names.vxlan)
    found = [link.get_attr("IFLA_MASTER") for link in (handles.links.get_links(index) if index is not None else ())]
    return found[0] if found else None


def _is_up(name: str) -> bool:
    """netdevice(7), SIOCGIFFLAGS; struct ifreq is 40 bytes: the name, then the flags."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16sH22x", name.encode(), 0))
        except OSError:
            return False
    return bool(struct.unpack_from("16xH", answer)[0] & IFF_UP)


def addresses(handles: Handles, names: OverlayNames) -> set[str]:
    """The IPv4 addresses of the bridge, with prefix lengths."""
    index = handles.index_of(names.bridge)
    found = handles.links.get_addr(index=index, family=socket.AF_INET) if index is not None else ()
    return {f"{item.get_attr('IFA_ADDRESS')}/{item['prefixlen']}" for item in found}


def remove_devices(handles: Handles, names: OverlayNames) -> None:
    """Neither device exists any more."""
    delete_link(handles, names.vxlan)
    delete_link(handles, names.bridge)


def _ensure_vxlan(handles: Handles, name: str, ingress: IngressNetwork, mtu: int) -> None:
    index = handles.index_of(name)
    if index is not None:
        if _matches(handles.links.get_links(index)[0], ingress):
            return
        delete_link(handles, name)
    try:
        handles.links.link(
            "add",
            ifname=name,
            kind="vxlan",
            vxlan_id=ingress.vni,
            vxlan_local=str(ingress.vtep),
            vxlan_port=ingress.udp_port,
            vxlan_learning=0,
            vxlan_proxy=1,
            mtu=mtu,
        )
    except NetlinkError as error:
        if error.code in (errno.EADDRINUSE, errno.EEXIST):
            raise Conflict(
                f"VXLAN {ingress.vni} on UDP port {ingress.udp_port} is taken by another link or process of this host; "
                "free the port or choose another data path port for the swarm"
            ) from error
        raise


def _matches(link: Any, ingress: IngressNetwork) -> bool:
    info = link.get_attr("IFLA_LINKINFO")
    if info is None or info.get_attr("IFLA_INFO_KIND") != "vxlan":
        return False
    data = info.get_attr("IFLA_INFO_DATA")
    held = (
        data.get_attr("IFLA_VXLAN_ID"),
        data.get_attr("IFLA_VXLAN_LOCAL"),
        data.get_attr("IFLA_VXLAN_PORT"),
        data.get_attr("IFLA_VXLAN_LEARNING"),
        data.get_attr("IFLA_VXLAN_PROXY"),
    )
    return bool(held == (ingress.vni, str(ingress.vtep), ingress.udp_port, 0, 1))


def read_entries(handles: Handles, names: OverlayNames) -> LinkState:
    """Which endpoints the kernel knows, as it says itself; none when there is no VXLAN device."""
    index = handles.index_of(names.vxlan)
    if index is None:
        return LinkState()
    forwarding: set[tuple[str, str]] = set()
    bridged: set[str] = set()
    for entry in handles.quick.forwarding(index):
        if entry.address:
            forwarding.add((entry.mac, entry.address))
        elif entry.master and entry.state & NUD_NOARP and not entry.state & NUD_PERMANENT:
            bridged.add(entry.mac)
    neighbours = {
        (entry.address, entry.mac) for entry in handles.quick.neighbours(index) if entry.state & NUD_PERMANENT
    }
    return LinkState(frozenset(forwarding), frozenset(neighbours), frozenset(bridged))


def change_entries(handles: Handles, names: OverlayNames, changes: EntryChange) -> None:
    """Write and remove what `changes` says. Unavailable when the VXLAN device has gone."""
    index = handles.index_of(names.vxlan)
    if index is None:
        raise Unavailable(f"link {names.vxlan} of the routing mesh has gone from this host")
    handles.quick.change(
        *(rtnetlink.set_forwarding(index, mac, vtep) for mac, vtep in changes.set_forwarding),
        *(rtnetlink.set_neighbour(index, address, mac) for address, mac in changes.set_neighbours),
        *(rtnetlink.pin(index, mac) for mac in changes.set_bridged),
    )
    handles.quick.change(
        *(rtnetlink.unpin(index, mac) for mac in changes.drop_bridged),
        *(rtnetlink.drop_neighbour(index, address, mac) for address, mac in changes.drop_neighbours),
        *(rtnetlink.drop_forwarding(index, mac, vtep) for mac, vtep in changes.drop_forwarding),
        ignore=errno.ENOENT,
    )
