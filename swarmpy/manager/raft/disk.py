"""Making Readys durable, in order: at once where that is quick, in a thread beside where it is not.

A small write on a quick disk takes less than handing it to another thread and back, so the member's own thread makes it
and waits. A snapshot, or a disk that has just been slow, would keep that thread from its heartbeats: such writes go to
one of their own, and what queues there while one transaction is synced becomes the next: group commit, with no timer.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence

from swarmpy.manager.raft.messages import Snapshot
from swarmpy.manager.raft.seal import Keys
from swarmpy.manager.raft.storage import Identity, Storage, Write

__all__ = ["Disk", "DiskFailure"]

_SMALL_BYTES = 256 << 10
_QUICK_S = 0.05          # half a tick: a heartbeat that is this late disturbs nobody
_WARY_WRITES = 100       # after a slow write, so many go to the thread before one is made at once again

_Job = tuple[int, Write | Identity | Keys]    # number of the Ready, and what it wants written


class DiskFailure(Exception):
    """A write failed; what it would have made durable is in doubt, and so is everything after."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"the raft log of this manager cannot be written: {cause}")


class Disk:
    """Owns a Storage from here on. Used by one thread, the member's."""

    def __init__(self, storage: Storage, progress: Callable[[], None], clock: Callable[[], float]) -> None:
        """`progress` is called on another thread when `durable` may have moved. `clock` counts seconds."""
        self._storage = storage
        self._progress = progress
        self._clock = clock
        self._durable = 0
        self._under_way = 0                                 # jobs the thread has and has not reported
        self._wary = 0                                      # writes to come that go to the thread
        self._results: deque[int | Exception] = deque()     # of the thread: number of each Ready, or what went wrong
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.keys_taken = 0                                 # how many times, on the disk
        self._thread = threading.Thread(target=self._run, name="raft-disk")
        self._thread.start()

    def submit(self, number: int, job: Write | Identity | Keys) -> None:
        """Write what Ready `number` wants, after all that was submitted before. Raises DiskFailure."""
        if self._under_way or self._wary or not _is_small(job):
            self._wary = max(0, self._wary - 1)
            self._under_way += 1
            self._jobs.put((number, job))
        else:
            self._write_at_once(number, job)

    def prepare(self, snapshot: Snapshot) -> None:
        """See Storage.prepare. On a thread of the caller's, who submits it afterwards."""
        self._storage.prepare(snapshot)

    def durable(self) -> int:
        """Number of the last Ready submitted of which, and of all before it, it is known. Raises DiskFailure."""
        while self._results:
            result = self._results.popleft()
            if isinstance(result, Exception):
                raise DiskFailure(result) from result
            self._under_way -= 1
            self._durable = max(self._durable, result)
        return self._durable

    def close(self) -> None:
        """Finish what was submitted and close the file. Blocks."""
        self._jobs.put(None)
        self._thread.join()
        self._storage.close()

    def _write_at_once(self, number: int, job: Write | Identity | Keys) -> None:
        began = self._clock()
        try:
            if isinstance(job, Write):
                self._storage.write((job,))
            else:
                self._carry_out(((number, job),))
        except Exception as error:
            raise DiskFailure(error) from error
        self._durable = max(self._durable, number)
        if self._clock() - began > _QUICK_S:
            self._wary = _WARY_WRITES

    def _run(self) -> None:
        try:
            while (jobs := self._take()) is not None:
                self._carry_out(jobs)
                self._results.extend(number for number, _ in jobs)
                self._progress()
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing more may be promised; `durable` raises it
            self._results.append(error)
            self._progress()

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

    def _carry_out(self, jobs: Sequence[_Job]) -> None:
        for _, job in jobs:
            if isinstance(job, Identity):
                self._storage.set_identity(job)
            elif isinstance(job, Keys):
                self._storage.take_keys(job)
                self.keys_taken += 1
        writes = [job for _, job in jobs if isinstance(job, Write)]
        if writes:
            self._storage.write(writes)


def _is_small(job: Write | Identity | Keys) -> bool:
    if isinstance(job, Write):
        return job.snapshot is None and len(job.encoded) <= _SMALL_BYTES
    return isinstance(job, Identity)
