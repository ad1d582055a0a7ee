"""What a majority agrees on. Pure arithmetic; `tests/raft/test_pieces.py` checks it against a slower definition."""

from __future__ import annotations

from collections.abc import Callable, Collection

__all__ = ["agreed"]


def agreed(voters: Collection[int], value_of: Callable[[int], int]) -> int:
    """The largest number that a majority of the voters has reached; 0 without voters."""
    if not voters:
        return 0
    values = sorted(map(value_of, voters))
    return values[(len(values) - 1) // 2]
