"""Read barriers, batched: one question is under way, and those who come meanwhile share the next.

An answer is a read index: a barrier is passed once this member has applied what was committed up to there.
Source  Raft paper, 8; thesis, 6.4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from swarmpy.manager.raft.messages import ReadState

__all__ = ["Reads"]

_RETRY_TICKS = 5

_Barriers = list[asyncio.Future[None]]
_Office = tuple[int, int | None]    # a term, and who leads in it as far as known


class Reads:
    """The futures are the event loop's: here it is only asked whether anybody still waits."""

    def __init__(self) -> None:
        self._asking: _Barriers = []      # came too late for the question under way
        self._asked: _Barriers = []       # wait for its answer
        self._context = 0
        self._age_ticks = 0
        self._office: _Office = (0, None)    # when it was last asked

    def ask(self, barrier: asyncio.Future[None]) -> None:
        self._asking.append(barrier)

    def tick(self) -> None:
        self._age_ticks += 1

    def start(self, read: Callable[[int], None], term: int, leader: int | None) -> None:
        """Ask the core, or ask again when another leads or the answer is overdue.

        Any answer to any asking is late enough. Who asked the leader that died asks the next one as soon as it leads.
        """
        if not self._asked and not self._asking:
            return
        office = term, leader
        if self._asked and (self._age_ticks >= _RETRY_TICKS or (leader is not None and office != self._office)):
            self._asked = [barrier for barrier in self._asked if not barrier.done()]
            if self._asked:
                self._ask_core(read, office)
        if not self._asked and self._asking:
            self._asked, self._asking = self._asking, []
            self._context += 1
            self._ask_core(read, office)

    def _ask_core(self, read: Callable[[int], None], office: _Office) -> None:
        self._age_ticks, self._office = 0, office
        read(self._context)

    def answered(self, states: Iterable[ReadState]) -> list[tuple[int, _Barriers]]:
        """The barriers whose read index is known, with it."""
        found = []
        for state in states:
            if state.context == self._context and self._asked:
                found.append((state.index, self._asked))
                self._asked = []
        return found

    def open(self) -> _Barriers:
        return self._asking + self._asked
