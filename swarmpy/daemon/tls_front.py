"""TLS in front of a server that speaks plain HTTP, where each direction ends by itself.

Owns    the connections from outside until they end; each is carried to the server over a socket pair.
Laws    A client's close_notify (RFC 8446, 6.1) ends its own direction alone: `docker run` without -i sends one at once
        and then reads the output. asyncio's own TLS closes the connection on it. TCP's end means the client is gone.
        What the server has sent arrives, whatever the client still says: TCP answers a connection closed with input
        unread by a reset, which overtakes the output (RFC 9112, 9.6), so the rest of the input is read and dropped.
        Whoever reaches the port may connect. Of those who have shown no certificate yet there are HANDSHAKES at most:
        who comes then takes the place of the one that has been at it for longest, so that no silent crowd keeps others
        out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

__all__ = ["AT_ONCE", "QUEUE", "TlsFront", "server_context"]

log = logging.getLogger(__name__)

HANDSHAKE_S = 30.0
HANDSHAKES = 512                    # at a time
QUEUE = 4096                        # connections that the kernel holds for us; beyond that it lets them try again later
AT_ONCE = 32                        # of them are taken before others get their turn
LINGER_S = 5.0                      # for a client to close after it was told that this is all
CLOSE_S = 1.0                       # for what the server has just said to leave, when the front closes
CHUNK = 1 << 16
KEEPALIVE = {                       # a client that vanished without a word is noticed after two and a half minutes
    socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 15, socket.TCP_KEEPCNT: 9,
}  # fmt: skip


def server_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS that demands a client certificate of `ca`. Raises OSError (ssl.SSLError among them) when a file is no use."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    context.load_cert_chain(certificate, key)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    # Python 3.13 began to ask for key identifiers (RFC 5280, 4.2.1.1). Go does not, so docker clients may lack them.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.options |= ssl.OP_NO_RENEGOTIATION      # else a write might have to wait for a read
    return context


class TlsFront:
    """`make_protocol` is the server's factory of protocols, one for each connection."""

    def __init__(self, context: ssl.SSLContext, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._context = context
        self._make_protocol = make_protocol
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._shaking: dict[asyncio.Task[None], None] = {}      # those that have shown no certificate yet, in order

    async def listen(self, address: str, port: int) -> int:
        """Take connections at the port returned: any for 0. Raises OSError when the address cannot be listened on."""
        self._server = await asyncio.start_server(self._accept, address, port, backlog=AT_ONCE)
        for listening in self._server.sockets:      # asyncio takes as many at once as it lets the kernel queue
            with socket.socket(fileno=os.dup(listening.fileno())) as same:
                same.listen(QUEUE)
        return int(self._server.sockets[0].getsockname()[1])

    def stop_listening(self) -> None:
        """No connection is added any more."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """No connection is left. Those that the server has ended before get what it said, within CLOSE_S."""
        self.stop_listening()
        if self._connections:
            await asyncio.wait(self._connections, timeout=CLOSE_S)
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._shaking) >= HANDSHAKES:
            oldest = next(iter(self._shaking))
            del self._shaking[oldest]
            oldest.cancel()
        task = asyncio.create_task(self._serve(reader, writer))
        self._shaking[task] = None
        self._connections.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._shaking.pop(task, None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = _Tls(self._context, reader, writer)
        try:
            _keep_alive(writer.get_extra_info("socket"))
            try:
                async with asyncio.timeout(HANDSHAKE_S):
                    await tls.shake_hands()
            except ssl.SSLError:
                await tls.linger()      # it has been told why
                raise
            task = asyncio.current_task()
            assert task is not None
            self._shaking.pop(task, None)
            await self._carry(tls)
            writer.close()
            await writer.wait_closed()
        except (OSError, TimeoutError) as failure:    # ssl.SSLError among them
            log.debug("a connection to the API over TLS ended: %s", failure)
        finally:
            writer.transport.abort()

    async def _carry(self, tls: _Tls) -> None:
        """Both directions, until the server has sent everything or the client is gone."""
        ours, theirs = socket.socketpair()
        with ours:
            for end in (ours, theirs):
                end.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, theirs)
            inward = asyncio.create_task(_inward(tls, ours))
            outward = asyncio.create_task(_outward(ours, tls))
            try:
                await asyncio.wait((inward, outward), return_when=asyncio.FIRST_COMPLETED)
                if outward.done():
                    outward.result()
                    await asyncio.wait((inward,), timeout=LINGER_S)
                else:
                    inward.result()
            finally:
                for task in (inward, outward):
                    task.cancel()
                await asyncio.gather(inward, outward, return_exceptions=True)


async def _inward(tls: _Tls, server: socket.socket) -> None:
    """From the client; returns when it is gone, or raises ConnectionError."""
    while data := await tls.read():
        if not await _taken(server, data):
            break
    else:
        server.shutdown(socket.SHUT_WR)
    await tls.until_gone()


async def _outward(server: socket.socket, tls: _Tls) -> None:
    """From the server; returns when the client has been sent everything."""
    while data := await _said(server):
        await tls.write(data)
    await tls.end()


async def _taken(server: socket.socket, data: bytes) -> bool:
    """Whether the server still listens: it may have answered before it has heard everything."""
    try:
        await asyncio.get_running_loop().sock_sendall(server, data)
    except ConnectionError:
        return False
    return True


async def _said(server: socket.socket) -> bytes:
    """The server's next bytes; empty once there are no more."""
    try:
        return await asyncio.get_running_loop().sock_recv(server, CHUNK)
    except ConnectionResetError:    # Linux says so after the last byte when the server has closed with input unread
        return b""


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


class _Tls:
    """One connection's TLS: `ssl.SSLObject` between a stream and memory."""

    def __init__(self, context: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_side=True)

    async def shake_hands(self) -> None:
        """Raises ssl.SSLError when the client is not one of ours, OSError when it is gone."""
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
        """The client's next bytes; empty once it has ended its direction. ConnectionResetError when it is gone."""
        while True:
            try:
                return self._tls.read(CHUNK)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()

    async def write(self, data: bytes) -> None:
        self._tls.write(data)           # all of it, as memory is never full
        await self._flush()

    async def end(self) -> None:
        """The client knows that this was all."""
        with contextlib.suppress(ssl.SSLError):     # the client's own word may come later, after more input, or never
            self._tls.unwrap()
        await self._flush()
        self._writer.write_eof()

    async def linger(self) -> None:
        """After a handshake that failed: the alert arrives, whatever the client sent after its half of it."""
        self._writer.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self.until_gone()

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
