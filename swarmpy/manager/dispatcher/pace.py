"""How many sessions speak in one turn of the event loop.

News for every node at once, such as one more node in the mesh, makes a message for each of thousands of sessions. All
made in one turn they would keep everybody else waiting for as long as they take; so a few are made in each.
"""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Pace"]

AT_ONCE = 16                    # some 2 ms


class Pace:
    """On the running event loop."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._left = at_once
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._begins = False            # another turn has been asked for

    async def turn(self) -> None:
        """Go on in this turn of the loop, or when those that came before have had theirs."""
        loop = asyncio.get_running_loop()
        if not self._begins:
            self._begins = True
            loop.call_soon(self._begin)
        if self._left > 0 and not self._waiting:
            self._left -= 1
            return
        place = loop.create_future()
        self._waiting.append(place)
        await place

    def _begin(self) -> None:
        self._left, self._begins = self._at_once, False
        while self._waiting and self._left > 0:
            place = self._waiting.popleft()
            if not place.done():        # who was cancelled is done
                place.set_result(None)
                self._left -= 1
        if self._waiting:
            self._begins = True
            asyncio.get_running_loop().call_soon(self._begin)
