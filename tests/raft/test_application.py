"""Snapshots that take their time: nobody waits for one that is written, everybody for one that is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from swarmpy.errors import Internal
from swarmpy.manager.raft.application import Application
from swarmpy.manager.raft.messages import Entry, EntryKind, Snapshot
from tests.raft.cluster import PATIENCE_S, Gate


class Sum:
    """A state machine that adds up. Writing and reading its snapshots waits at the gate."""

    def __init__(self) -> None:
        self.total = 0
        self.gate = Gate()
        self.loads: list[int] = []

    def apply(self, index: int, data: bytes) -> object:
        self.total += int(data)
        return self.total

    def snapshot(self) -> Callable[[], bytes]:
        total = self.total

        def write() -> bytes:
            self.gate()
            return b"%d" % total

        return write

    def load(self, index: int, data: bytes) -> Callable[[], None]:
        self.gate()
        if not data:
            raise Internal("the snapshot is damaged")

        def replace() -> None:
            self.loads.append(index)
            self.total = int(data)

        return replace


class Stage:
    """An Application and everything it said."""

    def __init__(self) -> None:
        self.machine = Sum()
        self.moved = asyncio.Event()
        self.failures: list[Exception] = []
        self.application = Application(self.machine, self.moved.set, self.failures.append)
        self._proposers: list[asyncio.Future[int]] = []
        self.snapshots: list[bytes] = []

    def apply(self, *numbers: int) -> None:
        """As entries numbered by their place in the log."""
        entries = [
            Entry(index, 1, EntryKind.NORMAL, b"%d" % number) for index, number in enumerate(numbers, self.last + 1)
        ]
        proposers = {entry.index: asyncio.get_running_loop().create_future() for entry in entries}
        self._proposers += proposers.values()
        self.application.apply(entries, proposers)
        self.last += len(numbers)

    @property
    def answers(self) -> list[int]:
        return [proposer.result() for proposer in self._proposers if proposer.done()]

    last = 0

    def snapshot(self) -> None:
        self.application.snapshot_if_due(1, self.taken)

    async def taken(self, data: bytes) -> None:
        self.snapshots.append(data)

    def barrier(self, index: int) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.application.wait([(index, [future])])
        return future

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.001)


def on_stage(story: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        stage = Stage()
        await story(stage)
        await stage.application.close()

    asyncio.run(whole())


def test_entries_go_on_while_a_snapshot_is_written_and_are_not_in_it() -> None:
    async def story(stage: Stage) -> None:
        stage.apply(1, 2)
        stage.snapshot()
        await stage.machine.gate.reached()
        stage.apply(3)
        assert stage.answers == [1, 3, 6] and stage.barrier(3).done()
        stage.snapshot()                 # one at a time
        stage.machine.gate.open()
        await stage.until(lambda: stage.snapshots)
        stage.snapshot()
        await stage.until(lambda: len(stage.snapshots) == 2)
        stage.snapshot()                 # nothing is new
        await asyncio.sleep(0)
        assert stage.snapshots == [b"3", b"6"] and not stage.failures

    on_stage(story)


def test_what_comes_while_a_snapshot_is_read_waits_in_order() -> None:
    async def story(stage: Stage) -> None:
        application = stage.application
        stage.apply(1)
        application.restore(Snapshot(10, 2, b"", b"100"))
        await stage.machine.gate.reached()
        stage.last = 10
        stage.apply(1, 2)
        barrier = stage.barrier(12)
        application.restore(Snapshot(20, 2, b"", b"200"))
        stage.last = 20
        stage.apply(5)
        stage.snapshot()
        assert (stage.machine.total, application.applied, stage.answers) == (1, 1, [1])
        assert not barrier.done() and application.waiting()[0] is barrier
        assert len(application.waiting()) == 4, "and who proposed what waits"
        stage.machine.gate.open()
        await stage.until(lambda: application.applied == 21)
        assert stage.answers == [1, 101, 103, 205] and not application.waiting() and stage.machine.loads == [10, 20]
        assert barrier.done() and stage.moved.is_set() and not stage.snapshots

    on_stage(story)


def test_a_snapshot_that_cannot_be_read_is_told() -> None:
    async def story(stage: Stage) -> None:
        stage.machine.gate.open()
        stage.application.restore(Snapshot(10, 2, b"", b""))
        await stage.until(lambda: stage.failures)
        assert isinstance(stage.failures[0], Internal)

    on_stage(story)


@pytest.mark.parametrize("work", ["write", "read"])
def test_closing_gives_up_what_is_under_way(work: str) -> None:
    async def story(stage: Stage) -> None:
        stage.apply(1)
        if work == "write":
            stage.snapshot()
        else:
            stage.application.restore(Snapshot(10, 2, b"", b"100"))
        await stage.machine.gate.reached()
        await stage.application.close()
        stage.machine.gate.open()
        assert not stage.snapshots and not stage.machine.loads and not stage.failures

    on_stage(story)


def test_the_term_begins_with_its_first_entry_here() -> None:
    async def story(stage: Stage) -> None:
        stage.application.apply([Entry(1, 4, EntryKind.NOOP, b"")], {})
        assert stage.application.term == 4

    on_stage(story)
