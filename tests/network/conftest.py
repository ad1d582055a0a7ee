"""Three hosts on one wire, made once for a test module and emptied after each test."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from tests.network.swarm import Swarm
from tests.network.topology import Host, Namespace, Wire


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.namespace.close()


@pytest.fixture
def hosts(wire: Wire, tmp_path: Path) -> Iterator[list[Host]]:
    """Three started hosts, without a mesh yet; all is closed after the test."""
    made = [Host(number, wire, tmp_path) for number in (1, 2, 3)]
    for host in made:
        host.call(host.network.start())
    yield made
    for host in made:
        host.call(host.mesh.close())
        host.call(host.network.close())
        host.close()


@pytest.fixture
def swarm(hosts: list[Host]) -> Iterator[Swarm]:
    """A mesh on the three hosts."""
    made = Swarm(hosts)
    yield made
    made.close()


@pytest.fixture
def outside(wire: Wire) -> Iterator[Namespace]:
    """A machine on the same wire that is no part of the cluster."""
    namespace = Namespace()
    wire.plug(namespace, IPv4Interface("192.0.2.200/24"))
    yield namespace
    namespace.close()
