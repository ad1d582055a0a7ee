"""Flows that outlive what they were sent to, and the kernel's record of them.

A UDP flow has no end: as long as its client sends, conntrack keeps it on the backend it was given. When that backend is
withdrawn its flows are forgotten, so that the next packet is decided anew. TCP connections are left alone: they end by
themselves, and until then may finish their work.

Source  nf_conntrack netlink, include/uapi/linux/netfilter/nfnetlink_conntrack.h; conntrack(8).
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from ipaddress import IPv4Address
from typing import Any

from pyroute2 import Conntrack
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

from swarmpy.network.kernel import Handles
from swarmpy.network.links import ignoring
from swarmpy.network.view import PROTOCOL_NUMBERS

__all__ = ["forget_flows", "has_flows"]

PublishedPort = tuple[str, int]  # protocol, port
Backend = tuple[IPv4Address, int]


def forget_flows(_: Handles, live: Mapping[PublishedPort, Collection[Backend]]) -> int:
    """Forget the flows to the published ports of `live` that do not go to a backend named there; how many there were.

    A flow that was never sent to a backend, because it began before there was one, is forgotten when there is one now.
    """
    forgotten = 0
    with closing(Conntrack()) as table:
        for published, entry in list(_flows(table, live)):
            if not _passing_by(entry) and _backend(entry) not in (live[published] or (None,)):
                with ignoring(errno.ENOENT):
                    table.entry("del", tuple_orig=entry.tuple_orig)
                    forgotten += 1
    return forgotten


def has_flows(_: Handles, published: Collection[PublishedPort]) -> set[IPv4Address]:
    """The addresses of the backends that flows to the `published` ports now go to."""
    with closing(Conntrack()) as table:
        backends = (_backend(entry) for _, entry in _flows(table, published))
        return {backend[0] for backend in backends if backend is not None}


def _flows(table: Any, published: Collection[PublishedPort]) -> Iterator[tuple[PublishedPort, Any]]:
    """Flows to the ports. The kernel walks its whole table for each question, so many ports share one."""
    for protocol in {protocol for protocol, _ in published}:
        ports = {port for name, port in published if name == protocol}
        only = {"dport": min(ports)} if len(ports) == 1 else {}
        for entry in table.dump_entries(tuple_orig=NFCTAttrTuple(proto=PROTOCOL_NUMBERS[protocol], **only)):
            if entry.tuple_orig.dport in ports:
                yield (protocol, entry.tuple_orig.dport), entry


def _backend(entry: Any) -> Backend | None:
    """Address and port that answers are expected from, when they are not what the client addressed."""
    reply, sent_to = entry.tuple_reply, (entry.tuple_orig.daddr, entry.tuple_orig.dport)
    return None if (reply.saddr, reply.sport) == sent_to else (IPv4Address(reply.saddr), reply.sport)


def _passing_by(entry: Any) -> bool:
    """Whether a container's flow was masqueraded on its way to somebody else's port of that number."""
    return _backend(entry) is None and entry.tuple_reply.daddr != entry.tuple_orig.saddr
