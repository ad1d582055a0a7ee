"""Paths between members: each message may be lost, doubled, held up or overtaken; some paths are cut, maybe one way."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from swarmpy.manager.raft.messages import Message

__all__ = ["Network", "Weather"]


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad it is all the time. Delays are in milliseconds."""

    loss: float
    duplication: float
    max_delay: int
    in_order: bool    # as on a TCP stream; otherwise messages overtake each other


class Network:
    def __init__(self, weather: Weather, random: Random) -> None:
        self.weather = weather
        self._random = random
        self._cut: set[tuple[int, int]] = set()
        self._latest: dict[tuple[int, int], int] = {}
        self._held_up: dict[int, int] = {}

    def arrivals(self, message: Message, now: int) -> list[int]:
        """When the message arrives: never, once or more often."""
        path = (message.sender, message.to)
        random, weather = self._random, self.weather
        if path in self._cut or random.random() < weather.loss:
            return []
        count = 2 if random.random() < weather.duplication else 1
        times = []
        for _ in range(count):
            time = max(now, self._held_up.get(message.sender, 0)) + random.randint(1, weather.max_delay)
            if weather.in_order:
                time = max(time, self._latest.get(path, 0) + 1)
                self._latest[path] = time
            times.append(time)
        return times

    def hold_up(self, sender: int, until: int) -> None:
        """Nothing that `sender` says arrives before `until`."""
        self._held_up[sender] = until

    def cut(self, sender: int, to: int) -> None:
        self._cut.add((sender, to))

    def is_cut(self, sender: int, to: int) -> bool:
        return (sender, to) in self._cut

    def partition(self, left: set[int], right: set[int], *, both_ways: bool) -> None:
        for one in left:
            for other in right:
                self._cut.add((one, other))
                if both_ways:
                    self._cut.add((other, one))

    def heal(self) -> None:
        self._cut.clear()
