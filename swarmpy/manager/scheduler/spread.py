"""Choosing nodes: spread a service first, then the load.

The best node is the one with the fewest recent failures of the service (when they are enough to matter), then the
fewest tasks of the service, then the fewest tasks, then the smallest id, so that equals are chosen the same way on
every manager. Placement preferences come before all of that: they divide the nodes into branches by a label, and each
task goes down the branch that has the fewest tasks of the service, wherever there is still room.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from itertools import islice

from swarmpy.manager.scheduler.filters import Needs
from swarmpy.manager.scheduler.nodes import NodeInfo, NodeView
from swarmpy.manager.store import node_attribute

__all__ = ["place"]


def place(needs: Needs, count: int, view: NodeView, now: int) -> list[NodeInfo]:
    """A node for each of `count` equal tasks, in their order; fewer where there is no more room. Changes nothing."""
    if needs.preferences:
        part: _Part = _Branch(needs, view.all(), needs.preferences, now)
    else:
        empty = _least_loaded(needs, count, view, now)
        if len(empty) == count:
            return empty
        part = _Leaf(needs, view.by_load(), now)
    return list(islice(iter(part.choose, None), count))


def _least_loaded(needs: Needs, count: int, view: NodeView, now: int) -> list[NodeInfo]:
    """Up to `count` fitting nodes without a task of the service, the least loaded first.

    When there are as many as tasks, these are the best nodes, and most of the swarm need not be looked at.
    """
    service_id = needs.claim.service_id
    version = (service_id, needs.template_id)
    chosen: list[NodeInfo] = []
    if count > len(view):
        return chosen
    for info in view.by_load():
        if service_id not in info.services and needs.room(info) and not info.recent_failures(version, now):
            chosen.append(info)
            if len(chosen) == count:
                break
    return chosen


class _Leaf:
    """Nodes among which only counts decide. What is chosen is counted here until the view counts it."""

    def __init__(self, needs: Needs, nodes: Iterable[NodeInfo], now: int) -> None:
        service_id = needs.claim.service_id
        version = (service_id, needs.template_id)
        self._ranked = [
            (info.recent_failures(version, now), info.services.get(service_id, 0), info.load, info.id, room, info)
            for info in nodes
            if (room := needs.room(info))
        ]
        heapq.heapify(self._ranked)

    def choose(self) -> NodeInfo | None:
        """The best node for one task more; None when none has room."""
        if not self._ranked:
            return None
        failures, tasks, load, node_id, room, info = self._ranked[0]
        if room > 1:
            heapq.heapreplace(self._ranked, (failures, tasks + 1, load + 1, node_id, room - 1, info))
        else:
            heapq.heappop(self._ranked)
        return info


class _Branch:
    """Nodes divided by the value of a label, with how many tasks of the service each part has."""

    def __init__(self, needs: Needs, nodes: Iterable[NodeInfo], preferences: tuple[str, ...], now: int) -> None:
        divided: dict[str, list[NodeInfo]] = {}
        for info in nodes:
            divided.setdefault(node_attribute(info.node, preferences[0]), []).append(info)
        self._parts: list[tuple[int, str, _Part]] = []
        for value, members in divided.items():
            tasks = sum(info.services.get(needs.claim.service_id, 0) for info in members)
            deeper = preferences[1:]
            part = _Branch(needs, members, deeper, now) if deeper else _Leaf(needs, members, now)
            self._parts.append((tasks, value, part))
        heapq.heapify(self._parts)

    def choose(self) -> NodeInfo | None:
        """The best node of the part with the fewest tasks; None when none below has room."""
        while self._parts:
            tasks, value, part = self._parts[0]
            if (info := part.choose()) is not None:
                heapq.heapreplace(self._parts, (tasks + 1, value, part))
                return info
            heapq.heappop(self._parts)
        return None


_Part = _Leaf | _Branch
