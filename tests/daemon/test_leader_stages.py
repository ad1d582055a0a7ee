"""Stages live while this manager leads, and one that breaks does not take the others with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from swarmpy.manager.leader import LeaderStages
from swarmpy.manager.replicated_log import NotLeader
from swarmpy.manager.store import MemoryLog, Store
from tests.daemon.swarm import until


class Recorder:
    """Makes stages that note their life and do `work`."""

    def __init__(self, work: Callable[[int], Awaitable[None]]) -> None:
        self._work = work
        self.made = 0
        self.alive = 0

    def __call__(self) -> Recorder:
        self.made += 1
        return self

    async def run(self) -> None:
        self.alive += 1
        try:
            await self._work(self.made)
        finally:
            self.alive -= 1


async def for_ever(_: int) -> None:
    await asyncio.Event().wait()


async def breaks_once(life: int) -> None:
    if life == 1:
        raise RuntimeError("broken")
    await asyncio.Event().wait()


async def finds_no_lead_once(life: int) -> None:
    if life == 1:
        raise NotLeader(None)
    await asyncio.Event().wait()


def test_stages_live_as_long_as_the_lead() -> None:
    async def scenario() -> None:
        log, stage = MemoryLog(Store(lambda: 1)), Recorder(for_ever)
        log.lead(False)
        running = asyncio.create_task(LeaderStages(log, {"a": stage}).run())
        await asyncio.sleep(0)
        assert stage.made == 0
        for life in (1, 2):
            log.lead(True)
            await until(lambda: stage.alive == 1, "the stage runs")
            assert stage.made == life
            log.lead(False)
            await until(lambda: stage.alive == 0, "the stage ended")
        log.lead(True)
        await until(lambda: stage.alive == 1, "the stage runs")
        running.cancel()
        await asyncio.wait({running})
        assert stage.alive == 0

    asyncio.run(scenario())


def test_a_new_term_gets_new_stages_even_without_a_gap() -> None:
    async def scenario() -> None:
        log, stage = MemoryLog(Store(lambda: 1)), Recorder(for_ever)
        running = asyncio.create_task(LeaderStages(log, {"a": stage}).run())
        await until(lambda: stage.alive == 1, "the stage runs")
        log.lead(False)
        log.lead(True)
        await until(lambda: (stage.made, stage.alive) == (2, 1), "another stage runs")
        running.cancel()
        await asyncio.wait({running})

    asyncio.run(scenario())


def test_a_broken_stage_is_made_again_and_the_others_go_on() -> None:
    async def scenario() -> None:
        log = MemoryLog(Store(lambda: 1))
        whole, broken, misled = Recorder(for_ever), Recorder(breaks_once), Recorder(finds_no_lead_once)
        stages = LeaderStages(log, {"whole": whole, "broken": broken, "misled": misled})
        running = asyncio.create_task(stages.run())
        await until(lambda: (broken.made, broken.alive, misled.made, misled.alive) == (2, 1, 2, 1), "both run again")
        assert (whole.made, whole.alive) == (1, 1)
        running.cancel()
        await asyncio.wait({running})

    asyncio.run(scenario())
