"""What a run gives: a line for each phase, the goals, and build/scale.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.scale.reads import KINDS, percentile

__all__ = ["Goal", "Phase", "Sample", "goals", "line", "reads_of", "write"]

GIB = 1 << 30
FULL = (5_000, 1_000_000)        # nodes and tasks that the figures of the goals are for
START_GOAL_S = 300.0
MEMORY_GOAL = 12 * GIB
READ_GOAL_S = 0.1
GROWTH_GOAL = 1.5


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the managers while they work."""

    at_s: float
    cpu_s: float                 # all managers, so far
    rss_bytes: int               # of the largest
    assigned: int                # tasks that nodes hold
    running: int                 # tasks that `service ls` shows running


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase. Processor time is of all managers, memory of the largest, reads in seconds."""

    name: str
    count: int
    unit: str
    seconds: float
    rate_per_s: float
    cpu_s: float
    rss_bytes: int
    pss_bytes: int
    reads: Mapping[str, Mapping[str, float]]
    notes: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Goal:
    name: str
    figure: float
    goal: float
    unit: str
    met: bool


def reads_of(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Count, median, 99th percentile (nearest rank) and longest of each kind of read."""
    return {
        kind: {
            "count": len(taken),
            "p50_s": percentile(taken, 0.5),
            "p99_s": percentile(taken, 0.99),
            "max_s": max(taken, default=0.0),
        }
        for kind, taken in seconds.items()
    }


def line(phase: Phase) -> str:
    reads = "  ".join(
        f"{kind} {phase.reads[kind]['p50_s'] * 1e3:.0f}/{phase.reads[kind]['p99_s'] * 1e3:.0f} ms"
        for kind in KINDS
        if phase.reads[kind]["count"]
    )
    notes = "".join(f"  {name} {value:.4g}" for name, value in phase.notes.items())
    return (
        f"{phase.name:<16}{phase.count:>9,} {phase.unit:<6}{phase.seconds:>8.1f} s {phase.rate_per_s:>8.0f}/s"
        f"  cpu {phase.cpu_s:.1f} s  rss {phase.rss_bytes / GIB:.2f} GiB  pss {phase.pss_bytes / GIB:.2f} GiB"
        f"  {reads}{notes}"
    )


def goals(phases: Sequence[Phase], reads: Mapping[str, Sequence[float]], growth: float) -> list[Goal]:
    """`reads` are those of all phases, `growth` is what the last tasks cost to start, of the first ones' cost."""
    start = next(phase for phase in phases if phase.name == "start")
    peak = max(phase.rss_bytes for phase in phases)
    slowest = max(percentile(taken, 0.99) for taken in reads.values())
    return [
        Goal("tasks assigned and running", start.seconds, START_GOAL_S, "s", start.seconds < START_GOAL_S),
        Goal("memory of a manager", peak / GIB, MEMORY_GOAL / GIB, "GiB", peak < MEMORY_GOAL),
        Goal("reads at p99, the slowest kind", slowest * 1e3, READ_GOAL_S * 1e3, "ms", slowest < READ_GOAL_S),
        Goal("cpu of the last third of tasks / first", growth, GROWTH_GOAL, "x", growth <= GROWTH_GOAL),
    ]


def write(
    path: Path, settings: Mapping[str, object], phases: Sequence[Phase], samples: Sequence[Sample], met: Sequence[Goal]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "settings": dict(settings),
        "phases": [asdict(phase) for phase in phases],
        "start": [asdict(sample) for sample in samples],
        "goals": [asdict(goal) for goal in met],
    }
    path.write_text(json.dumps(whole, indent=2) + "\n")
