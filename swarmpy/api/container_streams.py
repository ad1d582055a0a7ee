"""Routes of a container's streams: attach and logs.

Source  Docker Engine API, paths /containers/{id}/attach, /containers/{id}/attach/ws, /containers/{id}/logs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from urllib.parse import quote_plus

from aiohttp import WSMsgType, web

from swarmpy.api.framing import framed, stream_type
from swarmpy.api.hijack import Answered, RawStream, hijack
from swarmpy.api.requests import query_flag, query_time
from swarmpy.api.versions import api_version
from swarmpy.detach_keys import DetachKeys, parse_detach_keys
from swarmpy.engine import Engine, LogLine, LogOptions, Streams
from swarmpy.errors import InvalidArgument, NotSupported

__all__ = ["carry", "routes"]

_LOOK_S = 1.0


def routes(engine: Engine) -> list[web.RouteDef]:
    noun = StreamRoutes(engine)
    return [
        web.get("/containers/{id}/logs", noun.logs),
        web.post("/containers/{id}/attach", noun.attach),
        web.get("/containers/{id}/attach/ws", noun.attach_websocket),
    ]


class StreamRoutes:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def logs(self, request: web.Request) -> web.StreamResponse:
        container = self._engine.containers.live(request.match_info["id"])
        tty, now = container.record.config.tty, self._engine.now()
        stdout, stderr = query_flag(request, "stdout"), query_flag(request, "stderr")
        if not (stdout or stderr):
            raise InvalidArgument("Bad parameters: you must choose at least one stream")
        options = LogOptions(
            stdout=stdout,
            stderr=stderr,
            follow=query_flag(request, "follow"),
            since_ns=query_time(request, "since", now),
            until_ns=query_time(request, "until", now),
            tail=_tail(request.query.get("tail", "all")),
        )
        batches = self._engine.containers.log_batches(container.record.id, options)
        stamps, details = query_flag(request, "timestamps"), query_flag(request, "details")
        kind = stream_type(tty, api_version(request))
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        async for batch in batches:
            await response.write(b"".join(_log_piece(line, tty, stamps, details) for line in batch))
        return response

    async def attach(self, request: web.Request) -> web.StreamResponse:
        container = self._engine.containers.live(request.match_info["id"])
        if query_flag(request, "logs"):
            raise NotSupported("logs: replaying the log in attach is not supported; use GET /containers/{id}/logs")
        wanted = {name for name in ("stdin", "stdout", "stderr") if query_flag(request, name)}
        if not query_flag(request, "stream"):
            wanted = set()
        tty, keys = container.record.config.tty, _detach_keys(request)
        streams = container.attach()
        container.publish("attach")
        async with hijack(request, stream_type(tty, api_version(request))) as raw:
            found = await streams
            if found is not None:
                stdin = "stdin" in wanted and container.record.config.open_stdin
                if await carry(found, raw, tty=tty, stdin=stdin, outputs=wanted - {"stdin"}, keys=keys):
                    container.publish("detach")
        return Answered()

    async def attach_websocket(self, request: web.Request) -> web.StreamResponse:
        container = self._engine.containers.live(request.match_info["id"])
        keys = _detach_keys(request) if container.record.config.tty else None
        streams = container.attach()
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        found = await streams
        if found is None:
            return socket

        async def feed() -> None:
            async for message in socket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    data = message.data if isinstance(message.data, bytes) else message.data.encode()
                    await found.write(keys.feed(data) if keys else data)
                    if keys and keys.pressed:
                        container.publish("detach")
                        await found.close()
                        return

        feeding = asyncio.create_task(feed())
        try:
            async for _, data in found:
                await socket.send_bytes(data)
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            await found.close()
        return socket


async def carry(
    streams: Streams, raw: RawStream, *, tty: bool, stdin: bool, outputs: set[str], keys: DetachKeys
) -> bool:
    """Carry a process's streams over a raw connection until all its output has been sent or the client is gone.

    On a terminal the client may also press `keys`: it is let go then, and the answer is True.
    """

    async def feed() -> None:
        while data := await raw.read():
            if stdin:
                await streams.write(keys.feed(data) if tty else data)
            if keys.pressed:
                await streams.close()
                return
        if stdin:
            await streams.close_stdin()
        while not raw.hung_up():  # a client that has ended its input may yet go away while nothing is written to it
            await asyncio.sleep(_LOOK_S)
        await streams.close()

    feeding = asyncio.create_task(feed())
    try:
        async for name, data in streams:
            if tty or name in outputs:
                await raw.write(data if tty else framed(name, data))
    finally:
        feeding.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await feeding
        await streams.close()
    return keys.pressed


def _detach_keys(request: web.Request) -> DetachKeys:
    return DetachKeys(parse_detach_keys(request.query.get("detachKeys", "")))


def _tail(text: str) -> int | None:
    if text in ("", "all"):
        return None
    try:
        number = int(text)
    except ValueError:
        raise InvalidArgument(f"tail: '{text}' is neither a number nor 'all'") from None
    return None if number < 0 else number


def _log_piece(line: LogLine, tty: bool, stamps: bool, details: bool) -> bytes:
    data = line.data
    if details:
        data = f"{_details(line.attributes)} ".encode() + data
    if stamps:
        data = f"{line.stamp} ".encode() + data
    return data if tty else framed(line.stream, data)


def _details(attributes: Mapping[str, str]) -> str:
    """`a=1,b=2`, each part escaped as in a query, by name."""
    return ",".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in sorted(attributes.items()))
