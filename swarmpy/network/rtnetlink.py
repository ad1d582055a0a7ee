"""Links, addresses and routes changed by messages of our own writing, several in one call, and neighbours read.

pyroute2 takes a millisecond and more of processor time for a request, which is much when a container that comes and
goes needs ten of them, and a node of a large swarm thousands. An entry that it reads takes a tenth of one, and leaves
two dozen objects that only a look for garbage ends. So what is done for each container, and for each other node and its
tasks, is written and read here; all else goes through pyroute2.

Source  rtnetlink(7); include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h, neighbour.h, veth.h.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv4Interface
from typing import NamedTuple

from swarmpy.network.netlink import (
    NETLINK_ROUTE,
    NLA_F_NESTED,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    Netlink,
    attribute,
    attributes,
)

__all__ = [
    "NUD_NOARP",
    "NUD_PERMANENT",
    "Neighbour",
    "RtNetlink",
    "add_address",
    "add_default_route",
    "add_veth",
    "delete_group",
    "delete_link",
    "drop_forwarding",
    "drop_neighbour",
    "join_group",
    "pin",
    "set_forwarding",
    "set_neighbour",
    "set_up",
    "shape_port",
    "unpin",
]

RTM_NEWLINK, RTM_DELLINK, RTM_SETLINK, RTM_NEWADDR, RTM_NEWROUTE = 16, 17, 19, 20, 24
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_PROTINFO, IFLA_LINKINFO, IFLA_NET_NS_FD = 1, 3, 4, 10, 12, 18, 28
IFLA_GROUP, IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 27, 1, 2, 1
IFLA_BRPORT_MODE, IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD = 4, 8, 9
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
RTA_OIF, RTA_GATEWAY, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST = 4, 5, 254, 4, 0, 1
NDA_DST, NDA_LLADDR, NDA_IFINDEX, NDA_MASTER = 1, 2, 8, 9
NTF_SELF, NTF_MASTER, NUD_NOARP, NUD_PERMANENT = 0x02, 0x04, 0x40, 0x80
IFF_UP = 1

IFINFOMSG = struct.Struct("=BxHiII")  # family, device type, index, flags, mask of flags
IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
RTMSG = struct.Struct("=8BI")  # family, lengths of both addresses, tos, table, protocol, scope, type, flags
NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
NUMBER = struct.Struct("=I")


class Neighbour(NamedTuple):
    """One entry of a link: where a MAC address is, or whose it is. What the kernel does not say is empty, or 0."""

    link: int
    state: int
    mac: str
    address: str
    master: int


class RtNetlink(Netlink):
    """A socket in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        super().__init__(NETLINK_ROUTE)

    def forwarding(self, index: int) -> list[Neighbour]:
        """Where MAC addresses are, as the link `index` knows, and as its bridge does, if they are at this port."""
        return self._neighbours(IFINFOMSG.pack(socket.AF_BRIDGE, 0, index, 0, 0), index)

    def neighbours(self, index: int) -> list[Neighbour]:
        """Whose the IPv4 addresses on the link `index` are."""
        return self._neighbours(NDMSG.pack(socket.AF_INET, 0, 0, 0, 0) + _number(NDA_IFINDEX, index), index)

    def _neighbours(self, question: bytes, index: int) -> list[Neighbour]:
        found = (_neighbour(entry) for entry in self.dump(RTM_GETNEIGH, question))
        return [entry for entry in found if entry.link == index]


def add_veth(name: str, master: int, mtu: int, *, peer: str, peer_mac: str, peer_netns: int) -> Message:
    """A veth pair: `name`, a port of the bridge `master` and up, and `peer` in the namespace of the descriptor."""
    inside = attribute(
        VETH_INFO_PEER,
        _link(0),
        _text(IFLA_IFNAME, peer),
        _number(IFLA_NET_NS_FD, peer_netns),
        attribute(IFLA_ADDRESS, _mac(peer_mac)),
        _number(IFLA_MTU, mtu),
    )
    kind = attribute(IFLA_LINKINFO, _text(IFLA_INFO_KIND, "veth"), attribute(IFLA_INFO_DATA, inside))
    body = _link(0, up=True) + _text(IFLA_IFNAME, name) + _number(IFLA_MTU, mtu) + _number(IFLA_MASTER, master) + kind
    return Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def delete_link(index: int) -> Message:
    """No link has this index."""
    return Message(RTM_DELLINK, 0, _link(index))


def join_group(index: int, group: int) -> Message:
    """The link is of the group."""
    return Message(RTM_NEWLINK, 0, _link(index) + _number(IFLA_GROUP, group))


def delete_group(group: int) -> Message:
    """No link is of the group. Refused with ENODEV when none was."""
    return Message(RTM_DELLINK, 0, _link(0) + _number(IFLA_GROUP, group))


def set_up(index: int) -> Message:
    """The link is up."""
    return Message(RTM_NEWLINK, 0, _link(index, up=True))


def shape_port(index: int, *, hairpin: bool, learning: bool, unicast_flood: bool) -> Message:
    """What a bridge does at this port."""
    flags = (
        (IFLA_BRPORT_MODE, hairpin), (IFLA_BRPORT_LEARNING, learning), (IFLA_BRPORT_UNICAST_FLOOD, unicast_flood)
    )  # fmt: skip
    settings = attribute(IFLA_PROTINFO | NLA_F_NESTED, *(attribute(kind, bytes([value])) for kind, value in flags))
    return Message(RTM_SETLINK, 0, _link(index, socket.AF_BRIDGE) + settings)


def pin(index: int, mac: str) -> Message:
    """The bridge knows for good that `mac` is behind this port."""
    return Message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, _entry(index, NUD_NOARP, NTF_MASTER, mac))


def unpin(index: int, mac: str) -> Message:
    """The bridge does not know `mac` to be behind this port. Refused with ENOENT when it did not."""
    return Message(RTM_DELNEIGH, 0, _entry(index, 0, NTF_MASTER, mac))


def set_forwarding(index: int, mac: str, vtep: str) -> Message:
    """The VXLAN device sends what is for `mac` to the IPv4 address `vtep`."""
    body = _entry(index, NUD_PERMANENT | NUD_NOARP, NTF_SELF, mac, vtep)
    return Message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def drop_forwarding(index: int, mac: str, vtep: str) -> Message:
    """It does not. Refused with ENOENT when it did not."""
    return Message(RTM_DELNEIGH, 0, _entry(index, 0, NTF_SELF, mac, vtep))


def set_neighbour(index: int, address: str, mac: str) -> Message:
    """The IPv4 address is known for good to be at `mac` on the link."""
    body = _entry(index, NUD_PERMANENT, 0, mac, address, family=socket.AF_INET)
    return Message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def drop_neighbour(index: int, address: str, mac: str) -> Message:
    """It is not. Refused with ENOENT when it was not."""
    return Message(RTM_DELNEIGH, 0, _entry(index, 0, 0, mac, address, family=socket.AF_INET))


def add_address(index: int, address: IPv4Interface) -> Message:
    """The link has the address, with the network's broadcast address."""
    packed = address.ip.packed
    body = IFADDRMSG.pack(socket.AF_INET, address.network.prefixlen, 0, 0, index)
    body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    body += attribute(IFA_BROADCAST, address.network.broadcast_address.packed)
    return Message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def add_default_route(index: int, gateway: IPv4Address) -> Message:
    """All else goes to `gateway`."""
    body = RTMSG.pack(
        socket.AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0
    ) + attribute(RTA_GATEWAY, gateway.packed) + _number(RTA_OIF, index)  # fmt: skip
    return Message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body)


def _link(index: int, family: int = socket.AF_UNSPEC, *, up: bool = False) -> bytes:
    return IFINFOMSG.pack(family, 0, index, IFF_UP if up else 0, IFF_UP if up else 0)


def _entry(
    index: int, state: int, flags: int, mac: str, address: str = "", *, family: int = socket.AF_BRIDGE
) -> bytes:
    destination = attribute(NDA_DST, socket.inet_aton(address)) if address else b""
    return NDMSG.pack(family, index, state, flags, 0) + destination + attribute(NDA_LLADDR, _mac(mac))


def _neighbour(entry: bytes) -> Neighbour:
    _, index, state, _, _ = NDMSG.unpack_from(entry)
    mac, address, master = "", "", 0
    for kind, value in attributes(entry, NDMSG.size):
        if kind == NDA_LLADDR:
            mac = value.hex(":")
        elif kind == NDA_DST and len(value) == 4:
            address = socket.inet_ntoa(value)
        elif kind == NDA_MASTER:
            master, = NUMBER.unpack(value)
    return Neighbour(index, state, mac, address, master)


def _text(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, NUMBER.pack(value))


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
