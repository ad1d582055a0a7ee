"""Proposals: from whoever calls, through the core, to the entry that is committed at their index, or is not.

Law     All that wait are of one term. At their index another entry may be committed by the next leader: then a proposal
        is lost, and before that nobody can say whether it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from swarmpy.manager.raft.messages import Entry
from swarmpy.manager.raft.reports import Future, Report

__all__ = ["Proposals"]


class Proposals:
    """`add` may be called on any thread; the rest is the member's."""

    def __init__(self) -> None:
        self._new: deque[tuple[bytes, Future]] = deque()
        self._waiting: dict[int, Future] = {}    # by index
        self._term = 0

    def add(self, data: bytes, proposer: Future) -> None:
        self._new.append((data, proposer))

    def __bool__(self) -> bool:
        """Whether any have been added and not taken."""
        return bool(self._new)

    def take(self) -> tuple[tuple[bytes, ...], tuple[Future, ...]]:
        """Those added since the last call, at least one: what they say, and whose they are."""
        datas, proposers = zip(*[self._new.popleft() for _ in range(len(self._new))], strict=True)
        return datas, proposers

    def expect(self, term: int, first: int, proposers: Sequence[Future]) -> None:
        """The entries from `first` on were proposed by these in `term`."""
        if term != self._term:
            if self._waiting:
                raise AssertionError(f"proposals of term {self._term} wait while this member leads in {term}")
            self._term = term
        self._waiting.update(zip(range(first, first + len(proposers)), proposers, strict=True))

    def settle(self, committed: Sequence[Entry], report: Report) -> None:
        """What became of those whose index is among the committed entries."""
        for entry in committed:
            proposer = self._waiting.pop(entry.index, None)
            if proposer is None:
                continue
            if entry.term == self._term:
                report.proposers[entry.index] = proposer
            else:
                report.lost.append(proposer)

    @property
    def are_waiting(self) -> bool:
        return bool(self._waiting)

    def give_up(self) -> list[Future]:
        """This member leads no longer: all that waited."""
        waiting = list(self._waiting.values())
        self._waiting.clear()
        return waiting

    def all(self) -> list[Future]:
        return [*(proposer for _, proposer in self._new), *self._waiting.values()]
