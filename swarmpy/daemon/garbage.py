"""When Python looks for garbage in what has lived for a while.

By itself it does so each time the objects have grown by a quarter, looks through all of them, and nothing else happens
meanwhile: a second and more in a manager of 100,000 tasks, whose rows and indexes are never part of a cycle. Here young
objects are looked at as ever, but fewer at a time, and nearly all that is garbage is found there. What has grown old is
looked through soon afterwards, unless it is rows: objects that come by the thousand while hardly any of the young is
garbage. Rows are set aside (`gc.freeze`), which costs nothing, and go without a collector when they are removed. A
cycle among what was set aside is never found (a session that has ended leaves some 60 objects of its gRPC streams in
one), so only a daemon that grows by much sets anything aside.

Source  Python documentation, `gc`: generations, thresholds, `get_stats` and `freeze`.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable

__all__ = ["Collector", "collect_seldom"]

PAUSE_S = 0.25                  # between looks at whether any have grown old: the sooner, the fewer at a time
AT_LEAST_S = 30.0               # all the same
MANY = 25_000                   # objects: 10 ms to look through, and three times that where they are not in a cache
RUSH = 5_000                    # objects that grow old in a second: only rows come so fast
RARE = 0.02                     # the share of garbage among the young that makes the old ones rows
YOUNG, MIDDLE, NEVER = 2_000, 1, 1_000_000      # a look at the young takes milliseconds
OLDEST = 2                      # the generation; what was set aside is in none


async def collect_seldom() -> None:
    """Until cancelled. What the daemon is made of, its modules and classes, is set aside at once."""
    gc.set_threshold(YOUNG, MIDDLE, NEVER)
    gc.freeze()
    collector = Collector()
    loop = asyncio.get_running_loop()
    due_s = loop.time() + AT_LEAST_S
    while True:
        await asyncio.sleep(PAUSE_S)
        if gc.get_count()[OLDEST] or loop.time() >= due_s:      # how often objects have grown old since the last look
            collector.collect()
            due_s = loop.time() + AT_LEAST_S


class Collector:
    """Remembers when it last looked, and how much garbage had been found among the young by then."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_s = clock()
        self._looks, self._found = _young()

    def collect(self, many: int = MANY) -> None:
        """Look through what has grown old, or set it aside: if it is rows, or more than `many` objects."""
        looks, found = _young()
        rare = found - self._found < RARE * YOUNG * (looks - self._looks)
        self._looks, self._found = looks, found
        now_s = self._clock()
        took_s, self._looked_s = now_s - self._looked_s, now_s
        old = len(gc.get_objects(generation=OLDEST))
        if old > many or (rare and old > RUSH * max(took_s, PAUSE_S)):
            gc.freeze()
        else:
            gc.collect()


def _young() -> tuple[int, int]:
    """How often the young have been looked at, and how many of them were garbage."""
    stats = gc.get_stats()[:OLDEST]
    return sum(each["collections"] for each in stats), sum(each["collected"] for each in stats)
