"""The end of all containers, when the machine shuts down: `python -m swarmpy.runtime.ending STATE_DIRECTORY`.

Containers outlive the daemon and their shims ignore SIGTERM, so at shutdown somebody has to tell them. This needs no
daemon and starts nothing: it asks the shims, which write down how each container ended.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path

from swarmpy.runtime.client import Container, Runtime
from swarmpy.runtime.failure import FailureKind, RuntimeFailure

__all__ = ["end_all", "main"]

GRACE_S = 10.0
"""Between SIGTERM and SIGKILL, as `docker stop` gives by default."""


async def end_all(runtime: Runtime, grace_s: float = GRACE_S) -> int:
    """Every container has ended, by SIGTERM or after `grace_s` by SIGKILL. Returns how many had to end.

    The cgroup that they lay in is gone too: the daemon has left it to them.
    """
    running = [container for container in await runtime.adopt() if container.status is None]
    await asyncio.gather(*(_end(container, grace_s) for container in running))
    await runtime.close()
    return len(running)


async def _end(container: Container, grace_s: float) -> None:
    if container.paused:
        await _tell(container.resume())
    await _tell(container.kill(signal.SIGTERM))
    try:
        await asyncio.wait_for(container.wait(), grace_s)
    except TimeoutError:
        await _tell(container.kill(signal.SIGKILL))
        await container.wait()


async def _tell(request: Coroutine[object, object, None]) -> None:
    """A container that has ended, or whose shim has, needs no telling."""
    try:
        await request
    except RuntimeFailure as failure:
        if failure.kind not in (FailureKind.CONFLICT, FailureKind.LOST):
            raise


def main(arguments: list[str]) -> None:
    state = Path(arguments[0])
    ended = asyncio.run(end_all(Runtime(state, cgroup_parent="/swarmpy"))) if state.is_dir() else 0
    sys.stderr.write(f"{ended} containers have ended\n")


if __name__ == "__main__":
    main(sys.argv[1:])
