"""Addresses of one network: who has which.

Owns    the free and taken addresses of a subnet; rebuilt from the store when the allocator starts.
Laws    an address has one owner. Addresses are given out next-fit, round and round the subnet: one that became free is
        the last to be given again, so an old connection does not meet a new task there.
Source  RFC 4632 for prefixes; the first address is the gateway's, as Docker has it, and the last one is broadcast.
"""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network

__all__ = ["AddressPool"]


class AddressPool:
    """The addresses of an IPv4 subnet, by owner id."""

    def __init__(self, subnet: str) -> None:
        self.subnet = IPv4Network(subnet)
        self._base = int(self.subnet.network_address)
        self._first = 2                                       # 0 is the network, 1 the gateway
        self._end = self.subnet.num_addresses - 1             # broadcast
        self._taken: set[int] = set()
        self._owners: dict[str, int] = {}
        self._next = self._first

    @property
    def size(self) -> int:
        """How many addresses there are to give."""
        return max(0, self._end - self._first)

    def of(self, owner: str) -> str | None:
        """The owner's address in CIDR notation."""
        place = self._owners.get(owner)
        return None if place is None else self._text(place)

    def hold(self, owner: str, address: str) -> None:
        """Note that `owner` has `address`, a CIDR of this subnet."""
        place = self._place(address)
        if self._owners.get(owner) != place:
            self.free(owner)
            self._owners[owner] = place
            self._taken.add(place)

    def resume_after(self, address: str) -> None:
        """Let the next address given be one behind `address`: the last one that was given, as far as is known."""
        self._next = self._place(address) + 1

    def take(self, owner: str) -> str | None:
        """Give `owner` an address and return it as CIDR; the one it has, if any. None when all are taken."""
        if owner in self._owners:
            return self._text(self._owners[owner])
        if len(self._taken) >= self.size:
            return None
        place = self._next
        while True:
            if place >= self._end:
                place = self._first
            if place not in self._taken:
                break
            place += 1
        self._taken.add(place)
        self._owners[owner] = place
        self._next = place + 1
        return self._text(place)

    def free(self, owner: str) -> None:
        """Take the owner's address back, if it has one."""
        place = self._owners.pop(owner, None)
        if place is not None:
            self._taken.discard(place)

    def _place(self, address: str) -> int:
        return int(IPv4Interface(address).ip) - self._base

    def _text(self, place: int) -> str:
        number = self._base + place
        quads = ".".join(str(number >> shift & 0xFF) for shift in (24, 16, 8, 0))
        return f"{quads}/{self.subnet.prefixlen}"
