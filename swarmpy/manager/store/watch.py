"""Watches: what changed, in order, to whoever wants to know.

Owns    the pending events of each watcher and the recent past that a watch may resume from.
In      the events of one applied transaction at a time, from the store.
Out     tuples of events. Events and objects are shared by all watchers; a slow watcher costs at most one event
        for each object, because a later change is then folded into the one that it has not yet seen.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from swarmpy.errors import Unavailable
from swarmpy.manager.store.tables import StoreObject

__all__ = ["Event", "EventKind", "History", "ResumeExpired", "Sleep", "Watch", "fold", "in_turns"]

T = TypeVar("T")

Sleep = Callable[[float], Coroutine[Any, Any, None]]     # seconds; asyncio.sleep, or a simulation's

_FOLD_AT = 4096      # pending events above which a watcher's backlog is folded
_HISTORY = 16384     # events that a watch can resume over
_A_TURN = 64         # events that are looked at before others have a turn: about a millisecond of work


class EventKind(Enum):
    CREATE = "create"
    UPDATE = "update"
    REMOVE = "remove"


class ResumeExpired(Unavailable):
    """The index to resume from is too far in the past: read everything again, then watch from now on."""


@dataclass(slots=True)                      # not frozen: it is made so often that the time counts
class Event:
    """One change to one object, itself never changed.

    `id` is the object's: reading it from the message makes a new string each time, and every watcher needs it.
    `object` is the new object, or after REMOVE the last one; `old` is None on CREATE.
    """

    kind: EventKind
    table: str
    id: str
    object: StoreObject
    old: StoreObject | None
    index: int


class Watch:
    """An endless async iterator over tuples of events, each object at most once in a tuple.

    It begins with what is applied after its creation, so reading the store right after making a watch misses nothing.
    Close it, or leave it to `with`, when it is no longer wanted.
    """

    def __init__(self, tables: frozenset[str], watchers: set[Watch], backlog: Iterable[Event] = ()) -> None:
        self.tables = tables
        self._watchers = watchers
        self._pending: list[Event] = [event for event in backlog if event.table in tables]
        self._fold_at = _FOLD_AT
        self._ready = asyncio.Event()
        self._closed = False
        if self._pending:
            self._ready.set()
        watchers.add(self)

    def deliver(self, events: list[Event], tables: frozenset[str]) -> None:
        """For the store: note the events of one transaction, which touched `tables`."""
        if tables <= self.tables:
            self._pending += events
        elif tables & self.tables:
            self._pending += [event for event in events if event.table in self.tables]
        else:
            return
        if len(self._pending) > self._fold_at:
            self._pending = list(fold(self._pending))
            self._fold_at = max(_FOLD_AT, 2 * len(self._pending))
        self._ready.set()

    def take(self) -> tuple[Event, ...]:
        """All that happened since the last look, without waiting; empty when nothing did."""
        events, self._pending = self._pending, []
        self._fold_at = _FOLD_AT
        self._ready.clear()
        return fold(events)

    def __aiter__(self) -> AsyncIterator[tuple[Event, ...]]:
        return self

    async def __anext__(self) -> tuple[Event, ...]:
        while not self._closed:
            await self._ready.wait()
            if events := self.take():
                return events
        raise StopAsyncIteration

    async def wait(self, seconds: float | None, sleep: Sleep) -> tuple[Event, ...]:
        """The next events; or none of them, once `sleep(seconds)` is over. None waits for events however long."""
        if seconds is None:
            await self._ready.wait()
            return self.take()
        if not self._pending:
            timer = asyncio.ensure_future(sleep(seconds))
            timer.add_done_callback(lambda _: self._ready.set())
            try:
                await self._ready.wait()
            finally:
                timer.cancel()
                await asyncio.gather(timer, return_exceptions=True)
        return self.take()

    def close(self) -> None:
        """Want no more events. Whoever waits for one is told that there will be none."""
        self._closed = True
        self._watchers.discard(self)
        self._ready.set()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class History:
    """The last events, for watches that resume."""

    def __init__(self, index: int) -> None:
        self._since = index
        self._events: deque[Event] = deque()

    def add(self, events: list[Event]) -> None:
        self._events.extend(events)
        while len(self._events) > _HISTORY:
            self._since = self._events.popleft().index

    def forget(self, index: int) -> None:
        """Nothing before or at `index` can be told any more."""
        self._since = index
        self._events.clear()

    def after(self, index: int) -> list[Event]:
        """Every event after `index`. Raises ResumeExpired when some are no longer known."""
        if index < self._since:
            raise ResumeExpired(f"changes since index {index} are no longer kept (the oldest kept is {self._since})")
        return [event for event in self._events if event.index > index]


async def in_turns(items: Sequence[T], at_once: int = _A_TURN) -> AsyncIterator[Sequence[T]]:
    """The same events or rows, a few at a time: between two parts all that is ready on the event loop has a turn."""
    for start in range(0, len(items), at_once):
        if start:
            await asyncio.sleep(0)
        yield items[start : start + at_once]


def fold(events: Iterable[Event]) -> tuple[Event, ...]:
    """One event for each object, telling of the whole way from first to last. What came and went is left out."""
    last: dict[tuple[str, str], Event] = {}
    for event in events:
        key = (event.table, event.id)
        earlier = last.setdefault(key, event)
        if earlier is not event:
            together = _together(earlier, event)
            if together is None:
                del last[key]
            else:
                last[key] = together
    return tuple(last.values())


def _together(first: Event, second: Event) -> Event | None:
    existed, exists = first.kind is not EventKind.CREATE, second.kind is not EventKind.REMOVE
    if not existed and not exists:
        return None
    if not existed:
        return Event(EventKind.CREATE, first.table, first.id, second.object, None, second.index)
    kind = EventKind.UPDATE if exists else EventKind.REMOVE
    return Event(kind, first.table, first.id, second.object, first.old, second.index)
