"""Flows that outlive what they were sent to, and the kernel's record of them.

A UDP flow has no end: as long as its client sends, conntrack keeps it on the backend it was given. When that backend is
withdrawn its flows are forgotten, so that the next packet is decided anew. TCP connections are left alone: they end by
themselves, and until then may finish their work.

Source  nf_conntrack netlink, include/uapi/linux/netfilter/nfnetlink_conntrack.h; conntrack(8).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from ipaddress import IPv4Address
from typing import Any

from pyroute2 import Conntrack
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

from swarmpy.network.kernel import Handles
from swarmpy.network.links import ignoring
from swarmpy.network.view import PROTOCOL_NUMBERS

__all__ = ["forget_flows", "has_flows"]


def forget_flows(_: Handles, published: Iterable[tuple[str, int]], gone: Callable[[IPv4Address | None], bool]) -> int:
    """Forget the flows to the `published` (protocol, port) whose backend `gone` says is gone; how many there were.

    `gone` is given None for a flow that was never sent to a backend, because it began before there was one.
    """
    forgotten = 0
    with closing(Conntrack()) as table:
        for protocol, port in published:
            for entry in list(_flows(table, protocol, port)):
                if not _passing_by(entry) and gone(_backend(entry)):
                    with ignoring(errno.ENOENT):
                        table.entry("del", tuple_orig=entry.tuple_orig)
                        forgotten += 1
    return forgotten


def has_flows(_: Handles, published: Iterable[tuple[str, int]]) -> set[IPv4Address]:
    """The backends that flows to the `published` (protocol, port) now go to."""
    with closing(Conntrack()) as table:
        flows = (entry for protocol, port in published for entry in list(_flows(table, protocol, port)))
        return {backend for backend in map(_backend, flows) if backend is not None}


def _flows(table: Any, protocol: str, port: int) -> Iterator[Any]:
    return iter(table.dump_entries(tuple_orig=NFCTAttrTuple(proto=PROTOCOL_NUMBERS[protocol], dport=port)))


def _backend(entry: Any) -> IPv4Address | None:
    """Whom answers are expected from, when it is not whom the client addressed."""
    answers_from = entry.tuple_reply.saddr
    return None if answers_from == entry.tuple_orig.daddr else IPv4Address(answers_from)


def _passing_by(entry: Any) -> bool:
    """Whether a container's flow was masqueraded on its way to somebody else's port of that number."""
    return _backend(entry) is None and entry.tuple_reply.daddr != entry.tuple_orig.saddr
