"""Flights: work that several callers want at the same time is done once.

Owns    one task for each key under way. It is cancelled when the last caller who waits for it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from swarmpy.image.progress import Listener, Progress

__all__ = ["Flights"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Future[T]
    listeners: list[Listener] = field(default_factory=list)


class Flights(Generic[K, T]):
    """Used on one event loop."""

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[T]] = {}

    async def join(self, key: K, start: Callable[[Listener], Awaitable[T]], listener: Listener) -> T:
        """The result of the work for `key`: of what is under way, or of `start`, which tells its progress to all.

        When work that another caller began fails, this caller tries with its own `start`: its credentials and source
        may be better.
        """
        while True:
            flight = self._flights.get(key)
            mine = flight is None
            if flight is None:
                flight = self._begin(key, start)
            flight.listeners.append(listener)
            try:
                return await asyncio.shield(flight.task)
            except asyncio.CancelledError:
                if flight.task.cancelled():
                    if mine:
                        raise
                    continue
                if len(flight.listeners) == 1:
                    flight.task.cancel()
                    await asyncio.wait([flight.task])
                raise
            except Exception:
                if mine:
                    raise
            finally:
                flight.listeners.remove(listener)

    def _begin(self, key: K, start: Callable[[Listener], Awaitable[T]]) -> _Flight[T]:
        def tell(progress: Progress) -> None:
            for listener in list(flight.listeners):
                listener(progress)

        async def fly() -> T:
            try:
                return await start(tell)
            finally:
                del self._flights[key]

        flight: _Flight[T] = _Flight(asyncio.ensure_future(fly()))
        self._flights[key] = flight
        return flight
