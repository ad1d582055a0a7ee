"""What a service manager is told, if there is one.

Source  sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import asyncio
import os
import socket

__all__ = ["notify", "stay_alive"]

BEATS = 3                       # in the time after which it takes a silent daemon for dead


def notify(state: str) -> None:
    """Tell it, as in "READY=1"."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


async def stay_alive() -> None:
    """Until cancelled, say often enough that the event loop turns. Returns when nobody watches this process."""
    watched_us, pid = int(os.environ.get("WATCHDOG_USEC", "0")), os.environ.get("WATCHDOG_PID", "")
    if not watched_us or pid not in ("", str(os.getpid())):
        return
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(watched_us / 1e6 / BEATS)
