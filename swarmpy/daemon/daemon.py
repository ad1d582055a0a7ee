"""The daemon's life: parts start from the bottom up and end from the top down, whatever happens in between.

Signals (signal(7)): SIGTERM and SIGINT end it: the lead is handed over, the API stops, containers go on. SIGHUP takes
up a certificate that was replaced on the disk. SIGUSR1 tells what the daemon does at the moment (daemon/stacks.py).
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import grpc.aio

from swarmpy.daemon.api_server import ApiServer
from swarmpy.daemon.config import Config
from swarmpy.daemon.descriptors import allow_all_descriptors
from swarmpy.daemon.garbage import collect_seldom
from swarmpy.daemon.host import Host
from swarmpy.daemon.service_manager import notify, stay_alive
from swarmpy.daemon.stacks import tell_stacks_on_signal
from swarmpy.daemon.wiring import make_app, make_node
from swarmpy.errors import SwarmpyError
from swarmpy.runtime import uapi
from swarmpy.runtime.kernel import LinuxKernel

__all__ = ["Daemon"]

log = logging.getLogger(__name__)


class Daemon:
    """One node, from its start to its end."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()

    async def run(self) -> None:
        """Until a signal. Raises SwarmpyError when a part cannot start; what had started has then ended."""
        # Keys and tokens are in this memory: no core dump is written of it, and whoever is not root sees nothing of it.
        LinuxKernel().prctl(uapi.PR_SET_DUMPABLE, 0)
        # gRPC takes its poller down with the last channel, waiting for it on this thread, and waits for ever when a
        # call is still open. One hold for the life of the process keeps it up.
        grpc.aio.init_grpc_aio()  # type: ignore[attr-defined]  # the stubs lack it
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        tell_stacks_on_signal()
        async with AsyncExitStack() as parts:
            host = Host(self._config)
            parts.push_async_callback(host.close)
            await host.start()
            allow_all_descriptors()     # after it: what containers begin with is what this process was started with
            node = make_node(self._config, host)
            parts.push_async_callback(node.close)
            await node.start()
            api = ApiServer(make_app(host, node), self._config)
            parts.push_async_callback(api.close)
            await api.start()
            reloading = asyncio.create_task(self._reload_on_signal(node.reload))
            parts.callback(reloading.cancel)
            collecting = asyncio.create_task(collect_seldom())
            parts.callback(collecting.cancel)
            living = asyncio.create_task(stay_alive())
            parts.callback(living.cancel)
            log.info("swarmpyd is ready", extra={"hosts": " ".join(self._config.hosts)})
            notify("READY=1")
            await self._stop.wait()
            notify("STOPPING=1")
            log.info("swarmpyd ends; containers go on")

    async def _reload_on_signal(self, reload: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            try:
                await reload()
            except SwarmpyError as failure:
                log.error("the certificate on the disk was not taken up: %s", failure)
            else:
                log.info("took up the certificate on the disk")
