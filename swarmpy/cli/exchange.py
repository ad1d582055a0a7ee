"""One request of HTTP/1.1 and its answer, on a connection of their own.

Owns    what goes over the wire for a request, and how far its answer has come; llhttp (httptools) takes it apart.
In      a connected socket, plain or TLS.
Out     the request, and an Answer whose body is a file that is read as it comes.
Source  RFC 9112: Message Format, Chunked Transfer Coding, Message Body Length; RFC 9110, 15.2, on 1xx answers.
Not `http.client`: importing it and the mail package it reads headers with took a sixth of a command's time.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator, Mapping
from typing import IO

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from swarmpy.cli.failures import Unreachable

__all__ = ["Answer", "Body", "send"]

CHUNK = 65536
SWITCHING = 101

Body = bytes | IO[bytes] | Iterator[bytes]


def send(
    connection: socket.socket, method: str, target: str, headers: Mapping[str, str], body: Body | None = None
) -> None:
    """Write the whole request. A body whose length is not known goes in chunks. Raises OSError."""
    given = {"Host": "localhost", "Accept-Encoding": "identity", **headers}
    if isinstance(body, bytes) or (body is None and method in ("POST", "PUT")):
        given["Content-Length"] = str(len(body or b""))
    elif body is not None:
        given["Transfer-Encoding"] = "chunked"
    head = "\r\n".join([f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""])
    if body is None or isinstance(body, bytes):
        connection.sendall(head.encode("ascii") + (body or b""))
        return
    connection.sendall(head.encode("ascii"))
    for part in iter(lambda: body.read(CHUNK), b"") if hasattr(body, "read") else body:
        if part:  # an empty chunk would be the last
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))
    connection.sendall(b"0\r\n\r\n")


class Answer:
    """The answer to one request. `body` raises Unreachable when the connection ends before the body does.

    Made when the head has come: raises OSError or HttpParserError when none does.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.status = 0
        self.reason = ""
        self.headers: dict[str, str] = {}  # names in lower case
        self.ended = False
        self.early = b""  # what followed the head of a connection that has become a stream
        self.body: io.BufferedReader = io.BufferedReader(_Rest(self), CHUNK)
        self._connection = connection
        self._parser = HttpResponseParser(self)
        self._arrived: list[bytes] = []
        while not self.status:
            if not self._receive():
                raise ConnectionResetError("the connection was closed before an answer came")

    def next(self) -> bytes:
        """The next part of the body, as it comes; empty at its end."""
        while not self._arrived and not self.ended:
            try:
                if self._receive():
                    continue
            except (OSError, HttpParserError) as error:
                raise Unreachable(f"the answer of the daemon broke off ({error})") from error
            if self._has_length:
                raise Unreachable("the answer of the daemon broke off: the connection was closed")
            self.ended = True
        return self._arrived.pop(0) if self._arrived else b""

    @property
    def _has_length(self) -> bool:
        """Whether the body says where it ends; one that does not ends with the connection."""
        return "content-length" in self.headers or "chunked" in self.headers.get("transfer-encoding", "")

    def _receive(self) -> bool:
        """Take in what comes next; False when nothing more will."""
        data = self._connection.recv(CHUNK)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self.early = data[upgrade.args[0] :]
        return bool(data)

    # ---------------------------------------------------------------------------------------- called by the parser

    def on_message_begin(self) -> None:
        self.reason = ""
        self.headers = {}

    def on_status(self, text: bytes) -> None:
        self.reason += text.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self.status = status if status >= 200 or status == SWITCHING else 0

    def on_body(self, data: bytes) -> None:
        self._arrived.append(data)

    def on_message_complete(self) -> None:
        self.ended = self.status != 0


class _Rest(io.RawIOBase):
    """What of the body has not been read yet, as a file."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._part = b""

    def readable(self) -> bool:
        return True

    def readinto(self, place: memoryview) -> int:  # type: ignore[override]  # BufferedReader gives no other buffer
        self._part = self._part or self._answer.next()
        count = min(len(place), len(self._part))
        place[:count] = self._part[:count]
        self._part = self._part[count:]
        return count
