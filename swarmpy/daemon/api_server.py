"""Where the Engine API listens: unix sockets for the host's own users, TCP for who holds a client certificate."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
from pathlib import Path

from aiohttp import web

from swarmpy.daemon.config import Config
from swarmpy.daemon.descriptors import API_PLACES, TCP_PLACES, places
from swarmpy.daemon.tls_front import AT_ONCE, QUEUE, TlsFront, server_context
from swarmpy.errors import Conflict, InvalidArgument

__all__ = ["ApiServer"]

log = logging.getLogger(__name__)

SHUTDOWN_S = 2.0                    # for requests under way; streams are cut
SOCKET_MODE = 0o660                 # whoever may write to it is root on this host
SO_SNDBUFFORCE = 32                 # asm-generic/socket.h
USUAL_BYTES = 64 << 10              # fit in any socket's buffer
MOST_BYTES = 16 << 20               # of one answer in the kernel; what is longer leaves in parts


class ApiServer:
    """Serves one application on every address of the command line."""

    def __init__(self, app: web.Application, config: Config) -> None:
        self._config = config
        app.on_response_prepare.append(_make_room)
        self._runner = web.AppRunner(
            app, handle_signals=False, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S
        )
        self._sockets: list[Path] = []
        self._servers: list[asyncio.Server] = []
        self._is_crowded = False
        self._fronts: list[TlsFront] = []

    async def start(self) -> None:
        """Listen. Raises Conflict when an address is in use, InvalidArgument when it cannot be one."""
        await self._runner.setup()
        for host in self._config.hosts:
            if host.startswith("unix://"):
                await self._listen_unix(Path(host.removeprefix("unix://")))
            else:
                await self._listen_tcp(host)

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for front in self._fronts:
            front.stop_listening()
        await self._runner.cleanup()
        for front in self._fronts:
            await front.close()
        for path in self._sockets:
            path.unlink(missing_ok=True)

    async def _listen_unix(self, path: Path) -> None:
        """Bind under another name and rename, so that the socket never exists with wider rights than it keeps."""
        await asyncio.to_thread(_clear_stale, path)
        fresh = path.with_name(path.name + ".new")
        fresh.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(fresh))
            fresh.chmod(SOCKET_MODE)
        except OSError as failure:
            listener.close()
            raise InvalidArgument(f"--host unix://{path}: cannot listen there: {failure.strerror}") from failure
        loop, most = asyncio.get_running_loop(), places(*API_PLACES)
        self._servers.append(await loop.create_server(lambda: self._protocol(most), sock=listener, backlog=AT_ONCE))
        listener.listen(QUEUE)          # connect(2) fails at once (EAGAIN) where a unix socket's queue is full
        fresh.rename(path)
        self._sockets.append(path)

    async def _listen_tcp(self, host: str) -> None:
        address, _, port = host.removeprefix("tcp://").rpartition(":")
        if not port.isdigit():
            raise InvalidArgument(f"--host {host}: must be tcp://ip:port")
        most = places(*TCP_PLACES)
        front = TlsFront(self._tls(), lambda: self._protocol(most))
        self._fronts.append(front)
        try:
            await front.listen(address.strip("[]"), int(port))
        except OSError as failure:
            raise Conflict(f"--host {host}: cannot listen there: {failure.strerror}") from failure

    def _protocol(self, most: int) -> asyncio.Protocol:
        """For one more connection, if there are fewer than `most`."""
        server = self._runner.server
        assert server is not None
        crowded = len(server.connections) >= most
        if crowded and not self._is_crowded:
            log.warning("the API has %d connections; more are refused until some are closed", most)
        self._is_crowded = crowded
        return _Crowded() if crowded else server()

    def _tls(self) -> ssl.SSLContext:
        config = self._config
        assert config.tls_ca and config.tls_cert and config.tls_key     # checked with the command line
        try:
            return server_context(config.tls_ca, config.tls_cert, config.tls_key)
        except OSError as failure:
            raise InvalidArgument(f"--tlscacert, --tlscert, --tlskey: cannot be used: {failure}") from failure


async def _make_room(request: web.Request, response: web.StreamResponse) -> None:
    """Let a long answer leave at once. A unix socket takes some 200 kB; the rest would wait for turns of a busy loop.

    Source  socket(7): SO_SNDBUF, which the kernel doubles for its bookkeeping.
    """
    size = response.content_length or 0
    peer = request.transport.get_extra_info("socket") if request.transport is not None else None
    if size > USUAL_BYTES and peer is not None and peer.family == socket.AF_UNIX:
        peer.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, min(size, MOST_BYTES))


class _Crowded(asyncio.Protocol):
    """Answers one connection that there is no place for it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        body = json.dumps({"message": "the daemon has too many connections to its API: close some, and try again"})
        head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        transport.write(f"HTTP/1.1 503 Service Unavailable\r\n{head}\r\n{body}".encode())
        transport.close()


def _clear_stale(path: Path) -> None:
    """Remove a socket that nobody serves any more. Raises Conflict when somebody does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return
        except OSError as failure:
            raise InvalidArgument(f"--host unix://{path}: cannot listen there: {failure.strerror}") from failure
    raise Conflict(f"--host unix://{path}: another daemon listens there")
