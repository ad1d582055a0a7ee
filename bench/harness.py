"""How a benchmark reports: ours and the peer's, measured in turn on the same machine, and how many times better we are.

A benchmark is a module with `def measure(repeats: int) -> list[Row]`. Rows stay in the table when they are losses. A
peer that is not on the machine gives a row without ratio, and with `met` null where the goal is of the ratio.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Row", "Samples", "alternate", "compare", "line", "write"]

Better = Literal["less", "more"]
GoalOf = Literal["ratio", "figure"]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `ratio` above 1 means that we are better, whichever way the unit counts."""

    name: str
    unit: str
    ours: float
    peer: float | None
    peer_name: str
    ratio: float | None
    goal: float | None
    met: bool | None
    goal_of: GoalOf             # what the goal is of: the ratio, or our figure in `unit`
    spread: str                 # our lowest and highest sample
    peer_spread: str            # the peer's
    repeats: int


Samples = Sequence[float]


def compare(
    name: str, unit: str, better: Better, ours: Samples, peer: Samples, peer_name: str, goal: float | None = 1.0,
    goal_of: GoalOf = "ratio",
) -> Row:  # fmt: skip
    """A row of medians. `peer` is empty where the peer is not on this machine; `peer_name` carries its version, or says
    why there is none."""
    middle = statistics.median(ours)
    theirs = statistics.median(peer) if peer else None
    ratio = None
    if theirs is not None and theirs > 0 and middle > 0:
        ratio = middle / theirs if better == "more" else theirs / middle
    met = None
    if goal is not None and goal_of == "figure":
        met = middle >= goal if better == "more" else middle <= goal
    elif goal is not None and ratio is not None:
        met = ratio >= goal
    spreads = _spread(ours), _spread(peer)
    return Row(name, unit, middle, theirs, peer_name, ratio, goal, met, goal_of, *spreads, len(ours))


def _spread(samples: Samples) -> str:
    return f"{min(samples):.4g}..{max(samples):.4g}" if samples else ""


def alternate(
    repeats: int, ours: Callable[[], float], peer: Callable[[], float] | None
) -> tuple[list[float], list[float]]:
    """Samples of both, taken in turn, so that a machine whose speed drifts is fair to both."""
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(repeats):
        mine.append(ours())
        if peer is not None:
            theirs.append(peer())
    return mine, theirs


def line(row: Row) -> str:
    """`container start   3.1 ms   runc 1.1.5 33 ms   10.6x  (goal 2.5x: met)  3.0..3.4 against 31..36, 20 repeats`."""
    parts = [f"{row.name:<44}", f"{row.ours:>10.4g} {row.unit:<6}"]
    if row.peer is None:
        parts.append(row.peer_name)
    else:
        parts.append(f"{row.peer_name} {row.peer:.4g} {row.unit}")
    if row.ratio is not None:
        parts.append(f"{row.ratio:.2f}x")
    if row.goal is not None:
        goal = f"{row.goal:g}{'x' if row.goal_of == 'ratio' else ' ' + row.unit}"
        verdict = "" if row.met is None else ": met" if row.met else ": MISSED"
        parts.append(f"(goal {goal}{verdict})")
    parts.append(f"{row.spread}{' against ' + row.peer_spread if row.peer_spread else ''}, {row.repeats} repeats")
    return "  ".join(parts)


def write(rows: Sequence[Row], path: Path) -> None:
    """`build/bench.json`: a list of name, unit, ours, peer, peer_name, ratio, goal, met."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
