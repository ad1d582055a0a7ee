"""A way between two ends of TCP that carries what a test lets through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

__all__ = ["way_to"]

PIECE_BYTES = 65536


@asynccontextmanager
async def way_to(addr: str, before_each: Callable[[], Awaitable[object]]) -> AsyncIterator[str]:
    """An address that leads to `addr`. Each piece from either side waits for `before_each`; its kernel has taken it."""

    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(PIECE_BYTES):
            await before_each()
            target.write(data)
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = addr.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        with suppress(OSError):
            await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
