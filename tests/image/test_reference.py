"""References are read as Docker reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.errors import InvalidArgument
from swarmpy.image import parse_reference

DIGEST = "sha256:" + "a1" * 32


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("team/app", "docker.io/team/app:latest", "team/app:latest"),
        ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
        ("localhost:5000/x:v1", "localhost:5000/x:v1", "localhost:5000/x:v1"),
        ("127.0.0.1:5000/team/app:v1.2-rc_3", "127.0.0.1:5000/team/app:v1.2-rc_3", "127.0.0.1:5000/team/app:v1.2-rc_3"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        ("registry.example/a__b/c--d.e", "registry.example/a__b/c--d.e:latest", "registry.example/a__b/c--d.e:latest"),
        ("UPPER/x", "UPPER/x:latest", "UPPER/x:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}", f"busybox:1@{DIGEST}"),
        ("deadbeef", "docker.io/library/deadbeef:latest", "deadbeef:latest"),
    ],
)
def test_names_and_what_they_mean(text: str, full: str, familiar: str) -> None:
    reference = parse_reference(text)
    assert str(reference) == full
    assert reference.familiar == familiar
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("Busybox", "lower case"),
        ("team/App", "lower case"),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        ("/a", "empty part"),
        ("a___b", "must be"),
        ("a..b/c:x y", "tag"),
        ("busybox:", "tag"),
        ("busybox:.hidden", "tag"),
        ("busybox:" + "x" * 129, "tag"),
        ("busybox@sha256:12", "digest"),
        ("busybox@md5:" + "a" * 32, "digest"),
        ("-registry.example/x", "registry host"),
        ("registry.example:port/x", "registry host"),
        ("a" * 64, "image id"),
        ("x/" + "a" * 250, "longer than 255"),
        ("../../etc/passwd", "registry host"),
        ("https://registry.example/x", "registry host"),
    ],
)
def test_what_is_not_a_name(text: str, word: str) -> None:
    if text == "a" * 64:
        text = "0" * 64
    with pytest.raises(InvalidArgument, match=word):
        parse_reference(text)


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_a_clear_refusal(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidArgument as error:
        assert repr(text) in str(error)
        return
    assert parse_reference(str(reference)) == reference
    assert parse_reference(reference.familiar) == reference
