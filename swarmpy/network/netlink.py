"""Netlink: how messages are written, sent and answered, for the few families that we speak ourselves.

A message is a header, the family's own, and attributes, each of them padded to four bytes. A question is answered by
messages with its sequence number, of which the last is NLMSG_DONE (of a list) or NLMSG_ERROR (with the code 0: it is
done).

Source  netlink(7); include/uapi/linux/netlink.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

from pyroute2.netlink.exceptions import NetlinkError

__all__ = [
    "NETLINK_NETFILTER",
    "NETLINK_ROUTE",
    "NFGENMSG",
    "NLA_F_NESTED",
    "NLM_F_CREATE",
    "NLM_F_EXCL",
    "NLM_F_REPLACE",
    "Message",
    "Netlink",
    "NetlinkError",
    "attribute",
    "attributes",
]

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
SOL_NETLINK, NETLINK_CAP_ACK = 270, 10
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
ENDS = (NLMSG_ERROR, NLMSG_DONE)
NLA_F_NESTED = 0x8000

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length with this header, type
NFGENMSG = struct.Struct("=BxH")  # struct nfgenmsg, first in all of NETLINK_NETFILTER: family, version, resource
CODE = struct.Struct("=i")  # of NLMSG_ERROR and NLMSG_DONE: 0, or an error number below it
BUFFER_BYTES = 1 << 16
AT_ONCE = 100  # requests in one call: the answers to all of them wait in the socket, which holds some 270


class Message(NamedTuple):
    """Type, flags (of what is to be sent those beside NLM_F_REQUEST and NLM_F_ACK), and all after the header."""

    kind: int
    flags: int
    body: bytes


class Netlink:
    """A socket of the protocol (NETLINK_ROUTE, NETLINK_NETFILTER) in the network namespace of the thread that makes it.

    For one thread at a time.
    """

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)  # an error does not repeat the request
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def change(self, *requests: Message, ignore: int = 0) -> None:
        """Carry out these, in order. NetlinkError of the first that was refused; those after it were tried all the
        same, as the kernel does not stop at an error. A refusal with the error number `ignore` does not count."""
        refused = 0
        for start in range(0, len(requests), AT_ONCE):
            some = requests[start : start + AT_ONCE]
            received = self._received(self._send(some, NLM_F_ACK))
            for _ in some:
                code = next(CODE.unpack_from(answer.body)[0] for answer in received if answer.kind == NLMSG_ERROR)
                if -code != ignore:
                    refused = refused or -code
        if refused:
            raise _error(refused)

    def ask(self, kind: int, body: bytes) -> list[bytes]:
        """The answers to one question, without their headers. Raises NetlinkError."""
        return [answer.body for answer in self._answers(Message(kind, NLM_F_ACK, body)) if answer.kind not in ENDS]

    def dump(self, kind: int, body: bytes, *, settled: bool = True) -> list[bytes]:
        """All entries of a table, without their headers, walked again as long as something is changed meanwhile; or,
        if that is not to be `settled`, those that were there at some time of one walk. Raises NetlinkError.

        nftables tells of a change by its generation, which moves before the old rules are unlinked. A walk that begins
        between the two may, rarely, miss rules and not be told.
        """
        while True:
            answers = list(self._answers(Message(kind, NLM_F_DUMP, body)))
            if not settled or not any(answer.flags & NLM_F_DUMP_INTR for answer in answers):  # of the last one, too
                return [answer.body for answer in answers if answer.kind not in ENDS]

    def _answers(self, question: Message) -> Iterator[Message]:
        """All messages, to the last. Raises NetlinkError."""
        for answer in self._received(self._send([question])):
            code = CODE.unpack_from(answer.body)[0] if answer.kind in ENDS else 0
            if code:
                raise _error(-code)
            yield answer
            if answer.kind in ENDS:
                return

    def _send(self, messages: Sequence[Message], flags: int = 0) -> int:
        """The sequence number of the first."""
        first = self._sequence + 1
        self._sequence += len(messages)
        self._socket.send(
            b"".join(_packed(message, flags, first + number) for number, message in enumerate(messages))
        )
        return first

    def _received(self, first: int) -> Iterator[Message]:
        """All messages with that sequence number and later ones; what was left of earlier questions is skipped."""
        while True:
            data = self._socket.recv(BUFFER_BYTES)
            offset = 0
            while offset + HEADER.size <= len(data):
                length, kind, flags, number, _ = HEADER.unpack_from(data, offset)
                if number >= first:
                    yield Message(kind, flags, data[offset + HEADER.size : offset + length])
                offset += (length + 3) & ~3


def attribute(kind: int, *value: bytes) -> bytes:
    """One attribute; of several values those of a nest, each an attribute itself."""
    whole = b"".join(value)
    length = ATTRIBUTE.size + len(whole)
    return ATTRIBUTE.pack(length, kind) + whole + b"\0" * (-length % 4)


def attributes(data: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Kind, without the bits for nests and byte order, and value of each attribute from an offset on."""
    while start + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, start)
        yield kind & 0x3FFF, data[start + ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3


def _packed(message: Message, flags: int, number: int) -> bytes:
    length = HEADER.size + len(message.body)
    flags |= NLM_F_REQUEST | message.flags
    return HEADER.pack(length, message.kind, flags, number, 0) + message.body + b"\0" * (-length % 4)


def _error(number: int) -> NetlinkError:
    return NetlinkError(number, os.strerror(number))
