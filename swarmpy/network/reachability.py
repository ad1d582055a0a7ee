"""Which backends on other nodes answer this node: what it can tell without any manager. Pure.

Owns    for each remote backend, how many questions in a row it left unanswered, and whose turn it is to be asked.
In      each remote backend as it comes and goes, and in each round who answered since the one before.
Out     whom to ask now; `silent`, the backends to be left out.

A backend is silent after `MISSES` questions without an answer, until it answers again; a new one counts as answering.
A round asks at most `ASKED` of them, those under suspicion first, so its cost does not grow with the swarm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from ipaddress import IPv4Address
from itertools import islice

__all__ = ["ASKED", "MISSES", "Reachability"]

MISSES = 3
ASKED = 100


class Reachability:
    """Rounds of questions. The answers to one are given to the next."""

    def __init__(self) -> None:
        self._backends: set[IPv4Address] = set()
        self._turns: deque[IPv4Address] = deque()  # with some that are backends no more
        self._missed: dict[IPv4Address, int] = {}
        self._asked: tuple[IPv4Address, ...] = ()

    @property
    def silent(self) -> frozenset[IPv4Address]:
        """Backends that do not answer."""
        return frozenset(address for address, missed in self._missed.items() if missed >= MISSES)

    def answers(self, address: IPv4Address) -> bool:
        """Whether it is not silent."""
        return self._missed.get(address, 0) < MISSES

    def watch(self, address: IPv4Address) -> None:
        """From now on it is a backend on another node."""
        if address not in self._backends:
            self._backends.add(address)
            self._turns.append(address)

    def forget(self, address: IPv4Address) -> None:
        """It is none any more."""
        self._backends.discard(address)
        self._missed.pop(address, None)

    def round(self, heard: Iterable[IPv4Address]) -> tuple[IPv4Address, ...]:
        """Judge the last round by who was heard since; whom to ask in this one."""
        for address in self._backends.intersection(self._asked):
            self._missed[address] = self._missed.get(address, 0) + 1
        for address in heard:
            self._missed.pop(address, None)
        suspects = (address for address, missed in self._missed.items() if missed < MISSES)
        asked = dict.fromkeys(islice(suspects, ASKED // 2))
        turns: set[IPv4Address] = set()
        for _ in range(min(ASKED - len(asked), len(self._turns))):
            address = self._turns.popleft()
            if address in self._backends and address not in turns:
                self._turns.append(address)
                turns.add(address)
        asked.update(dict.fromkeys(turns))
        self._asked = tuple(asked)
        return self._asked
