"""The files of containers that are removed, cleared away one container after the other.

A file system may take milliseconds for each file that it gives up (ext4 waits for discards, where they are asked for).
Whoever removes a container does not wait for that, nor do those that need a thread to start one.
"""

from __future__ import annotations

import asyncio
import logging

from swarmpy.engine.record import RecordStore

__all__ = ["Clearing"]

log = logging.getLogger(__name__)


class Clearing:
    """Removals under way. What is not cleared when the daemon is killed, the next one clears as it loads."""

    def __init__(self, records: RecordStore) -> None:
        self._records = records
        self._waiting: list[str] = []
        self._work: asyncio.Task[None] | None = None

    def begin(self, container_id: str) -> None:
        """The files of a container that was forgotten will be gone."""
        self._waiting.append(container_id)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._clear(), name="clearing of removed containers")

    async def over(self) -> None:
        """Nothing is under way that had begun."""
        if self._work is not None:
            await asyncio.wait([self._work])

    async def _clear(self) -> None:
        while self._waiting:
            container_id = self._waiting.pop(0)
            try:
                await asyncio.to_thread(self._records.remove, container_id)
            except OSError as error:
                log.error("files of container %s, which is removed, are left: %s", container_id, error)
