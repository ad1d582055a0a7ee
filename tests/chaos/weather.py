"""What goes wrong when: a plan of faults, drawn from a seed before anything begins. Pure.

Laws    A host suffers one fault at a time, and the wire one; at most `AT_ONCE` hosts suffer at the same time.
        Every fault ends within the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

__all__ = ["AT_ONCE", "Fault", "Trouble", "forecast"]

AT_ONCE = 2
LONGEST_S = 10.0
CALM_S = (0.2, 4.0)


class Trouble(StrEnum):
    DAEMON_KILLED = "daemon killed"             # started again at the end
    POWER_CUT = "power cut"                     # of the host; booted again at the end
    HOST_STANDS_STILL = "host stands still"
    DAEMON_STANDS_STILL = "daemon stands still"
    RESTARTED = "restarted in order"            # as an upgrade does; down as long as that takes
    DISK_FULL = "disk full"
    PARTITION = "partition"
    ONE_WAY = "one-way partition"               # what the first group sends is lost
    DELAY = "delay"
    LOSS = "loss"


ON_A_HOST = (
    Trouble.DAEMON_KILLED, Trouble.POWER_CUT, Trouble.HOST_STANDS_STILL, Trouble.DAEMON_STANDS_STILL, Trouble.RESTARTED,
    Trouble.DISK_FULL,
)  # fmt: skip
ON_THE_WIRE = (Trouble.PARTITION, Trouble.ONE_WAY, Trouble.DELAY, Trouble.LOSS)


@dataclass(frozen=True, slots=True)
class Fault:
    """Times are seconds since the start of the plan. `hosts`: one that suffers, or those on one side of the wire."""

    trouble: Trouble
    hosts: tuple[str, ...]
    began_s: float
    ended_s: float

    def __str__(self) -> str:
        return f"{self.began_s:6.1f} to {self.ended_s:6.1f} s  {self.trouble}: {', '.join(self.hosts)}"


def forecast(rng: Random, hosts: Sequence[str], duration_s: float) -> list[Fault]:
    """The faults of `duration_s`, in the order in which they begin."""
    faults = _on_the_wire(rng, hosts, duration_s)
    for _ in range(AT_ONCE):
        faults += _on_hosts(rng, hosts, duration_s, faults)
    return sorted(faults, key=lambda fault: fault.began_s)


def _on_the_wire(rng: Random, hosts: Sequence[str], duration_s: float) -> list[Fault]:
    faults = []
    for began_s, ended_s in _times(rng, duration_s):
        trouble = rng.choice(ON_THE_WIRE)
        side = rng.sample(hosts, rng.randint(1, len(hosts) // 2))
        faults.append(Fault(trouble, tuple(side), began_s, ended_s))
    return faults


def _on_hosts(rng: Random, hosts: Sequence[str], duration_s: float, others: Sequence[Fault]) -> list[Fault]:
    faults = []
    for began_s, ended_s in _times(rng, duration_s):
        taken = {
            other.hosts[0]
            for other in others
            if other.trouble in ON_A_HOST and other.began_s < ended_s and began_s < other.ended_s
        }
        host = rng.choice([name for name in hosts if name not in taken])
        faults.append(Fault(rng.choice(ON_A_HOST), (host,), began_s, ended_s))
    return faults


def _times(rng: Random, duration_s: float) -> list[tuple[float, float]]:
    times, now_s = [], rng.uniform(*CALM_S)
    while now_s < duration_s - 1:
        ended_s = min(now_s + rng.uniform(0.5, LONGEST_S), duration_s)
        times.append((now_s, ended_s))
        now_s = ended_s + rng.uniform(*CALM_S)
    return times
