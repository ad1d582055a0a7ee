"""The TCP sockets of a container: on which ports it listens, and which clients it owes an answer.

Source  sock_diag(7); include/uapi/linux/inet_diag.h, tcp.h (struct tcp_info) and netlink.h.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from swarmpy.errors import Internal
from swarmpy.network.kernel import in_namespace, open_namespace

__all__ = ["TcpSocket", "tcp_sockets"]

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
INET_DIAG_INFO = 2
ESTABLISHED, FIN_WAIT1, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING = 1, 4, 8, 9, 10, 11
STATES = sum(1 << state for state in (ESTABLISHED, FIN_WAIT1, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING))

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
REQUEST = struct.Struct("=BBBBI48x")  # struct inet_diag_req_v2, 56 bytes: family, protocol, ext, pad, states, sockid
ANSWER = struct.Struct("=BBBB")  # struct inet_diag_msg, 72 bytes, begins with family, state, timer, retrans
LOCAL_PORT = struct.Struct("!H")  # then its sockid, with the local port first
QUEUES = struct.Struct("=II")  # and at 56 the receive and the send queue
ANSWER_BYTES, QUEUES_OFFSET = 72, 56
ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
NUMBER = struct.Struct("=I")
LAST_DATA_SENT, LAST_DATA_RECEIVED, DATA_SEGMENTS_OUT = 44, 52, 156  # offsets in struct tcp_info; ms, ms, count
BUFFER_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """One socket. `owing`: its peer waits for something: what it sent is unread or unanswered, or what was answered has
    not all arrived. A connection between two requests owes nothing; so it looks while an answer that has begun pauses.
    """

    port: int
    listening: bool
    owing: bool = False


async def tcp_sockets(netns: int | Path, ports: Collection[int]) -> list[TcpSocket]:
    """Sockets with one of these ports at this end, over IPv4 or IPv6, in the namespace of a process or at a path.

    Raises Conflict when that is gone, Internal when the kernel does not answer.
    """
    descriptor = await asyncio.to_thread(open_namespace, netns, str(netns))
    try:
        found = await asyncio.to_thread(in_namespace, descriptor, _dump)
    finally:
        os.close(descriptor)
    return [item for item in found if item.port in ports]


def _dump() -> list[TcpSocket]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as netlink:
        families = [socket.AF_INET, *([socket.AF_INET6] if Path("/proc/net/tcp6").exists() else [])]
        return [item for family in families for item in _ask(netlink, family)]


def _ask(netlink: socket.socket, family: int) -> Iterator[TcpSocket]:
    request = REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0, STATES)
    header = HEADER.pack(HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 0, 0)
    netlink.send(header + request)
    while True:
        data = netlink.recv(BUFFER_BYTES)
        offset = 0
        while offset < len(data):
            length, kind, *_ = HEADER.unpack_from(data, offset)
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                raise Internal("the kernel does not tell the TCP sockets of a container (sock_diag)")
            yield _read(data[offset + HEADER.size : offset + length])
            offset += (length + 3) & ~3


def _read(message: bytes) -> TcpSocket:
    _, state, _, _ = ANSWER.unpack_from(message)
    (port,) = LOCAL_PORT.unpack_from(message, ANSWER.size)
    if state == LISTEN:
        return TcpSocket(port, listening=True)
    received, sending = QUEUES.unpack_from(message, QUEUES_OFFSET)
    unanswered = state in (ESTABLISHED, CLOSE_WAIT) and (received > 0 or _unanswered(message[ANSWER_BYTES:]))
    return TcpSocket(port, listening=False, owing=sending > 0 or unanswered)


def _unanswered(attributes: bytes) -> bool:
    """Whether nothing was sent yet, or nothing since something last came."""
    offset = 0
    while offset + ATTRIBUTE.size <= len(attributes):
        length, kind = ATTRIBUTE.unpack_from(attributes, offset)
        if kind == INET_DIAG_INFO:
            info = offset + ATTRIBUTE.size
            sent_ago, received_ago, segments = (
                NUMBER.unpack_from(attributes, info + at)[0]
                for at in (LAST_DATA_SENT, LAST_DATA_RECEIVED, DATA_SEGMENTS_OUT)
            )
            return bool(segments == 0 or received_ago < sent_ago)
        offset += (length + 3) & ~3
    return False
