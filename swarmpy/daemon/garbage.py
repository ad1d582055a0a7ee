"""When Python looks for garbage in what has lived for a while.

By itself it does so each time the objects have grown by a quarter, looks through all of them, and nothing else happens
meanwhile: a second and more in a manager of 100,000 tasks, whose rows and indexes are never part of a cycle. Here young
objects are looked at as ever, and nearly all that is garbage is found there. Older ones are looked through now and
then while they are few. When many have come, they are rows: they are set aside (`gc.freeze`), which costs nothing, and
go without a collector when they are removed. A cycle among what was set aside is never found (a session that has ended
leaves some 60 objects of its gRPC streams in one), so only a daemon that grows by much sets anything aside.

Source  Python documentation, `gc`: generations, thresholds and `freeze`.
"""

from __future__ import annotations

import asyncio
import gc

__all__ = ["collect", "collect_seldom"]

PAUSE_S = 5.0                   # what ends in a look waits for other threads now and then: few at a time
MANY = 25_000                   # objects: some 10 ms to look through, several times that on a busy machine
YOUNG, MIDDLE, NEVER = 5_000, 10, 1_000_000
OLDEST = 2                      # the generation; what was set aside is in none


async def collect_seldom() -> None:
    """Until cancelled. What the daemon is made of, its modules and classes, is set aside at once."""
    gc.set_threshold(YOUNG, MIDDLE, NEVER)
    gc.freeze()
    while True:
        await asyncio.sleep(PAUSE_S)
        collect()


def collect(many: int = MANY) -> None:
    """Look through what has lived for a while, or set it aside if it is more than `many` objects."""
    if len(gc.get_objects(generation=OLDEST)) > many:
        gc.freeze()
    else:
        gc.collect()
