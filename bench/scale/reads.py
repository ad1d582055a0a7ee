"""What users look at while a swarm works: lists, one after the other, and how long each takes.

A read ends with the last byte of its answer. The answers also tell how far the swarm is, so nothing else is asked. What
is wanted of them is looked for as text: decoding all these megabytes took an eighth of two cores from what is measured.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.scale.swarm import Api

__all__ = ["KINDS", "Reads", "percentile"]

KINDS = ("service ls", "service ps", "node ls")
PAUSE_S = 0.2                    # between two reads of a kind
RUNNING_TASKS = re.compile(rb'"RunningTasks": ?(\d+)')         # once for each service
NODE_STATE = re.compile(rb'"State": ?"(\w+)"')                 # once for each node


@dataclass
class Reads:
    """Runs while the phases do. `seconds` holds the reads since the last `take`, by kind."""

    api: Api
    seconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    running: int = 0             # tasks that `service ls` counts
    down: int = 0                # nodes that `node ls` shows as down
    service_name: str = ""       # whose tasks are looked at; none before there is a service

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat(self._service_ls))
            group.create_task(self._repeat(self._service_ps))
            group.create_task(self._repeat(self._node_ls))

    def take(self) -> dict[str, list[float]]:
        """The reads since the last look."""
        taken, self.seconds = self.seconds, {kind: [] for kind in KINDS}
        return taken

    async def _repeat(self, read: object) -> None:
        while True:
            await read()  # type: ignore[operator]
            await asyncio.sleep(PAUSE_S)

    async def _timed(self, kind: str, path: str, **query: object) -> bytes:
        began = time.perf_counter()
        content = await self.api.fetch("GET", path, None, **query)
        self.seconds[kind].append(time.perf_counter() - began)
        return content

    async def _service_ls(self) -> None:
        running = RUNNING_TASKS.findall(await self._timed("service ls", "/services", status="true"))
        self.running = sum(map(int, running))

    async def _service_ps(self) -> None:
        if self.service_name:
            await self._timed("service ps", "/tasks", filters=json.dumps({"service": [self.service_name]}))

    async def _node_ls(self) -> None:
        self.down = NODE_STATE.findall(await self._timed("node ls", "/nodes")).count(b"down")


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample at the nearest rank; 0 of none."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0
