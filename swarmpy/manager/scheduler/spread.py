"""Choosing nodes: spread a service first, then the load.

The best node is the one with the fewest recent failures of the service (when they are enough to matter), then the
fewest tasks of the service, then the fewest tasks, then the smallest id, so that equals are chosen the same way on
every manager. Placement preferences come before all of that: they divide the nodes into branches by a label, and each
task goes down the branch that has the fewest tasks of the service, wherever there is still room.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator

from swarmpy.manager.scheduler.filters import Needs
from swarmpy.manager.scheduler.nodes import NodeInfo, NodeView
from swarmpy.manager.store import node_attribute

__all__ = ["place"]

_Take = Callable[[NodeInfo], None]


def place(needs: Needs, count: int, view: NodeView, take: _Take, now: int) -> int:
    """Choose a node for each of `count` equal tasks, as far as there is room, and return how many were placed.

    `take` is called with each chosen node, and must have the view count one more task there before it returns.
    """
    if needs.preferences:
        branch = _Branch(needs, list(view.all()), needs.preferences, now)
        placed = 0
        while placed < count and branch.place(take):
            placed += 1
        return placed
    empty = _least_loaded(needs, count, view, now)
    if len(empty) == count:
        for info in empty:
            take(info)
        return count
    leaf = _Leaf(needs, (info for info in view.by_load() if needs.fits(info)), now)
    placed = 0
    while placed < count and leaf.place(take):
        placed += 1
    return placed


def _least_loaded(needs: Needs, count: int, view: NodeView, now: int) -> list[NodeInfo]:
    """Up to `count` fitting nodes without a task of the service, the least loaded first.

    When there are as many as tasks, these are the best nodes, and most of the swarm need not be looked at.
    """
    version = (needs.service_id, needs.template_id)
    chosen: list[NodeInfo] = []
    if count > len(view):
        return chosen
    for info in view.by_load():
        if needs.service_id not in info.services and needs.fits(info) and not info.recent_failures(version, now):
            chosen.append(info)
            if len(chosen) == count:
                break
    return chosen


class _Leaf:
    """Nodes among which only counts decide."""

    def __init__(self, needs: Needs, nodes: Iterable[NodeInfo], now: int) -> None:
        self._needs = needs
        self._version = (needs.service_id, needs.template_id)
        self._now = now
        self._nodes = [(*self._rank(info), info.node.id, info) for info in nodes]
        heapq.heapify(self._nodes)

    def _rank(self, info: NodeInfo) -> tuple[int, int, int]:
        failures = info.recent_failures(self._version, self._now)
        return failures, info.services.get(self._needs.service_id, 0), info.load

    def place(self, take: _Take) -> bool:
        """Place one task; False when no node has room."""
        if not self._nodes:
            return False
        *_, node_id, info = self._nodes[0]
        take(info)
        if self._needs.fits_again(info):
            heapq.heapreplace(self._nodes, (*self._rank(info), node_id, info))
        else:
            heapq.heappop(self._nodes)
        return True


class _Branch:
    """Nodes divided by the value of a label, with how many tasks of the service each part has."""

    def __init__(self, needs: Needs, nodes: list[NodeInfo], preferences: tuple[str, ...], now: int) -> None:
        parts: dict[str, list[NodeInfo]] = {}
        for info in nodes:
            parts.setdefault(node_attribute(info.node, preferences[0]), []).append(info)
        self._parts = list(self._ranked(needs, parts, preferences[1:], now))
        heapq.heapify(self._parts)

    @staticmethod
    def _ranked(
        needs: Needs, parts: dict[str, list[NodeInfo]], preferences: tuple[str, ...], now: int
    ) -> Iterator[tuple[int, str, _Branch | _Leaf]]:
        for value, nodes in parts.items():
            tasks = sum(info.services.get(needs.service_id, 0) for info in nodes)
            part: _Branch | _Leaf
            if preferences:
                part = _Branch(needs, nodes, preferences, now)
            else:
                part = _Leaf(needs, (info for info in nodes if needs.fits(info)), now)
            yield tasks, value, part

    def place(self, take: _Take) -> bool:
        """Place one task; False when no node below has room."""
        while self._parts:
            tasks, value, part = self._parts[0]
            if part.place(take):
                heapq.heapreplace(self._parts, (tasks + 1, value, part))
                return True
            heapq.heappop(self._parts)
        return False
