"""The thread that makes Readys durable, in order, off the event loop.

Whatever has queued while one transaction was being synced goes into the next together: group commit, with no timer.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable

from swarmpy.manager.raft.storage import Identity, Storage, Write

__all__ = ["Disk"]

_Job = tuple[int, Write | Identity | None]    # number of the Ready, and what it wants written


class Disk:
    """Owns a Storage from here on. `written(number)`, and `failed(error)` once, are called on the loop's thread."""

    def __init__(
        self,
        storage: Storage,
        loop: asyncio.AbstractEventLoop,
        written: Callable[[int], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._storage = storage
        self._loop = loop
        self._written = written
        self._failed = failed
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="raft-disk")
        self._thread.start()

    def submit(self, number: int, write: Write | Identity | None) -> None:
        """Write, after all that was submitted before; None only keeps its place in that order."""
        self._jobs.put((number, write))

    async def close(self) -> None:
        """Finish what was submitted and close the file."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            while (jobs := self._take()) is not None:
                self._carry_out(jobs)
                self._loop.call_soon_threadsafe(self._written, jobs[-1][0])
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing more may be promised; the loop is told
            self._loop.call_soon_threadsafe(self._failed, error)
        finally:
            self._storage.close()

    def _take(self) -> list[_Job] | None:
        """Everything queued, at least one job; None when closing and all is done."""
        first = self._jobs.get()
        if first is None:
            return None
        jobs = [first]
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is None:
                self._jobs.put(None)
                break
            jobs.append(job)
        return jobs

    def _carry_out(self, jobs: list[_Job]) -> None:
        for _, job in jobs:
            if isinstance(job, Identity):
                self._storage.set_identity(job)
        writes = [job for _, job in jobs if isinstance(job, Write)]
        if writes:
            self._storage.write(writes)
