"""The shim's event loop: descriptors, timers, nothing else. asyncio costs three times the memory of a whole shim."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

__all__ = ["READ", "WRITE", "Loop"]

READ = select.EPOLLIN
WRITE = select.EPOLLOUT


class Loop:
    """epoll(7), level triggered. A descriptor has one callback, which gets the events."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], object]] = {}
        self._timers: list[tuple[float, Callable[[], object]]] = []
        self.running = True

    def watch(self, descriptor: int, events: int, callback: Callable[[int], object]) -> None:
        self._callbacks[descriptor] = callback
        self._epoll.register(descriptor, events)

    def watches(self, descriptor: int) -> bool:
        return descriptor in self._callbacks

    def change(self, descriptor: int, events: int) -> None:
        self._epoll.modify(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """Before the descriptor is closed. Fine when it is not watched."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def after(self, delay_s: float, callback: Callable[[], object]) -> None:
        self._timers.append((time.monotonic() + delay_s, callback))

    def run(self) -> None:
        """Until `running` is false."""
        while self.running:
            self.turn()

    def turn(self) -> None:
        """Wait for events, once, and handle them."""
        for descriptor, events in self._epoll.poll(self._timeout()):
            callback = self._callbacks.get(descriptor)  # an earlier callback of this round may have removed it
            if callback is not None:
                callback(events)
        self._run_timers()

    def close(self) -> None:
        self._epoll.close()

    def _timeout(self) -> float | None:
        if not self._timers:
            return None
        return max(0.0, min(due for due, _ in self._timers) - time.monotonic())

    def _run_timers(self) -> None:
        if not self._timers:
            return
        now = time.monotonic()
        due = [callback for when, callback in self._timers if when <= now]
        self._timers = [(when, callback) for when, callback in self._timers if when > now]
        for callback in due:
            callback()
