"""The daemon's life: parts start from the bottom up and end from the top down, whatever happens in between.

Signals (signal(7)): SIGTERM and SIGINT end it: the lead is handed over, the API stops, containers go on. SIGHUP takes
up a certificate that was replaced on the disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import grpc.aio

from swarmpy.daemon.api_server import ApiServer
from swarmpy.daemon.config import Config
from swarmpy.daemon.descriptors import allow_all_descriptors
from swarmpy.daemon.garbage import collect_seldom
from swarmpy.daemon.host import Host
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
            log.info("swarmpyd is ready", extra={"hosts": " ".join(self._config.hosts)})
            _notify("READY=1")
            await self._stop.wait()
            _notify("STOPPING=1")
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


def _notify(state: str) -> None:
    """Tell the service manager, if there is one (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
