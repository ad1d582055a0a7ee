"""Asking a running container whether it is well, as its HEALTHCHECK says.

Owns    the loop of probes of one container, and `State.Health`. The verdict after each probe is decided purely by
        `after_probe`.
Source  Docker Engine API, definitions HealthConfig, Health, HealthcheckResult.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from swarmpy.engine.config import HealthConfig
from swarmpy.engine.parts import Parts
from swarmpy.engine.state import Health, HealthResult, Status
from swarmpy.errors import SwarmpyError

if TYPE_CHECKING:
    from swarmpy.engine.live import LiveContainer

__all__ = ["HealthMonitor", "after_probe"]

Probe = Callable[[Parts, "LiveContainer", Sequence[str], float], Awaitable[tuple[int, bytes]]]
"""Runs a command in the container, for at most so many seconds: its exit code (-1: too slow) and output."""

_SECOND = 1_000_000_000
_INTERVAL, _TIMEOUT, _START_INTERVAL, _RETRIES = 30 * _SECOND, 30 * _SECOND, 5 * _SECOND, 3
_KEPT, _OUTPUT = 5, 4096


def after_probe(health: Health, result: HealthResult, config: HealthConfig, running_ns: int) -> Health:
    """Health after one more probe, `running_ns` after the start. Failures in the start period do not count."""
    log = (*health.log, result)[-_KEPT:]
    if result.exit_code == 0:
        return Health("healthy", 0, log)
    if health.status == "starting" and running_ns < config.start_period:
        return replace(health, log=log)
    streak = health.failing_streak + 1
    failed = streak >= (config.retries or _RETRIES)
    return Health("unhealthy" if failed else health.status, streak, log)


class HealthMonitor:
    """Runs probes until it is stopped; one that overruns its time is killed and has failed."""

    def __init__(self, parts: Parts, container: LiveContainer, config: HealthConfig, probe: Probe) -> None:
        self._parts = parts
        self._container = container
        self._config = config
        self._run_probe = probe
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin with "starting", or go on with what an earlier daemon found."""
        container = self._container
        if container.state.health is None:
            health = Health()
            container.record = replace(container.record, state=replace(container.state, health=health))
        self._task = asyncio.create_task(self._run(), name=f"health of {container.display}")

    async def stop(self) -> None:
        """No probe is running afterwards."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._pause_ns() / _SECOND)
            if self._container.state.status is Status.RUNNING:
                await self._probe()

    def _pause_ns(self) -> int:
        config, state = self._config, self._container.state
        interval = config.interval or _INTERVAL
        young = self._parts.clock() - state.started_ns < config.start_period
        if state.health is not None and state.health.status == "starting" and young:
            return min(interval, config.start_interval or _START_INTERVAL)
        return interval

    async def _probe(self) -> None:
        container, clock = self._container, self._parts.clock
        begun = clock()
        try:
            limit = (self._config.timeout or _TIMEOUT) / _SECOND
            code, output = await self._run_probe(self._parts, container, self._command(), limit)
        except SwarmpyError as error:
            code, output = -1, str(error).encode()
        if container.state.status is not Status.RUNNING:
            return
        result = HealthResult(begun, clock(), code, output[:_OUTPUT].decode(errors="replace"))
        before = container.state.health or Health()
        after = after_probe(before, result, self._config, clock() - container.state.started_ns)
        await container.save(state=replace(container.state, health=after))
        if after.status != before.status:
            container.publish(f"health_status: {after.status}")

    def _command(self) -> tuple[str, ...]:
        kind, *words = self._config.test
        shell = self._container.record.config.shell or ("/bin/sh", "-c")
        return (*shell, *words) if kind == "CMD-SHELL" else tuple(words)
