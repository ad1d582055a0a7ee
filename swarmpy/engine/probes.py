"""Running one health probe: a command in the container, its output, and an end when it takes too long."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

from swarmpy.engine.exec_process import exec_process
from swarmpy.engine.parts import Parts
from swarmpy.engine.runtime_errors import NotExecutable, translated
from swarmpy.runtime import Exec, RuntimeFailure

if TYPE_CHECKING:
    from swarmpy.engine.live import LiveContainer

__all__ = ["run_probe"]

_MOST_OUTPUT = 4096


async def run_probe(
    parts: Parts, container: LiveContainer, command: Sequence[str], timeout_s: float
) -> tuple[int, bytes]:
    """Exit code (-1 when it was killed for taking too long) and the first 4 KiB of what it wrote."""
    handle = container.running_handle()
    process = await exec_process(parts, container.record, handle.pid, args=command)
    try:
        running = await handle.exec(process)
    except RuntimeFailure as error:
        failure = translated(error)
        if isinstance(failure, NotExecutable):
            return failure.exit_code, str(failure).encode()
        raise failure from error
    output = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            code = await _finish(running, output)
    except TimeoutError:
        await running.kill(signal.SIGKILL)
        await running.wait()
        return -1, f"Health check exceeded timeout ({timeout_s:g}s): ".encode() + bytes(output)
    except RuntimeFailure as error:
        raise translated(error) from error
    return code, bytes(output)


async def _finish(running: Exec, output: bytearray) -> int:
    streams = running.streams()
    try:
        async for _, data in streams:
            output += data[: _MOST_OUTPUT - len(output)]
    finally:
        await streams.close()
    return await running.wait()
