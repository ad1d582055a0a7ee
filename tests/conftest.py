"""The machine after the whole suite is as it was before."""

from __future__ import annotations

import os
from collections.abc import Iterator

import grpc.aio
import pytest

from tests.leftovers import Session


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fails the session, listing what is left: processes, links, tables, mounts, cgroups, directories."""
    if os.geteuid() != 0:
        yield
        return
    session = Session.begin()
    yield
    left = session.end()
    if left:
        pytest.fail("the tests left on this machine:\n" + "\n".join(left), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def grpc_stays_up() -> None:
    """As in the daemon: garbage of one test must not take gRPC's poller down within another."""
    grpc.aio.init_grpc_aio()  # type: ignore[attr-defined]  # the stubs lack it
