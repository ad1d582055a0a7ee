"""A daemon with the engine and its API alone, for tests: `python daemon_process.py ROOT PREFIX`.

Serves on ROOT/api.sock. It is killed with -9 and started again by tests; it keeps nothing but what is under ROOT.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path

from aiohttp import web

from swarmpy.api.app import create_app
from swarmpy.api.swarm_node import InitRequest, JoinRequest, LocalState, SwarmManager
from swarmpy.engine import Engine, EngineConfig
from swarmpy.errors import Unavailable
from swarmpy.image import ImageStore
from swarmpy.network import HostNetwork
from swarmpy.runtime import Runtime


class Alone:
    """A host that is in no swarm."""

    node_id = ""
    node_addr = ""
    local_state = LocalState.INACTIVE
    error = ""
    manager: SwarmManager | None = None
    remote_managers: tuple[tuple[str, str], ...] = ()

    async def init(self, request: InitRequest) -> str:
        raise Unavailable("this daemon has no swarm part")

    async def join(self, request: JoinRequest) -> None:
        raise Unavailable("this daemon has no swarm part")

    async def leave(self, *, force: bool) -> None:
        raise Unavailable("this daemon has no swarm part")

    async def take_unlock_key(self) -> None:
        return

    async def unlock(self, key: str) -> None:
        raise Unavailable("this daemon has no swarm part")


async def serve(root: Path, prefix: str) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    data, state = root / "data", root / "state"
    data.mkdir(parents=True, exist_ok=True)
    runtime = Runtime(state / "runtime", cgroup_parent=f"/{prefix}")
    images = ImageStore(data / "images")
    network = HostNetwork(prefix, state / "network")
    await runtime.start()
    await images.start()
    await network.start()
    config = EngineConfig(data, "test-host", labels=("a=b",))
    engine = Engine(config, runtime, images, network)
    await engine.start()
    app = create_app(engine, Alone())
    runner = web.AppRunner(app, handle_signals=False, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    socket = root / "api.sock"
    with contextlib.suppress(FileNotFoundError):
        socket.unlink()
    await web.UnixSite(runner, str(socket)).start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await runner.cleanup()
    await engine.close()
    await network.close()
    await images.close()
    await runtime.close()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2]))
