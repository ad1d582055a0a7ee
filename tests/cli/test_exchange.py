"""A request and its answer, over a pair of sockets whose other end is played by the test."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator

import pytest
from httptools import HttpParserError

from swarmpy.cli.exchange import Answer, send
from swarmpy.cli.failures import Unreachable

HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """(ours, the daemon's)."""
    ours, daemons = socket.socketpair()
    with ours, daemons:
        yield ours, daemons


Ends = tuple[socket.socket, socket.socket]


def answered(ends: Ends, data: bytes) -> Answer:
    """What the daemon says and then hangs up."""
    ours, daemons = ends
    daemons.sendall(data)
    daemons.shutdown(socket.SHUT_WR)
    return Answer(ours)


def sent(ends: Ends) -> bytes:
    ours, daemons = ends
    ours.shutdown(socket.SHUT_WR)
    return b"".join(iter(lambda: daemons.recv(65536), b""))


def test_a_request_with_a_body_says_its_length(ends: Ends) -> None:
    send(ends[0], "POST", "/x?a=1", {"Content-Type": "application/json"}, b"{}")
    head, _, body = sent(ends).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /x?a=1 HTTP/1.1"
    assert {b"Host: localhost", b"Content-Type: application/json", b"Content-Length: 2"} <= set(lines)
    assert body == b"{}"


def test_a_request_without_a_body(ends: Ends) -> None:
    send(ends[0], "POST", "/x", {})
    send(ends[0], "GET", "/y", {})
    post, get, end = sent(ends).split(b"\r\n\r\n")
    assert b"Content-Length: 0" in post
    assert b"Content-Length" not in get
    assert end == b""


@pytest.mark.parametrize("body", [io.BytesIO(b"abc" * 50_000), iter([b"abc" * 1000, b"", b"abc" * 49_000])])
def test_a_stream_is_sent_in_chunks(ends: Ends, body: io.BytesIO) -> None:
    ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    send(ends[0], "PUT", "/x", {}, body)
    head, _, rest = sent(ends).partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    whole = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        whole += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    assert whole == b"abc" * 50_000


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 6\r\n\r\nab\ncd\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nab\n\r\n3\r\ncd\n\r\n0\r\n\r\n",
        b"\r\nab\ncd\n",
    ],
    ids=["length", "chunks", "until it hangs up"],
)
def test_the_body_is_a_file(ends: Ends, rest: bytes) -> None:
    answer = answered(ends, HEAD + rest)
    assert (answer.status, answer.reason) == (200, "OK")
    assert answer.body.read(1) == b"a"
    assert list(answer.body) == [b"b\n", b"cd\n"]
    assert answer.body.read() == b""


def test_a_part_is_read_when_it_has_come(ends: Ends) -> None:
    ours, daemons = ends
    daemons.sendall(HEAD + b"X-Name: Value\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab\n\r\n")
    answer = Answer(ours)
    assert answer.headers["x-name"] == "Value"
    assert answer.body.readline() == b"ab\n"  # though no more comes
    daemons.sendall(b"2\r\nc\n\r\n0\r\n\r\n")
    assert answer.body.read() == b"c\n"  # though the connection stays


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 3\r\n\r\nab",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nab",
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nno number",
    ],
)
def test_half_an_answer_is_none(ends: Ends, rest: bytes) -> None:
    ours, daemons = ends
    daemons.sendall(HEAD + rest[: rest.index(b"\r\n\r\n") + 4])
    answer = Answer(ours)
    daemons.sendall(rest[rest.index(b"\r\n\r\n") + 4 :])
    daemons.shutdown(socket.SHUT_WR)
    with pytest.raises(Unreachable, match="the answer of the daemon broke off"):
        answer.body.read()


def test_no_answer(ends: Ends) -> None:
    with pytest.raises(ConnectionResetError, match="closed before an answer came"):
        answered(ends, b"HTTP/1.1 200")


def test_something_else(ends: Ends) -> None:
    with pytest.raises(HttpParserError):
        answered(ends, b"SSH-2.0-OpenSSH_9.2\r\n")


def test_answers_before_the_answer_are_passed_over(ends: Ends) -> None:
    answer = answered(ends, b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + HEAD + b"Content-Length: 1\r\n\r\na")
    assert (answer.status, answer.reason, "link" in answer.headers) == (200, "OK", False)
    assert answer.body.read() == b"a"


def test_a_connection_that_becomes_a_stream(ends: Ends) -> None:
    ours, daemons = ends
    daemons.sendall(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly")
    answer = Answer(ours)
    assert (answer.status, answer.early) == (101, b"early")
    daemons.sendall(b"later")
    assert ours.recv(100) == b"later"
