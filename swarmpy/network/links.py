"""Bridges, veth pairs and VXLAN devices, made and unmade through netlink.

Functions take the handles of a kernel thread. Each leaves the link as asked for, whatever was there before.

Source  rtnetlink(7); ip-link(8); Documentation/networking/bridge.rst.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from swarmpy.errors import Unavailable
from swarmpy.network import rtnetlink
from swarmpy.network.addresses import mac_for
from swarmpy.network.kernel import Handles, NetlinkError, write_sysctl
from swarmpy.network.netlink import Message

__all__ = [
    "VethEnd",
    "attach_port",
    "bridge_mtu",
    "configure_inside",
    "delete_link",
    "ensure_bridge",
    "ensure_loopback",
    "ignoring",
    "make_veth",
    "mtu_towards",
    "ports_of",
    "routed_networks",
    "without_ipv6",
]

SIOCGIFMTU = 0x8921  # include/uapi/linux/sockios.h
LOOPBACK = 1  # the index of `lo` in every network namespace: include/net/net_namespace.h, LOOPBACK_IFINDEX


@contextmanager
def ignoring(*codes: int) -> Iterator[None]:
    """Pass over netlink refusals with one of `codes`: the state asked for is already there."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise


def ensure_bridge(handles: Handles, name: str, address: IPv4Interface, mtu: int) -> int:
    """The bridge `name` is up with exactly `address`; answers to 127.0.0.1 may pass it. Returns its index."""
    links = handles.links
    index = handles.index_of(name)
    mac = mac_for(address.ip)
    if index is None:
        links.link("add", ifname=name, kind="bridge", address=mac, br_forward_delay=0)
        index = handles.index_of(name)
        assert index is not None, f"bridge {name} vanished as it was made"
    for item in links.get_addr(index=index, family=socket.AF_INET):
        held = f"{item.get_attr('IFA_ADDRESS')}/{item['prefixlen']}"
        if held != str(address):
            links.addr("del", index=index, address=item.get_attr("IFA_ADDRESS"), prefixlen=item["prefixlen"])
    with ignoring(errno.EEXIST):
        links.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
    links.link("set", index=index, address=mac, mtu=mtu, state="up")
    write_sysctl(f"net/ipv4/conf/{name}/route_localnet", "1")
    without_ipv6(name)
    return index


def delete_link(handles: Handles, name: str) -> bool:
    """No link `name` exists; whether there was one."""
    index = handles.index_of(name)
    if index is None:
        return False
    with ignoring(errno.ENODEV):
        handles.quick.change(rtnetlink.delete_link(index))
    return True


def ports_of(handles: Handles, bridge: str) -> set[str]:
    """Names of the links enslaved to `bridge`; empty when there is no such bridge."""
    index = handles.index_of(bridge)
    if index is None:
        return set()
    return {link.get_attr("IFLA_IFNAME") for link in handles.links.get_links(master=index)}


def routed_networks(handles: Handles, except_link: str) -> list[IPv4Network]:
    """Every IPv4 network this host has a route to, but those through `except_link`."""
    skipped = handles.index_of(except_link)
    networks = []
    for route in handles.links.get_routes(family=socket.AF_INET, table=254):
        destination = route.get_attr("RTA_DST")
        if destination is not None and route.get_attr("RTA_OIF") != skipped:
            networks.append(IPv4Network(f"{destination}/{route['dst_len']}"))
    return networks


def mtu_towards(handles: Handles, address: IPv4Address | None) -> int:
    """The MTU of the link that holds `address`, or, for None, of the default route's link; 1500 if there is none."""
    for index in _links_towards(handles, address):
        for link in handles.links.get_links(index):
            return min(int(link.get_attr("IFLA_MTU")), 65000)
    return 1500


def _links_towards(handles: Handles, address: IPv4Address | None) -> Iterator[int]:
    if address is None:
        for route in handles.links.get_default_routes(family=socket.AF_INET):
            if route.get_attr("RTA_OIF") is not None:
                yield route.get_attr("RTA_OIF")
    else:
        for item in handles.links.get_addr(family=socket.AF_INET, local=str(address)):
            yield item["index"]


@dataclass(frozen=True, slots=True)
class VethEnd:
    """The end of a veth pair that a container gets."""

    interface: str
    address: IPv4Interface
    gateway: IPv4Address | None
    mac: str
    mtu: int


def bridge_mtu(handles: Handles, bridge: str) -> int:
    """Unavailable when the bridge is not there. netdevice(7), SIOCGIFMTU."""
    name = bridge.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, SIOCGIFMTU, struct.pack("16s24x", name))
        except OSError as error:
            raise _no_bridge(bridge) from error
    mtu: int = struct.unpack_from("=i", answer, 16)[0]
    return mtu


def _no_bridge(bridge: str) -> Unavailable:
    return Unavailable(f"network bridge {bridge} is not up yet on this host; is the node part of the swarm's mesh?")


def make_veth(handles: Handles, host_name: str, bridge: str, end: VethEnd, netns_fd: int, *, fixed: bool) -> None:
    """A veth pair from `bridge` right into the namespace.

    With `fixed`, the bridge neither learns from the port nor floods to it: it knows whom it holds, and a container that
    forges its MAC address draws no traffic. Unavailable when the bridge is not there.
    """
    delete_link(handles, host_name)
    master = handles.index_of(bridge)
    if master is None:
        raise _no_bridge(bridge)
    handles.quick.change(
        rtnetlink.add_veth(host_name, master, end.mtu, peer=end.interface, peer_mac=end.mac, peer_netns=netns_fd)
    )
    without_ipv6(host_name)
    _set_port(handles, handles.index_of(host_name), end.mac, fixed=fixed)


def attach_port(handles: Handles, host_name: str, bridge: str, mac: str, *, fixed: bool) -> None:
    """A veth end that is there already is a port of `bridge` again. Nothing happens when either is not there."""
    index, master = handles.index_of(host_name), handles.index_of(bridge)
    if index is not None and master is not None:
        handles.links.link("set", index=index, master=master, state="up")
        _set_port(handles, index, mac, fixed=fixed)


def _set_port(handles: Handles, index: int | None, mac: str, *, fixed: bool) -> None:
    # With br_netfilter loaded the bridge itself carries out the translation, and a container that calls its own
    # published port is answered through the very port the packet came from.
    port = index or 0
    shape = rtnetlink.shape_port(port, hairpin=True, learning=not fixed, unicast_flood=not fixed)
    handles.quick.change(shape, *([rtnetlink.pin(port, mac)] if fixed else []))


def configure_inside(end: VethEnd) -> None:
    """Loopback and the container's end are up with address and route. Runs inside the container's namespace."""
    index = socket.if_nametoindex(end.interface)
    without_ipv6(end.interface)
    route = [] if end.gateway is None else [rtnetlink.add_default_route(index, end.gateway)]
    _change(rtnetlink.set_up(LOOPBACK), rtnetlink.add_address(index, end.address), rtnetlink.set_up(index), *route)


def ensure_loopback() -> None:
    """`lo` is up. Runs inside the container's namespace."""
    _change(rtnetlink.set_up(LOOPBACK))


def _change(*requests: Message) -> None:
    """In the namespace of this thread."""
    with rtnetlink.RtNetlink() as here:
        here.change(*requests)


def without_ipv6(interface: str) -> None:
    """No IPv6 address appears by itself on a network that has none to give: it would be a way past rules for IPv4."""
    try:
        write_sysctl(f"net/ipv6/conf/{interface}/disable_ipv6", "1")
    except Exception as error:
        # A kernel booted without IPv6 has no such file, and nothing to turn off.
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
