"""Those who wait for a container to end or to be removed. Pure but for the futures."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

__all__ = ["WaitResult", "Waiters", "resolved"]


@dataclass(frozen=True)
class WaitResult:
    """How a wait ended: the exit code, and an error of the engine when the container could not be started again."""

    exit_code: int
    error: str = ""


class Waiters:
    """Futures by what they wait for: "next-exit" (any end), "not-running" (an end for good), "removed"."""

    def __init__(self) -> None:
        self._by_condition: dict[str, set[asyncio.Future[WaitResult]]] = {}

    def add(self, condition: str) -> asyncio.Future[WaitResult]:
        """A future that the next such moment resolves."""
        future: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
        waiting = self._by_condition.setdefault(condition, set())
        waiting.add(future)
        future.add_done_callback(waiting.discard)
        return future

    def exited(self, result: WaitResult) -> None:
        """It ended, and its policy starts it again."""
        self._resolve(result, "next-exit")

    def stopped(self, result: WaitResult) -> None:
        """It ended, and stays so."""
        self._resolve(result, "next-exit", "not-running")

    def removed(self, result: WaitResult) -> None:
        """It is gone."""
        self._resolve(result, "next-exit", "not-running", "removed")

    def cancel(self) -> None:
        """Nobody will be told anything."""
        for waiting in self._by_condition.values():
            for future in list(waiting):
                future.cancel()

    def _resolve(self, result: WaitResult, *conditions: str) -> None:
        for condition in conditions:
            for future in list(self._by_condition.get(condition, ())):
                if not future.done():
                    future.set_result(result)


def resolved(result: WaitResult) -> asyncio.Future[WaitResult]:
    """A wait that is over already."""
    future: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future
