"""The state machine's side of one member, on the event loop: applies in order, answers, takes snapshots and loads them.

Owns    how far this member's state has come, and who waits for it to come further.
Laws    A large state is written to a snapshot, and read from one, on another thread. While one is read nothing else is
        done to the state machine: entries and barriers that come meanwhile wait in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from swarmpy.manager.raft.messages import Entry, EntryKind, Snapshot
from swarmpy.manager.replicated_log import StateMachine

__all__ = ["Application", "answer"]

_Barriers = list[asyncio.Future[None]]


class _Entries(NamedTuple):
    committed: Sequence[Entry]
    proposers: Mapping[int, asyncio.Future[Any]]    # by index


class Application:
    """`moved` is called when the state went on by itself, `failed` when it cannot."""

    def __init__(self, machine: StateMachine, moved: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        self._machine = machine
        self._moved = moved
        self._failed = failed
        self._later: deque[Snapshot | _Entries] = deque()         # waits until the present snapshot is loaded
        self._loading: asyncio.Task[None] | None = None
        self._taking: asyncio.Task[None] | None = None
        self._barriers: deque[tuple[int, _Barriers]] = deque()    # wait until an index is applied
        self._snapshot_index = 0                                  # of the latest taken or loaded
        self.applied = 0                                          # read on other threads, too
        self.term = 0                                             # of the last entry applied

    def begin(self, snapshot: Snapshot, replace: Callable[[], None]) -> None:
        """Start from this member's own snapshot, which `StateMachine.load` has read."""
        replace()
        self._is_at(snapshot)

    def restore(self, snapshot: Snapshot) -> None:
        """Take over another member's state."""
        self._later.append(snapshot)
        self._go_on()

    def apply(self, committed: Sequence[Entry], proposers: Mapping[int, asyncio.Future[Any]]) -> None:
        """Apply entries in order, and give what comes of each to who proposed it, by index."""
        if committed:
            self._later.append(_Entries(committed, proposers))
            self._go_on()

    def wait(self, barriers: Iterable[tuple[int, _Barriers]]) -> None:
        """Let barriers pass once their index is applied."""
        self._barriers += barriers
        self._pass()

    def snapshot_if_due(self, interval: int, taken: Callable[[bytes], Awaitable[None]]) -> None:
        """Give `taken` the state as of now, a while later, if that is `interval` entries after the last snapshot.

        One at a time, until `taken` is done with it.
        """
        if self._taking is None and self._loading is None and self.applied - self._snapshot_index >= interval:
            self._snapshot_index = self.applied
            self._taking = self._begin(self._take(self._machine.snapshot(), taken))

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = [task for task in (self._loading, self._taking) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def waiting(self) -> list[asyncio.Future[Any]]:
        """Who has not been answered: barriers, and proposers of entries that wait for a snapshot."""
        return [
            *(barrier for _, barriers in self._barriers for barrier in barriers),
            *(proposer for work in self._later if isinstance(work, _Entries) for proposer in work.proposers.values()),
        ]

    # In order.

    def _go_on(self) -> None:
        while self._later and self._loading is None:
            work = self._later[0]
            if isinstance(work, Snapshot):
                self._loading = self._begin(self._load(work))
            else:
                self._apply(work)
            self._later.popleft()

    def _apply(self, entries: _Entries) -> None:
        for entry in entries.committed:
            result: object = None
            if entry.kind is EntryKind.NORMAL:
                result = self._machine.apply(entry.index, entry.data)
            self.applied, self.term = entry.index, entry.term
            if entry.index in entries.proposers:
                answer(entries.proposers[entry.index], result)
        self._pass()

    def _is_at(self, snapshot: Snapshot) -> None:
        self.applied = self._snapshot_index = snapshot.index
        self.term = snapshot.term

    def _pass(self) -> None:
        while self._barriers and self._barriers[0][0] <= self.applied:
            for barrier in self._barriers.popleft()[1]:
                answer(barrier, None)

    # Beside the event loop.

    async def _load(self, snapshot: Snapshot) -> None:
        replace = await asyncio.to_thread(self._machine.load, snapshot.index, snapshot.data)
        replace()
        self._is_at(snapshot)
        self._loading = None
        self._pass()
        self._go_on()
        self._moved()

    async def _take(self, write: Callable[[], bytes], taken: Callable[[bytes], Awaitable[None]]) -> None:
        await taken(await asyncio.to_thread(write))
        self._taking = None

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._failed(error)


def answer(asker: asyncio.Future[Any], result: object) -> None:
    """Give `result`, or raise it where it is an exception, to an asker that still waits."""
    if asker.done():
        return
    if isinstance(result, Exception):
        asker.set_exception(result)
    else:
        asker.set_result(result)
