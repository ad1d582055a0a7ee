"""Questions that the kernel of whoever has an address answers by itself: ICMP echo.

They travel as connections do, through the bridge and the tunnel to the namespace of the very container, so an answer
says that the way there and back is open, and that the container's namespace exists.

Source  RFC 792, echo; raw(7), ICMP_FILTER; icmp(7).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address

__all__ = ["EchoSocket"]

ICMP_FILTER = 1  # include/uapi/linux/icmp.h, option of SOL_RAW
SOL_RAW = 255
ECHO, ECHO_REPLY = 8, 0
HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
BUFFER_BYTES = 1 << 20


class EchoSocket:
    """Asks and collects. Nothing here blocks or waits."""

    def __init__(self) -> None:
        self._identifier = int.from_bytes(os.urandom(2), "big")
        self._question = _message(self._identifier)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
        self._socket.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("I", ~(1 << ECHO_REPLY) & 0xFFFFFFFF))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)

    def ask(self, addresses: Iterable[IPv4Address]) -> None:
        """Send a question to each. One that cannot be sent is one that is not answered."""
        for address in addresses:
            try:
                self._socket.sendto(self._question, (str(address), 0))
            except OSError:
                continue

    def answers(self) -> set[IPv4Address]:
        """Who answered since the last call."""
        heard: set[IPv4Address] = set()
        while True:
            try:
                packet, (address, _) = self._socket.recvfrom(2048)
            except BlockingIOError:
                return heard
            header_bytes = (packet[0] & 0x0F) * 4
            _, _, _, identifier, _ = HEADER.unpack_from(packet, header_bytes)
            if identifier == self._identifier:
                heard.add(IPv4Address(address))

    def close(self) -> None:
        self._socket.close()


def _message(identifier: int) -> bytes:
    words = (ECHO << 8, identifier)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    return HEADER.pack(ECHO, 0, ~total & 0xFFFF, identifier, 0)
