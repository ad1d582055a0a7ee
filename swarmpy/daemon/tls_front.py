"""TLS in front of a server that speaks plain HTTP, where each direction ends by itself.

Owns    the connections from outside until they end; each is carried to the server over a socket pair.
Laws    A client's close_notify (RFC 8446, 6.1) ends its own direction alone: `docker run` without -i sends one at once
        and then reads the output. asyncio's own TLS closes the connection on it. TCP's end means the client is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable

__all__ = ["TlsFront"]

log = logging.getLogger(__name__)

HANDSHAKE_S = 30.0
CHUNK = 1 << 16


class TlsFront:
    """`make_protocol` is the server's factory of protocols, one for each connection."""

    def __init__(self, context: ssl.SSLContext, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._context = context
        self._make_protocol = make_protocol
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def listen(self, address: str, port: int) -> None:
        """Take connections. Raises OSError when the address cannot be listened on."""
        self._server = await asyncio.start_server(self._accept, address, port)

    async def close(self) -> None:
        """No connection is left."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = _Tls(self._context, reader, writer)
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await tls.shake_hands()
            await self._carry(tls)
        except (OSError, TimeoutError) as failure:    # ssl.SSLError among them
            log.debug("a connection to the API over TLS ended: %s", failure)
        finally:
            writer.transport.abort() if tls.broken else writer.close()

    async def _carry(self, tls: _Tls) -> None:
        """Both directions, until the server has sent everything or the client is gone."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, theirs)
        reader, writer = await asyncio.open_connection(sock=ours)
        inward = asyncio.create_task(_inward(tls, writer))
        outward = asyncio.create_task(_outward(reader, tls))
        try:
            await asyncio.wait((inward, outward), return_when=asyncio.FIRST_COMPLETED)
            for done in (inward, outward):
                if done.done():
                    done.result()
        finally:
            for task in (inward, outward):
                task.cancel()
            await asyncio.gather(inward, outward, return_exceptions=True)
            writer.transport.abort()


async def _inward(tls: _Tls, server: asyncio.StreamWriter) -> None:
    """From the client; returns when it is gone."""
    while data := await tls.read():
        server.write(data)
        await server.drain()
    server.write_eof()
    await tls.until_gone()


async def _outward(server: asyncio.StreamReader, tls: _Tls) -> None:
    """From the server; returns when it has sent everything."""
    while data := await server.read(CHUNK):
        await tls.write(data)
    await tls.end()


class _Tls:
    """One connection's TLS: `ssl.SSLObject` between a stream and memory."""

    def __init__(self, context: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_side=True)
        self.broken = True  # until it has ended as it should

    async def shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()
            finally:
                await self._flush()     # an alert too, so that a client learns why

    async def read(self) -> bytes:
        """The client's next bytes; empty once it has ended its direction."""
        while True:
            try:
                return self._tls.read(CHUNK)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()

    async def write(self, data: bytes) -> None:
        self._tls.write(data)
        await self._flush()

    async def end(self) -> None:
        """The client knows that this was all."""
        with contextlib.suppress(ssl.SSLWantReadError):     # the client's own word may come later, or never
            self._tls.unwrap()
        await self._flush()
        self.broken = False

    async def until_gone(self) -> None:
        while await self._reader.read(CHUNK):
            continue

    async def _receive(self) -> None:
        data = await self._reader.read(CHUNK)
        if not data:
            raise ConnectionResetError("the client is gone")
        self._arrived.write(data)

    async def _flush(self) -> None:
        if self._leaving.pending:
            self._writer.write(self._leaving.read())
            await self._writer.drain()
