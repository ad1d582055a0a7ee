"""Join tokens: what is printed is read back, and damage is told before anything is tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.errors import InvalidArgument
from swarmpy.identity import JoinToken


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16))
def test_a_printed_token_reads_back(digest: bytes, secret: bytes) -> None:
    token = JoinToken(digest, secret)
    assert JoinToken.parse(str(token)) == token
    assert [len(part) for part in str(token).split("-")] == [6, 1, 50, 25]


def test_a_token_of_dockers_has_the_same_form() -> None:
    text = "SWMTKN-1-3pu6hszjas19xyp7ghgosyx9k8atbfcr8p2is99znpy26u2lkl-7p73s1dx5in4tatdymyhg9hu2"
    assert str(JoinToken.parse(text + "\n")) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must read SWMTKN-1-"),
        ("SWMTKN-2-" + "0" * 50 + "-" + "0" * 25, "version '2'"),
        ("SWMTKN-1-" + "0" * 49 + "-" + "0" * 25, "digest"),
        ("SWMTKN-1-" + "z" * 50 + "-" + "0" * 25, "digest"),
        ("SWMTKN-1-" + "0" * 50 + "-" + "A" * 25, "secret"),
        ("SWMTKN-1-" + "0" * 50 + "-" + "z" * 25, "secret"),
    ],
)
def test_damage_is_named(text: str, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        JoinToken.parse(text)


def test_no_secret_in_repr_or_errors() -> None:
    token = JoinToken.generate(bytes(32), lambda size: b"\x17" * size)
    secret = str(token).split("-")[3]
    assert secret not in repr(token)
    with pytest.raises(InvalidArgument) as caught:
        JoinToken.parse(str(token) + "0")
    assert secret not in str(caught.value)
