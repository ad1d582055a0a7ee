"""What a majority agrees on. Pure arithmetic; `tests/raft/test_quorum.py` checks it against a slower definition."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping

__all__ = ["Tally", "agreed", "tally"]


class Tally(enum.Enum):
    PENDING = enum.auto()
    WON = enum.auto()
    LOST = enum.auto()


def agreed(voters: Collection[int], value_of: Callable[[int], int]) -> int:
    """The largest number that a majority of the voters has reached; 0 without voters."""
    if not voters:
        return 0
    values = sorted(map(value_of, voters))
    return values[(len(values) - 1) // 2]


def tally(voters: Collection[int], votes: Mapping[int, bool]) -> Tally:
    """Where an election stands; no voters can elect nobody."""
    majority = len(voters) // 2 + 1
    granted = sum(votes.get(voter, False) for voter in voters)
    open_ = sum(voter not in votes for voter in voters)
    if granted >= majority and voters:
        return Tally.WON
    return Tally.PENDING if granted + open_ >= majority and voters else Tally.LOST
