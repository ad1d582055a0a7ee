"""Addresses of the default bridge: which subnet it takes and who holds which address. Pure.

Source  RFC 1918 for the pools; RFC 7042 section 2.1 for locally administered MAC addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network

from swarmpy.errors import Conflict, InvalidArgument, Unavailable

__all__ = ["DEFAULT_POOLS", "AddressPool", "choose_subnet", "mac_for"]

DEFAULT_POOLS: tuple[IPv4Network, ...] = (
    *(IPv4Network(f"172.{n}.0.0/16") for n in range(17, 32)),
    *IPv4Network("192.168.0.0/16").subnets(new_prefix=20),
)


@lru_cache(maxsize=1 << 16)
def mac_for(address: IPv4Address) -> str:
    """The MAC address of whoever holds `address`: 02:42 and its four bytes, so that nobody need ask for it."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + address.packed)


def choose_subnet(pools: Sequence[IPv4Network], in_use: Iterable[IPv4Network]) -> IPv4Network:
    """The first pool that no route or address of the host overlaps. Unavailable when there is none."""
    # The default route overlaps everything and says nothing about who lives where.
    taken = [network for network in in_use if network.prefixlen > 0]
    for pool in pools:
        if not any(pool.overlaps(network) for network in taken):
            return pool
    raise Unavailable(
        "no subnet is free for the default bridge: every pool overlaps a route of this host; "
        "free one of " + ", ".join(str(pool) for pool in pools[:3]) + ", …"
    )


class AddressPool:
    """Who holds which address of one subnet. The gateway takes the first; an address just given back is reused last."""

    def __init__(self, subnet: IPv4Network) -> None:
        self.subnet = subnet
        self.gateway = IPv4Address(int(subnet.network_address) + 1)
        self._taken: set[int] = set()
        self._last = int(self.gateway)

    def take(self, wanted: IPv4Address | None = None) -> IPv4Address:
        """Hold `wanted`, or the next free address. Conflict when it is held, Unavailable when none is left."""
        if wanted is not None:
            return self._take_exactly(wanted)
        first, last = int(self.gateway) + 1, int(self.subnet.broadcast_address) - 1
        size = last - first + 1
        if len(self._taken) >= size:
            raise Unavailable(f"all {size} addresses of subnet {self.subnet} are in use; remove containers")
        candidate = self._last
        while True:
            candidate = candidate + 1 if candidate < last else first
            if candidate not in self._taken:
                self._taken.add(candidate)
                self._last = candidate
                return IPv4Address(candidate)

    def give_back(self, address: IPv4Address) -> None:
        """After this `address` is free; giving back a free one changes nothing."""
        self._taken.discard(int(address))

    def _take_exactly(self, wanted: IPv4Address) -> IPv4Address:
        reserved = (self.subnet.network_address, self.gateway, self.subnet.broadcast_address)
        if wanted not in self.subnet or wanted in reserved:
            raise InvalidArgument(f"address {wanted} is not one a container may hold in subnet {self.subnet}")
        if int(wanted) in self._taken:
            raise Conflict(f"address {wanted} is already in use in subnet {self.subnet}")
        self._taken.add(int(wanted))
        self._last = max(self._last, int(wanted))
        return wanted
