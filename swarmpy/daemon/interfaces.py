"""The host's interfaces, as the kernel tells them (rtnetlink(7))."""

from __future__ import annotations

import errno
import ipaddress
import socket

from pyroute2 import IPRoute

from swarmpy.daemon.addresses import Interface
from swarmpy.errors import InvalidArgument, Unavailable

__all__ = ["check_local", "host_interfaces", "route_source"]

RT_SCOPE_LINK = 253                     # linux/rtnetlink.h: valid on its link alone
IFF_UP = 0x1                            # linux/if.h


def host_interfaces(network_prefix: str) -> tuple[Interface, ...]:
    """Every interface that is up, with its addresses. `network_prefix` tells our own links apart. Blocks."""
    made = (network_prefix, "docker", "br-", "veth")
    with IPRoute() as kernel:
        addresses: dict[int, list[str]] = {}
        for message in kernel.get_addr():
            if message["scope"] != RT_SCOPE_LINK:
                text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                addresses.setdefault(message["index"], []).append(text)
        return tuple(
            Interface(name, tuple(addresses[link["index"]]), ours=name.startswith(made))
            for link in kernel.get_links()
            if link["flags"] & IFF_UP and link["index"] in addresses
            for name in (link.get_attr("IFLA_IFNAME"),)
        )


def route_source(remote: str) -> str:
    """This host's address on the way to `remote` (host:port), without sending anything (connect(2) on UDP). Blocks."""
    host, _, port = remote.rpartition(":")
    try:
        family, kind, _, _, target = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError as failure:
        raise Unavailable(f"there is no route to the manager at {remote}: {failure.strerror or failure}") from failure


def check_local(listen: str) -> None:
    """Raise InvalidArgument when this host has no such address to listen on (bind(2)); `listen` is ip:port."""
    address = ipaddress.ip_address(listen.rpartition(":")[0].strip("[]"))
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError as failure:
            if failure.errno != errno.EADDRNOTAVAIL:
                raise
            raise InvalidArgument(
                f"listen address {address}: not an address of this host; give one that is, or 0.0.0.0 for all of them"
            ) from failure
