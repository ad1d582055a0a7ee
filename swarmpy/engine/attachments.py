"""Those who are connected to a container's standard streams, or will be once it starts.

Owns    the order of `docker run`: the client attaches before it starts the container, and must miss no output. Who
        attaches to a container that does not run waits; `connect` serves all of them after the container exists and
        before its process runs.
"""

from __future__ import annotations

import asyncio

from swarmpy.runtime import Container, RuntimeFailure, Streams

__all__ = ["Attachments"]


class Attachments:
    """The waiting ones of one container."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[Streams | None]] = []

    def wait(self) -> asyncio.Future[Streams | None]:
        """Streams of the next start; None when it fails or the container is removed."""
        future: asyncio.Future[Streams | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    async def connect(self, handle: Container) -> None:
        """Give everyone who waits their streams. `handle`'s process must not run yet."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if future.cancelled():
                continue
            streams: Streams | None
            try:
                streams = await handle.attach(patient=True)  # `docker run … | less` shows all, whenever it is read
            except RuntimeFailure:
                streams = None
            if not future.cancelled():
                future.set_result(streams)
            elif streams is not None:
                await streams.close()

    def abandon(self) -> None:
        """There will be no streams."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
