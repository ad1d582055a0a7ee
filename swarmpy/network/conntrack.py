"""Flows that outlive what they were sent to, and the kernel's record of them.

A UDP flow has no end: as long as its client sends, conntrack keeps it on the backend it was given. When that backend is
withdrawn its flows are forgotten, so that the next packet is decided anew. TCP connections are left alone: they end by
themselves, and until then may finish their work.

A busy host has a hundred thousand flows, of which pyroute2 takes a third of a millisecond each to read, with the
interpreter's lock. So the table is read by messages of our own.

Source  include/uapi/linux/netfilter/nfnetlink_conntrack.h; net/netfilter/nf_conntrack_netlink.c for the filter's flags;
conntrack(8).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from ipaddress import IPv4Address
from typing import NamedTuple

from swarmpy.network.kernel import Handles
from swarmpy.network.links import ignoring
from swarmpy.network.netlink import (
    NETLINK_NETFILTER,
    NFGENMSG,
    NLA_F_NESTED,
    Message,
    Netlink,
    attribute,
    attributes,
)
from swarmpy.network.view import PROTOCOL_NUMBERS

__all__ = ["forget_flows", "has_flows"]

NFNL_SUBSYS_CTNETLINK = 1 << 8
GET, DELETE = NFNL_SUBSYS_CTNETLINK | 1, NFNL_SUBSYS_CTNETLINK | 2  # IPCTNL_MSG_CT_
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_FILTER = 1, 2, 25
CTA_TUPLE_IP, CTA_IP_V4_SRC, CTA_IP_V4_DST = 1, 1, 2
CTA_TUPLE_PROTO, CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 2, 1, 2, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS, BY_PROTOCOL, BY_DESTINATION_PORT = 1, 2, 1 << 3, 1 << 5

NUMBER, PORT = struct.Struct("=I"), struct.Struct(">H")

PublishedPort = tuple[str, int]  # protocol, port
Backend = tuple[IPv4Address, int]


class Tuple(NamedTuple):
    """One direction of a flow; addresses are four bytes."""

    source: bytes
    destination: bytes
    source_port: int
    destination_port: int


class Flow(NamedTuple):
    """`key` is the original direction as the kernel wrote it: what it takes to name the flow."""

    key: bytes
    original: Tuple
    reply: Tuple


class FlowTable(Netlink):
    """The kernel's table, seen from the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)

    def flows(self, protocol: int, port: int | None = None) -> list[Flow]:
        """IPv4 flows of the IP protocol, if given to this port alone, that were there at some time of the walk."""
        wanted = attribute(CTA_PROTO_NUM, bytes((protocol,)))
        by = BY_PROTOCOL
        if port is not None:
            wanted += attribute(CTA_PROTO_DST_PORT, PORT.pack(port))
            by |= BY_DESTINATION_PORT
        question = NFGENMSG.pack(socket.AF_INET, 0)
        question += attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, attribute(CTA_TUPLE_PROTO | NLA_F_NESTED, wanted))
        question += attribute(
            CTA_FILTER | NLA_F_NESTED,
            attribute(CTA_FILTER_ORIG_FLAGS, NUMBER.pack(by)), attribute(CTA_FILTER_REPLY_FLAGS, NUMBER.pack(0)),
        )  # fmt: skip
        return [flow for flow in map(_flow, self.dump(GET, question, settled=False)) if flow is not None]

    def forget(self, flow: Flow) -> None:
        """NetlinkError with ENOENT when the flow has ended."""
        key = attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, flow.key)
        self.change(Message(DELETE, 0, NFGENMSG.pack(socket.AF_INET, 0) + key))


def forget_flows(_: Handles, live: Mapping[PublishedPort, Collection[Backend]]) -> int:
    """Forget the flows to the published ports of `live` that do not go to a backend named there; how many there were.

    A flow that was never sent to a backend, because it began before there was one, is forgotten when there is one now.
    """
    forgotten = 0
    with FlowTable() as table:
        for published, flow in _flows(table, live):
            if not _passing_by(flow) and _backend(flow) not in (live[published] or (None,)):
                with ignoring(errno.ENOENT):
                    table.forget(flow)
                    forgotten += 1
    return forgotten


def has_flows(_: Handles, published: Collection[PublishedPort]) -> set[IPv4Address]:
    """The addresses of the backends that flows to the `published` ports now go to."""
    with FlowTable() as table:
        backends = (_backend(flow) for _, flow in _flows(table, published))
        return {backend[0] for backend in backends if backend is not None}


def _flows(table: FlowTable, published: Collection[PublishedPort]) -> Iterator[tuple[PublishedPort, Flow]]:
    """Flows to the ports. The kernel walks its whole table for each question, so many ports share one."""
    for protocol in {protocol for protocol, _ in published}:
        ports = {port for name, port in published if name == protocol}
        for flow in table.flows(PROTOCOL_NUMBERS[protocol], min(ports) if len(ports) == 1 else None):
            if flow.original.destination_port in ports:
                yield (protocol, flow.original.destination_port), flow


def _backend(flow: Flow) -> Backend | None:
    """Address and port that answers are expected from, when they are not what the client addressed."""
    reply, original = flow.reply, flow.original
    if (reply.source, reply.source_port) == (original.destination, original.destination_port):
        return None
    return IPv4Address(reply.source), reply.source_port


def _passing_by(flow: Flow) -> bool:
    """Whether a container's flow was masqueraded on its way to somebody else's port of that number."""
    return _backend(flow) is None and flow.reply.destination != flow.original.source


def _flow(entry: bytes) -> Flow | None:
    """None for a flow without ports, as an ICMP error's is."""
    told = dict(attributes(entry, NFGENMSG.size))
    original, reply = (_tuple(told.get(kind, b"")) for kind in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY))
    return Flow(told[CTA_TUPLE_ORIG], original, reply) if original is not None and reply is not None else None


def _tuple(nest: bytes) -> Tuple | None:
    told = dict(attributes(nest))
    addresses = dict(attributes(told.get(CTA_TUPLE_IP, b"")))
    ports = dict(attributes(told.get(CTA_TUPLE_PROTO, b"")))
    if CTA_PROTO_SRC_PORT not in ports or CTA_IP_V4_SRC not in addresses:
        return None
    return Tuple(
        addresses[CTA_IP_V4_SRC], addresses[CTA_IP_V4_DST],
        *PORT.unpack(ports[CTA_PROTO_SRC_PORT]), *PORT.unpack(ports[CTA_PROTO_DST_PORT]),
    )  # fmt: skip
