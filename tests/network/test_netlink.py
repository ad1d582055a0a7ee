"""What the kernel's tables hold is read whole, while others change them."""

from __future__ import annotations

import errno
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from swarmpy.network.kernel import NetlinkError
from swarmpy.network.netlink import attribute
from swarmpy.network.nft_netlink import GETTABLE, NFGENMSG, NFPROTO_IPV4, NFTA_TABLE_NAME, NftNetlink
from tests.network.topology import Namespace

pytestmark = pytest.mark.root

RULES = 1500                     # a dozen answers of the kernel
VERSIONS = 10                    # to be seen
DEADLINE_S = 60.0


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.close()


def _write(comment: str) -> None:
    """All rules anew, at once, each with the comment."""
    rules = "".join(f'add rule ip t c counter comment "{comment}"\n' for _ in range(RULES))
    subprocess.run(["nft", "-f", "-"], input=f"flush chain ip t c\n{rules}", text=True, check=True)


def test_a_table_is_read_as_it_was_at_one_time(namespace: Namespace) -> None:
    read_enough = threading.Event()
    deadline = time.monotonic() + DEADLINE_S

    def write() -> None:
        number = 0
        while not read_enough.is_set() and time.monotonic() < deadline:
            _write(f"change {number}")
            number += 1

    def read() -> set[tuple[str, ...]]:
        seen: set[tuple[str, ...]] = set()
        with NftNetlink() as rules:
            while len(seen) < VERSIONS and time.monotonic() < deadline:
                seen.add(rules.comments("t")["c"])
        read_enough.set()
        return seen

    namespace.run(lambda: subprocess.run(["nft", "add table ip t; add chain ip t c"], check=True))
    namespace.run(lambda: _write("before"))
    with ThreadPoolExecutor(2) as threads:
        reading = threads.submit(namespace.run, read)
        threads.submit(namespace.run, write).result()
        seen = reading.result()
    assert len(seen) == VERSIONS
    assert {len(comments) for comments in seen} == {RULES}
    assert [comments[0] for comments in seen if len(set(comments)) > 1] == []


def test_a_refusal_names_its_number_and_the_next_question_is_answered(namespace: Namespace) -> None:
    def ask() -> tuple[int, int]:
        with NftNetlink() as rules:
            before = rules.generation()
            with pytest.raises(NetlinkError) as refused:
                rules.ask(GETTABLE, NFGENMSG.pack(NFPROTO_IPV4, 0) + attribute(NFTA_TABLE_NAME, b"missing\0"))
            return refused.value.code, rules.generation() - before

    assert namespace.run(ask) == (errno.ENOENT, 0)
