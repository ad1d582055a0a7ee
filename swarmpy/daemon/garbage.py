"""When Python looks for garbage in everything it holds.

By itself it does so each time the objects have grown by a quarter, and nothing else happens meanwhile: seconds, in a
manager of a million tasks, whose rows and indexes are never part of a cycle. Young objects are still looked at as
ever, and nearly all that is garbage is found there; the whole is looked through seldom, and the more seldom the longer
it takes.

Source  Python documentation, `gc`: generations and thresholds.
"""

from __future__ import annotations

import asyncio
import gc
import time

__all__ = ["collect_seldom"]

FIRST_S = 60.0
SHARE = 1000                    # of the time that passes, one part is spent
YOUNG, MIDDLE, NEVER = 5_000, 20, 1_000_000


async def collect_seldom() -> None:
    """Until cancelled."""
    gc.set_threshold(YOUNG, MIDDLE, NEVER)
    pause_s = FIRST_S
    while True:
        await asyncio.sleep(pause_s)
        began = time.perf_counter()
        gc.collect()
        pause_s = max(FIRST_S, SHARE * (time.perf_counter() - began))
