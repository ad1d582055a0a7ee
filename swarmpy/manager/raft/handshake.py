"""How a wire begins: TCP, mutual TLS, and a ticket that its gRPC stream has brought the one who dials.

    dialler                                          listener
       ---- TLS 1.3, both with a manager's certificate ---->
       ---- ticket (32 bytes) ----------------------------->
       <--- one byte: welcome ------------------------------     (from here on only frames, and only the other way)

TLS 1.3 ends the client's handshake before the server has judged its certificate: without the byte back, the dialler
would send into a connection that is being refused.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

from swarmpy.identity.certificates import MANAGER_NAME

__all__ = ["PATIENCE_S", "TICKET_BYTES", "Refused", "dial", "welcome"]

TICKET_BYTES = 32
PATIENCE_S = 3.0                # for the whole of it
_WELCOME = b"\x01"
_SILENCE_MS = 3000              # until unacknowledged data ends the connection: tcp(7), TCP_USER_TIMEOUT

T = TypeVar("T")


class Refused(Exception):
    """The other end does not want this connection, or does not speak as a member does."""


async def dial(host: str, port: int, tls: ssl.SSLContext, ticket: bytes) -> ssl.SSLSocket:
    """A connected wire, non-blocking. Raises OSError, Refused, TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE_S):
        family, kind, protocol, _, addr = (await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
        plain = socket.socket(family, kind, protocol)
        try:
            plain.setblocking(False)
            await loop.sock_connect(plain, addr)
            wire = tls.wrap_socket(_set_up(plain), server_hostname=MANAGER_NAME, do_handshake_on_connect=False)
        except BaseException:
            plain.close()
            raise
        try:
            await _ready(wire, wire.do_handshake)
            await _ready(wire, lambda: wire.send(ticket))
            if await _ready(wire, lambda: wire.recv(1)) != _WELCOME:
                raise Refused("the ticket was not accepted")
        except BaseException:
            wire.close()
            raise
        return wire


async def welcome(
    plain: socket.socket, tls: ssl.SSLContext, admit: Callable[[ssl.SSLSocket, bytes], T]
) -> tuple[ssl.SSLSocket, T]:
    """The listener's side of an accepted, non-blocking connection: the wire, and what `admit` says of its ticket.

    Raises what `admit` raises, OSError, Refused, TimeoutError; then the connection is closed.
    """
    async with asyncio.timeout(PATIENCE_S):
        try:
            wire = tls.wrap_socket(_set_up(plain), server_side=True, do_handshake_on_connect=False)
        except BaseException:
            plain.close()
            raise
        try:
            await _ready(wire, wire.do_handshake)
            ticket = await _ready(wire, lambda: wire.recv(TICKET_BYTES))    # sent in one TLS record
            admitted = admit(wire, ticket)
            await _ready(wire, lambda: wire.send(_WELCOME))
        except BaseException:
            wire.close()
            raise
        return wire, admitted


def _set_up(plain: socket.socket) -> socket.socket:
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MS)
    return plain


async def _ready(wire: ssl.SSLSocket, step: Callable[[], T]) -> T:
    """Repeat `step`, which does not wait, until TLS needs nothing more for it."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return step()
        except ssl.SSLWantReadError:
            watch, forget = loop.add_reader, loop.remove_reader
        except ssl.SSLWantWriteError:
            watch, forget = loop.add_writer, loop.remove_writer
        possible = asyncio.Event()
        watch(wire.fileno(), possible.set)
        try:
            await possible.wait()
        finally:
            forget(wire.fileno())
