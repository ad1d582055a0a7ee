"""The kernel's record of flows, as we read it and as the kernel lists it itself."""

from __future__ import annotations

import errno
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmpy.network.conntrack import FlowTable, Tuple
from swarmpy.network.kernel import NetlinkError
from tests.network.topology import Namespace

pytestmark = pytest.mark.root

RULES = "add table ip t; add chain ip t o { type filter hook output priority 0; }; add rule ip t o ct state new counter"
HOME = socket.inet_aton("127.0.0.1")
FLOWS = 600                      # more than one answer of the kernel holds


@pytest.fixture
def tracking() -> Iterator[Namespace]:
    """A namespace that tracks, with UDP flows to two ports, and TCP's to one of them."""
    made = Namespace()

    def fill() -> None:
        subprocess.run(["nft", RULES], check=True)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for number in range(FLOWS):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow:
                flow.bind(("127.0.0.1", 20_000 + number))
                flow.sendto(b"", ("127.0.0.1", 5300 + number % 2))
        with socket.create_server(("127.0.0.1", 5300)), socket.create_connection(("127.0.0.1", 5300)):
            pass

    made.run(fill)
    yield made
    made.close()


def test_flows_are_those_the_kernel_lists(tracking: Namespace) -> None:
    def look() -> tuple[list[Tuple], list[Tuple], list[Tuple], str]:
        with FlowTable() as table:
            udp, one, tcp = table.flows(17), table.flows(17, 5301), table.flows(6, 5300)
        listed = Path("/proc/thread-self/net/nf_conntrack").read_text()
        return *([flow.original for flow in flows] for flows in (udp, one, tcp)), listed  # type: ignore[return-value]

    udp, one, tcp, listed = tracking.run(look)
    assert sorted(udp) == [Tuple(HOME, HOME, 20_000 + number, 5300 + number % 2) for number in range(FLOWS)]
    assert sorted(one) == [each for each in sorted(udp) if each.destination_port == 5301]
    assert [each.destination_port for each in tcp] == [5300]
    assert listed.count("udp") == FLOWS and listed.count("tcp") == 1


def test_a_flow_is_forgotten_once(tracking: Namespace) -> None:
    def forget() -> tuple[int, int]:
        with FlowTable() as table:
            first = table.flows(17, 5301)[0]
            table.forget(first)
            with pytest.raises(NetlinkError) as refused:
                table.forget(first)
            return refused.value.code, len(table.flows(17))

    assert tracking.run(forget) == (errno.ENOENT, FLOWS - 1)
