"""Where managers are, and which one to try next.

Owns    the addresses, the order of attempts and the waits between them; pure but for `load` and `save`.

A leader that a manager names is tried at once, unless it is the one whose session just broke: the news of its end may
not have reached that manager yet. Otherwise the known ones are tried in turn, beginning with the last that served, or
after it when its session broke. Each attempt that found no leader is followed by a wait: short at first, since an
election takes a second or two, and longer each time, up to the heartbeat period. That period grows with the swarm, so a
swarm without a leader is not worn down by its own workers. Where it is long, nodes that lost their leader also come to
the next one spread out.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable
from pathlib import Path

__all__ = ["KnownManagers", "load", "save"]

FIRST_WAIT_S = 0.1
GROWTH = 1.4
LONGEST_WAIT_S = 5.0             # until the leader has told the heartbeat period
CROWD_PERIOD_S = 2.0             # a heartbeat period beyond this is that of a large swarm


class KnownManagers:
    """Addresses are "host:port". `rng` spreads the waits of many nodes by half to one and a half."""

    def __init__(self, addrs: Iterable[str], rng: random.Random) -> None:
        self._addrs = list(dict.fromkeys(addrs))
        self._rng = rng
        self._hint: str | None = None
        self._lost: str | None = None
        self._next = 0
        self._wait_s = FIRST_WAIT_S
        self._longest_wait_s = LONGEST_WAIT_S
        self._crowd_s = 0.0

    @property
    def addrs(self) -> tuple[str, ...]:
        """All known, the best first."""
        return tuple(self._addrs)

    def learn(self, addrs: Iterable[str]) -> bool:
        """The leader says who the managers are. Whether that is news; an empty list is not believed."""
        told = list(dict.fromkeys(addrs))
        if not told or told == self._addrs:
            return False
        self._addrs, self._next = told, 0
        return True

    def add(self, addr: str) -> None:
        """One more manager, known by other means: this host's own."""
        if addr not in self._addrs:
            self._addrs.append(addr)

    def choose(self) -> str | None:
        """Whom to try now, None when no manager is known."""
        if self._hint is not None:
            addr, self._hint = self._hint, None
            return addr
        if not self._addrs:
            return None
        addr = self._addrs[self._next % len(self._addrs)]
        self._next += 1
        return addr

    def hint(self, addr: str) -> None:
        """This one leads, says who must know: try it next."""
        self._hint, self._lost = addr, None

    def serves(self, addr: str, heartbeat_period_s: float) -> None:
        """This one leads: begin with it next time, and wait little again."""
        self._wait_s = FIRST_WAIT_S
        self._longest_wait_s = heartbeat_period_s
        self._crowd_s = max(0.0, heartbeat_period_s - CROWD_PERIOD_S)
        self._lost = None
        if addr in self._addrs:
            self._next = self._addrs.index(addr)

    def lost(self, addr: str, leader_addr: str | None) -> float:
        """The session with this one broke, perhaps with word of who leads now. Returns the seconds to wait."""
        if addr in self._addrs:
            self._next = self._addrs.index(addr) + 1
        self._lost = addr
        if leader_addr != addr:
            self._hint = leader_addr
        return self._rng.uniform(0.0, self._crowd_s)

    def refused(self, addr: str, leader_addr: str | None) -> float:
        """This one does not serve, and perhaps knows who does. Returns the seconds to wait before the next attempt.

        A hint is followed without a wait, unless it was the hint that led here: two managers may name each other. One
        that names itself has just been elected, and is asked again.
        """
        wait_s = self._wait_s * self._rng.uniform(0.5, 1.5)
        self._wait_s = min(self._wait_s * GROWTH, self._longest_wait_s)
        if not leader_addr or leader_addr == self._lost:
            return wait_s
        self._hint = leader_addr
        return wait_s if leader_addr == addr or self._wait_s > FIRST_WAIT_S * GROWTH else 0.0


def load(path: Path) -> list[str]:
    """Addresses that an earlier daemon saved; empty when there is no such file."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    return [str(addr) for addr in found]


def save(path: Path, addrs: Iterable[str]) -> None:
    """Replace the file whole, so that a crash leaves the old or the new list."""
    beside = path.with_suffix(".new")
    with beside.open("w") as file:
        json.dump(list(addrs), file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
