"""The API's own sockets."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from pathlib import Path

from aiohttp import web

from swarmpy.daemon.api_server import ApiServer
from swarmpy.daemon.config import parse_arguments
from tests.daemon.swarm import until

LONG = 2_000_000                # bytes: what 2,000 tasks take


def waiting_bytes(client: socket.socket) -> int:
    """What has come and was not read. unix(7): FIONREAD."""
    count: int = struct.unpack("i", fcntl.ioctl(client, termios.FIONREAD, bytes(4)))[0]
    return count


def test_a_long_answer_leaves_at_once(tmp_path: Path) -> None:
    """All of it is at the client before the client reads anything, so it waits for no further turn of the loop."""

    async def long_list(_: web.Request) -> web.Response:
        return web.Response(body=bytes(LONG))

    async def scenario() -> None:
        app = web.Application()
        app.router.add_get("/", long_list)
        path = tmp_path / "api.sock"
        api = ApiServer(app, parse_arguments(["--data-root", str(tmp_path), "--host", f"unix://{path}"]))
        await api.start()
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await until(lambda: waiting_bytes(client) >= LONG, "the whole answer", 10.0)
        finally:
            await api.close()

    asyncio.run(scenario())
