"""What a service manager is told, if there is one.

Source  sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket

__all__ = ["notify", "stay_alive"]

BEATS = 3                       # in the time after which it takes a silent daemon for dead

log = logging.getLogger(__name__)


def notify(state: str, flags: int = 0) -> None:
    """Tell it, as in "READY=1". Raises OSError when it cannot be told; `flags` are those of send(2)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(state.encode(), flags, "\0" + address[1:] if address.startswith("@") else address)


async def stay_alive() -> None:
    """Until cancelled, say often enough that the event loop turns. Returns when nobody watches this process.

    A manager that has no time to hear it is told the next time: nobody waits for it.
    """
    watched_us = _watched_us()
    while watched_us > 0:
        try:
            notify("WATCHDOG=1", socket.MSG_DONTWAIT)
        except OSError as failure:
            log.warning("the service manager could not be told that the daemon is alive: %s", failure)
        await asyncio.sleep(watched_us / 1e6 / BEATS)


def _watched_us() -> int:
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    return int(text) if text.isdecimal() and pid in ("", str(os.getpid())) else 0
