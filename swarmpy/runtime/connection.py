"""A daemon's connection to a shim: numbered requests and their replies, events, and streams of a process."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator, Callable

from swarmpy.runtime.failure import FailureKind, RuntimeFailure
from swarmpy.runtime.wire import HEADER, Kind, frame, json_frame

__all__ = ["Control", "Streams", "ended", "lost", "open_connection", "read_frame", "read_json"]

Reply = dict[str, object]


class _Protocol(asyncio.StreamReaderProtocol):
    """A shim that goes with our input unread resets the connection (unix(7)). What it had said before is still read."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(None)


async def open_connection(sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    protocol = _Protocol(reader)
    transport, _ = await loop.create_unix_connection(lambda: protocol, sock=sock)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def read_frame(reader: asyncio.StreamReader) -> tuple[Kind, bytes] | None:
    """The next frame; None when the other side is gone, also in the middle of one."""
    try:
        kind, length = HEADER.unpack(await reader.readexactly(HEADER.size))
        return Kind(kind), await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def read_json(reader: asyncio.StreamReader, container_id: str) -> Reply:
    """A JSON frame that must come. Raises RuntimeFailure: the one it carries, or LOST when the shim is gone."""
    received = await read_frame(reader)
    if received is None:
        raise lost(container_id)
    value: Reply = json.loads(received[1])
    if "error" in value:
        raise named(container_id, value)
    return value


def lost(container_id: str) -> RuntimeFailure:
    return RuntimeFailure(f"container {container_id[:12]}: its shim is gone", FailureKind.LOST)


def ended(container_id: str) -> RuntimeFailure:
    return RuntimeFailure(f"container {container_id[:12]}: has ended already", FailureKind.CONFLICT)


def named(container_id: str, value: Reply) -> RuntimeFailure:
    """The failure a shim reports, beginning with the container it is about."""
    failure = RuntimeFailure.from_json(value)
    return RuntimeFailure(f"container {container_id[:12]}: {failure}", failure.kind, failure.exit_code)


class Control:
    """Requests over one connection, any number at a time. `on_event` gets what the shim says unasked."""

    def __init__(
        self, container_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
        on_event: Callable[[Reply], None],
    ) -> None:  # fmt: skip
        self._id = container_id
        self._reader = reader
        self._writer = writer
        self._on_event = on_event
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self.closed = asyncio.Event()
        self._task = asyncio.create_task(self._receive(), name=f"shim {container_id[:12]}")

    async def request(self, op: str, **fields: object) -> Reply:
        """The reply's result. Raises RuntimeFailure."""
        if self.closed.is_set():
            raise ended(self._id)
        number = next(self._numbers)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._writer.write(json_frame({"id": number, "op": op, **fields}))
            reply = await answer
        finally:
            del self._waiting[number]
        if "error" in reply:
            raise named(self._id, reply)
        result = reply["result"]
        assert isinstance(result, dict)
        return result

    async def _receive(self) -> None:
        try:
            while (received := await read_frame(self._reader)) is not None:
                value: Reply = json.loads(received[1])
                number = value.get("id")
                if isinstance(number, int) and number in self._waiting:
                    if not self._waiting[number].done():
                        self._waiting[number].set_result(value)
                elif "event" in value:
                    self._on_event(value)
        finally:
            self.closed.set()
            self._writer.close()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(lost(self._id))

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Streams:
    """A process' standard streams, live. What is not read makes the process wait, within limits (stdio.py).

    Input goes through a descriptor of its own: asyncio closes a connection that it cannot write to, and with it what
    has not been read, such as the last words of a process that did not wait for all its input.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._input: socket.socket = writer.get_extra_info("socket").dup()
        self._input.setblocking(False)

    async def read(self) -> tuple[str, bytes] | None:
        """("stdout" or "stderr", data); None when no more will come. A terminal's output is all stdout."""
        while (received := await read_frame(self._reader)) is not None:
            kind, data = received
            if kind is Kind.STDOUT:
                return "stdout", data
            if kind is Kind.STDERR:
                return "stderr", data
            if kind is Kind.END:
                return None
        return None

    async def __aiter__(self) -> AsyncIterator[tuple[str, bytes]]:
        while (chunk := await self.read()) is not None:
            yield chunk

    async def write(self, data: bytes) -> None:
        """To standard input; waits while the process does not take it. Nothing happens when it is closed."""
        for start in range(0, len(data), 65536):
            await self._send(frame(Kind.STDIN, data[start : start + 65536]))

    async def close_stdin(self) -> None:
        """The process reads the end of its input, after all that was written. Not so with a terminal."""
        await self._send(frame(Kind.CLOSE_STDIN))

    async def _send(self, message: bytes) -> None:
        if self._input.fileno() < 0:
            return
        try:
            await asyncio.get_running_loop().sock_sendall(self._input, message)
        except ConnectionError:
            return

    async def close(self) -> None:
        """Detach. The process goes on. Nobody may be writing."""
        self._input.close()
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return  # it had hung up itself
