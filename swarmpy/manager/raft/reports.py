"""What a member's thread tells the event loop: one Report for all that a turn brings.

Owns    the report being filled, those on their way, and when they are due.
Laws    Reports are taken in order, on the event loop's thread. What nobody waits for may wait for company: a follower
        need not wake its event loop for each entry that is committed elsewhere. While there is much to apply, all else
        on the event loop has its turn in between.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from swarmpy.manager.raft.membership import Membership
from swarmpy.manager.raft.messages import Entry, Snapshot
from swarmpy.manager.raft.options import Ended

__all__ = ["Future", "Report", "Reports", "View"]

Future = asyncio.Future[Any]

_COMPANY_S = 0.005
_A_TURN_BYTES = 32 << 10     # of entries; a turn ends with the report that goes beyond


@dataclass(frozen=True, slots=True)
class View:
    """What the event loop knows of the core."""

    term: int
    leader: int | None
    leads: bool
    membership: Membership
    active: frozenset[int]    # a leader's: members heard within an election timeout, as of the last tick


@dataclass(slots=True)
class Report:
    """To be taken up in this order."""

    view: View | None = None                                # when it has changed
    restore: Snapshot | None = None
    committed: list[Entry] = field(default_factory=list)
    proposers: dict[int, Future] = field(default_factory=dict)    # index -> who proposed that entry here
    membership: Membership | None = None                    # in force after `committed`, if nothing else is committed
    barriers: list[tuple[int, list[asyncio.Future[None]]]] = field(default_factory=list)    # pass at an index
    answers: list[tuple[Future, object]] = field(default_factory=list)    # or the exception to raise
    refused: list[Future] = field(default_factory=list)     # proposals: this member does not lead
    lost: list[Future] = field(default_factory=list)        # proposals: it leads no longer, and nobody knows
    dispatch: list[tuple[int, bytes, bool]] = field(default_factory=list)    # member, message, whether it is bulk
    broken: list[int] = field(default_factory=list)         # members whose wire broke
    ended: Ended | None = None

    def waiting(self) -> Iterator[Future]:
        """Who waits for something in it."""
        yield from self.proposers.values()
        for _, barriers in self.barriers:
            yield from barriers
        yield from (asker for asker, _ in self.answers)
        yield from self.refused
        yield from self.lost


class Reports:
    """Filled by the member's thread; `take` is called on the event loop's."""

    def __init__(self, take: Callable[[Report], None], clock: Callable[[], float]) -> None:
        self._take = take
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._report = Report()
        self._ready: deque[Report] = deque()
        self._called = False         # the event loop knows that there are some
        self.due = math.inf          # when the present report is to be handed over; for clock()

    def now(self) -> Report:
        """The report, and somebody waits for what is put into it."""
        self.due = 0.0
        return self._report

    def soon(self) -> Report:
        """The report; what is put into it has time."""
        if self.due == math.inf:
            self.due = self._clock() + _COMPANY_S
        return self._report

    def hand_over_if_due(self) -> None:
        if self.due == 0.0 or (self.due != math.inf and self.due <= self._clock()):
            self.hand_over()

    def hand_over(self) -> None:
        self.due = math.inf
        self._ready.append(self._report)
        self._report = Report()
        if not self._called:
            self._called = True
            self._loop.call_soon_threadsafe(self._deliver)

    def untaken(self) -> list[Report]:
        """Once the thread has ended: those that never will be."""
        return [*self._ready, self._report]

    def _deliver(self) -> None:
        self._called = False
        taken_bytes = 0
        while self._ready and taken_bytes < _A_TURN_BYTES:
            report = self._ready.popleft()
            taken_bytes += sum(len(entry.data) for entry in report.committed)
            self._take(report)
        if self._ready and not self._called:
            self._called = True
            self._loop.call_soon(self._deliver)
