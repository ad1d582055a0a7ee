"""What only the leader does: the stages, alive exactly while this manager leads.

Each leadership gets new stages, which know nothing but the store. A stage that breaks is reported and made again, anew
from the store. A stage that returns, or raises NotLeader, has found that this manager does not lead any more: the news
of that is on its way, and if it was wrong, the stage is made again too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from swarmpy.manager.replicated_log import Leadership, NotLeader, ReplicatedLog

__all__ = ["LeaderStages", "Stage"]

log = logging.getLogger(__name__)

RESTART_FIRST_S, RESTART_LAST_S = 0.2, 10.0


class Stage(Protocol):
    async def run(self) -> None:
        """Work from the store alone, until cancelled."""


class LeaderStages:
    """Runs one stage of each maker in `stages` during each leadership of this manager."""

    def __init__(self, replicated_log: ReplicatedLog, stages: Mapping[str, Callable[[], Stage]]) -> None:
        self._stages = stages
        self._changed = asyncio.Event()
        self._term: int | None = None           # of the leadership to work in; None while another leads
        replicated_log.on_leadership(self._on_leadership)

    async def run(self) -> None:
        """Until cancelled; every stage has ended when this returns."""
        running: asyncio.Task[None] | None = None
        working_in: int | None = None
        try:
            while True:
                self._changed.clear()
                if working_in != self._term:
                    await _end(running)
                    working_in, running = self._term, None
                    if working_in is not None:
                        running = asyncio.create_task(self._lead(working_in))
                    continue                    # the term may have changed while the stages ended
                await self._changed.wait()
        finally:
            await _end(running)

    async def _lead(self, term: int) -> None:
        log.info("this manager leads", extra={"term": term})
        async with asyncio.TaskGroup() as group:
            for name, make in self._stages.items():
                group.create_task(self._keep(name, make))

    async def _keep(self, name: str, make: Callable[[], Stage]) -> None:
        pause_s = RESTART_FIRST_S
        while True:
            try:
                await make().run()
            except NotLeader:
                log.debug("stage %s found that this manager does not lead any more", name)
            except Exception:
                log.exception("stage %s broke; it starts again in %.1f s", name, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RESTART_LAST_S)

    def _on_leadership(self, leadership: Leadership) -> None:
        self._term = leadership.term if leadership.is_leader else None
        self._changed.set()


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait({task})
