"""Taking a connection over from HTTP: the raw streams of attach and exec.

Owns    the answer "101 UPGRADED" (or "200 OK" to a client that did not ask for an upgrade), after which the connection
        carries bytes in both directions and each direction ends by itself: a client that has sent all its input shuts
        down its half and still reads all output.
Source  Docker Engine API, `POST /containers/{id}/attach`, section Hijacking.

aiohttp closes a connection whose peer has shut down its half, so the transport gets a protocol of its own meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from swarmpy.errors import Internal

__all__ = ["Answered", "RawStream", "has_begun", "hijack", "mark_begun", "wants_upgrade"]

LINGER_S = 2.0                      # for a client to close after it was told that this is all
_LIMIT = 1 << 18
_BEGUN = web.RequestKey("begun", bool)


def mark_begun(request: web.Request) -> None:
    """The head of its answer goes out now."""
    request[_BEGUN] = True


def has_begun(request: web.Request) -> bool:
    """Whether it is too late for another answer."""
    return _BEGUN in request


def wants_upgrade(request: web.Request) -> bool:
    """Whether the client asked for `Upgrade: tcp`."""
    return request.headers.get("Upgrade", "").lower() == "tcp"


class RawStream:
    """Both directions of a connection that was taken over."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """The client's next bytes; empty once it has shut down its half or is gone."""
        try:
            return await self._reader.read(1 << 16)
        except ConnectionError:
            return b""

    def hung_up(self) -> bool:
        """Whether the client is gone for good, and has not just ended its input: POLLHUP of poll(2)."""
        connection = self._writer.get_extra_info("socket")
        if self._writer.is_closing() or connection is None or connection.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(connection.fileno(), 0)
        return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))

    async def write(self, data: bytes) -> None:
        """Send to the client; ConnectionError when it is gone."""
        self._writer.write(data)
        await self._writer.drain()


class Answered(web.StreamResponse):
    """What a handler returns when all has been sent (`hijack`) or nobody listens: the connection is not used again."""

    @property
    def keep_alive(self) -> bool | None:
        return False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class _Tail:
    """Takes what aiohttp has read beyond the request."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self._reader.feed_eof()


@asynccontextmanager
async def hijack(request: web.Request, content_type: str) -> AsyncIterator[RawStream]:
    """Answer the head and hand out the connection; when the block ends the connection is closed.

    Nothing may be awaited between the check that led here and this call's head if what follows must not be missed.
    """
    transport = request.transport
    if transport is None:
        raise Internal("the client went away before its connection could be upgraded")
    served_by = request.protocol
    reader = asyncio.StreamReader(limit=_LIMIT)
    protocol = _Protocol(reader)
    tail: Any = _Tail(reader)  # aiohttp says WebSocketReader, and calls these two methods
    served_by.set_parser(tail)
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    transport.resume_reading()
    writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
    mark_begun(request)
    writer.write(_head(request, content_type))
    try:
        yield RawStream(reader, writer)
        await _flush(writer)
        await _drop(reader)
    except ConnectionError:
        pass  # the client is gone, and with it whatever it had asked for
    finally:
        if protocol.lost:
            served_by.connection_lost(None)
        else:
            transport.set_protocol(served_by)
            transport.close()


class _Protocol(asyncio.StreamReaderProtocol):
    """Remembers that the connection is gone, to tell aiohttp later."""

    lost = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        super().connection_lost(exc)


async def _flush(writer: asyncio.StreamWriter) -> None:
    """Everything written has been handed to the kernel, and the client sees the end of the output."""
    await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _drop(reader: asyncio.StreamReader) -> None:
    """The client closes first, or LINGER_S pass: Linux makes a close with input unread a reset of the connection."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while await reader.read(_LIMIT):
                continue


def _head(request: web.Request, content_type: str) -> bytes:
    if not wants_upgrade(request):
        return f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nConnection: close\r\n\r\n".encode()
    lines: dict[str, Any] = {"Content-Type": content_type, "Connection": "Upgrade", "Upgrade": "tcp"}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 101 UPGRADED\r\n{head}\r\n".encode()
