"""What the kernel says, and that it says it of a table that somebody else changes."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator

import pytest

from swarmpy.network.kernel import NetlinkError
from swarmpy.network.netlink import NFGENMSG, Message, attribute
from swarmpy.network.nft_netlink import GETTABLE, NFPROTO_IPV4, NFTA_TABLE_NAME, NftNetlink
from tests.network.topology import Namespace

pytestmark = pytest.mark.root

RULES = 1500                     # a dozen answers of the kernel


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.close()


def _write(comment: str) -> None:
    """All rules anew, at once, each with the comment."""
    rules = "".join(f'add rule ip t c counter comment "{comment}"\n' for _ in range(RULES))
    subprocess.run(["nft", "-f", "-"], input=f"flush chain ip t c\n{rules}", text=True, check=True)


class Interrupted(NftNetlink):
    """Somebody changes the table after the first answer of the first walk."""

    def __init__(self) -> None:
        super().__init__()
        self.walks = 0

    def _answers(self, question: Message) -> Iterator[Message]:
        self.walks += 1
        answers = super()._answers(question)
        yield next(answers)
        if self.walks == 1:
            _write("after")
        yield from answers


def test_a_table_that_is_changed_while_it_is_read_is_read_again(namespace: Namespace) -> None:
    def read() -> tuple[int, tuple[str, ...]]:
        subprocess.run(["nft", "add table ip t; add chain ip t c"], check=True)
        _write("before")
        with Interrupted() as rules:
            found = rules.comments("t")["c"]
            return rules.walks, found

    walks, found = namespace.run(read)
    assert walks == 2
    assert found == ("after",) * RULES


def test_a_refusal_names_its_number_and_the_next_question_is_answered(namespace: Namespace) -> None:
    def ask() -> tuple[int, int]:
        with NftNetlink() as rules:
            before = rules.generation()
            with pytest.raises(NetlinkError) as refused:
                rules.ask(GETTABLE, NFGENMSG.pack(NFPROTO_IPV4, 0) + attribute(NFTA_TABLE_NAME, b"missing\0"))
            return refused.value.code, rules.generation() - before

    assert namespace.run(ask) == (errno.ENOENT, 0)
