"""One stage of a manager, alone over a real store with the log in memory, while somebody does one thing after the other
to them: others write, the stage crashes wherever it is, the lead is lost."""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable
from typing import TypeVar

from swarmpy.errors import Conflict
from swarmpy.manager.replicated_log import NotLeader
from swarmpy.manager.store import Event, MemoryLog, Store, StoreObject, Transaction

__all__ = ["Laws", "LoneStage", "run"]

QUIET_TURNS = 8                  # of the event loop without a log entry: then the stage waits


class Laws(ABC):
    """The state machine that the log drives: the store, looked at after each entry."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._watch = store.watch("nodes", "tasks")

    @abstractmethod
    def look(self, events: Iterable[Event]) -> None:
        """What an entry did to nodes and tasks must be within the laws."""

    def apply(self, index: int, data: bytes) -> object:
        result = self.store.apply(index, data)
        self.look(self._watch.take())
        return result

    def snapshot(self) -> Callable[[], bytes]:
        return self.store.snapshot()

    def load(self, index: int, data: bytes) -> Callable[[], None]:
        return self.store.load(index, data)


class LoneStage(ABC):
    """The store, the stage, and what happens to them."""

    def __init__(self, laws: Callable[[Store], Laws]) -> None:
        self.ticks = itertools.count(1)
        self.store = Store(lambda: next(self.ticks))
        self.laws = laws(self.store)
        self.log = MemoryLog(self.laws)
        self.store.bind(self.log)
        self.ids = (f"id{number:04}" for number in itertools.count())
        self._writes: set[asyncio.Task[None]] = set()
        self._stage = asyncio.create_task(self.stage())

    @abstractmethod
    def stage(self) -> Coroutine[object, object, None]:
        """A new one, which knows the store alone."""

    @abstractmethod
    def at_rest(self) -> None:
        """The stage has nothing to do; what waits then has a reason."""

    async def stop(self) -> None:
        self._stage.cancel()
        results = await asyncio.gather(self._stage, *self._writes, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    # ------------------------------------------------------------------------------------------ time

    async def turn(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        if self._stage.done():
            self._stage.result()
            raise AssertionError("the stage ended")

    async def rest(self) -> None:
        """Until the stage has nothing to do."""
        while True:
            before = len(self.log.entries)
            await self.turn(QUIET_TURNS)
            if len(self.log.entries) == before and not self._writes:
                break
        self.at_rest()

    async def crash(self) -> None:
        """The stage ends wherever it is, and another begins."""
        self._stage.cancel()
        await asyncio.gather(self._stage, return_exceptions=True)
        self._stage = asyncio.create_task(self.stage())

    async def another_leads(self) -> None:
        """The lead goes away under whatever is on its way to the log."""
        self.log.lead(False)
        await asyncio.sleep(0)
        self.log.lead(True)
        await self.crash()

    # ------------------------------------------------------------------------------------------ others write

    def put(self, *rows: StoreObject) -> None:
        transaction = Transaction()
        transaction.put(*rows)
        self._write(transaction)

    def remove(self, row: StoreObject | None) -> None:
        if row is not None:
            transaction = Transaction()
            transaction.remove(row)
            self._write(transaction)

    def _write(self, transaction: Transaction) -> None:
        """Nobody waits for the stage; it or they are refused when both touch an object."""

        async def commit() -> None:
            try:
                await self.store.commit(transaction)
            except (Conflict, NotLeader):
                pass                                          # somebody else was faster, or nobody leads

        task = asyncio.create_task(commit())
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)


S = TypeVar("S", bound=LoneStage)


def run(make: Callable[[], S], story: Callable[[S], Coroutine[object, object, None]]) -> None:
    async def whole() -> None:
        swarm = make()
        try:
            await story(swarm)
        finally:
            await swarm.stop()

    asyncio.run(whole())
