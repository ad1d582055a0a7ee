"""When Python looks for garbage in everything it holds.

By itself it does so each time the objects have grown by a quarter, and nothing else happens meanwhile: a second, in a
manager of a million tasks, whose rows and indexes are never part of a cycle. Young objects are still looked at as
ever, and nearly all that is garbage is found there; the whole is looked through once a minute. Where that takes long,
what is left is set aside (`gc.freeze`) and not looked through again: there it is rows, and these go without a collector
when they are removed. A cycle among what was set aside is never found, which is why little is set aside by itself.

Source  Python documentation, `gc`: generations, thresholds and `freeze`.
"""

from __future__ import annotations

import asyncio
import gc
import time

__all__ = ["collect", "collect_seldom"]

PAUSE_S = 60.0
LONG_S = 0.1                    # of processor time: some 150,000 tasks
YOUNG, MIDDLE, NEVER = 5_000, 20, 1_000_000


async def collect_seldom() -> None:
    """Until cancelled."""
    gc.set_threshold(YOUNG, MIDDLE, NEVER)
    while True:
        await asyncio.sleep(PAUSE_S)
        collect()


def collect(long_s: float = LONG_S) -> None:
    """Look through everything, and set aside what is left if that took longer than `long_s`."""
    began = time.thread_time()
    gc.collect()
    if time.thread_time() - began > long_s:
        gc.freeze()
