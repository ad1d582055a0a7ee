"""Whether what many clients saw of one value could have come from one copy of it. Pure.

A *register* is a label of a service. Clients read it with the service's `Version.Index`, and write it by
compare-and-set on that index, each write with a value of its own. So the order of all that took effect is known: a read
stands at the version it saw, a write right behind the version it expected. What is left to check is that every read saw
the write before it, and that the order agrees with real time.

Source  Herlihy and Wing, "Linearizability: A Correctness Condition for Concurrent Objects" (1990).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby

__all__ = ["Operation", "Outcome", "violation"]


class Outcome(StrEnum):
    SAW = "saw"                     # a read, answered
    WROTE = "wrote"                 # a write that was acknowledged
    REFUSED = "was refused"         # a write that was told of another version
    UNKNOWN = "may have written"    # a write without an answer, or with one that says neither


@dataclass(frozen=True, slots=True)
class Operation:
    """One request. `version` is what a read saw or a write expected; times are of one monotonic clock."""

    outcome: Outcome
    version: int
    value: str
    began: float
    ended: float
    client: str = ""

    @property
    def place(self) -> tuple[int, bool]:
        """Where it stands in the one order: a write behind the reads of the version it replaces."""
        return self.version, self.outcome is not Outcome.SAW

    def __str__(self) -> str:
        on = "at" if self.outcome is Outcome.SAW else "on top of"
        when = f"({self.began:.3f} to {self.ended:.3f} s)"
        return f"{self.client} {self.outcome} {self.value!r} {on} version {self.version} {when}"


def violation(operations: Iterable[Operation], initial: str = "") -> str | None:
    """The first thing that no single copy could have shown, told in words; None when there is none."""
    done = sorted(_effective(list(operations)), key=lambda operation: operation.place)
    value, latest = initial, None
    began, last = -math.inf, None           # the latest start among all that stand before
    for (_, writes), together in groupby(done, key=lambda operation: operation.place):
        group = list(together)
        for operation in group:
            if operation.ended < began:
                return f"{operation}, which must come after: {last}"
            if not writes and operation.value != value:
                return f"{operation}, but the last write before is: {latest or repr(initial)}"
        if writes:
            if len(group) > 1:
                return f"{group[0]} and {group[1]} both took effect"
            latest = group[0]
            value = latest.value
        newest = max(group, key=lambda operation: operation.began)
        if newest.began > began:
            began, last = newest.began, newest
    return None


def _effective(operations: list[Operation]) -> Iterable[Operation]:
    """Without what had no effect. A write of unknown outcome had one if its value was seen, whenever that was.

    One that nobody saw may have been the last of all, which contradicts nothing.
    """
    seen = {operation.value for operation in operations if operation.outcome is Outcome.SAW}
    for operation in operations:
        if operation.outcome in (Outcome.SAW, Outcome.WROTE):
            yield operation
        elif operation.outcome is Outcome.UNKNOWN and operation.value in seen:
            yield replace(operation, ended=math.inf)
