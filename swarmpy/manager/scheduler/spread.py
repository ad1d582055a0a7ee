"""Choosing nodes: spread a service first, then the load.

The best node is the one with the fewest recent failures of the service (when they are enough to matter), then the
fewest tasks of the service, then the fewest tasks, then the smallest id, so that equals are chosen the same way on
every manager. Placement preferences come before all of that: they divide the nodes into branches by a label, and each
task goes down the branch that has the fewest tasks of the service, wherever there is still room.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Collection, Iterator
from itertools import islice

from swarmpy.manager.scheduler.demand import Path
from swarmpy.manager.scheduler.filters import Needs
from swarmpy.manager.scheduler.node_info import NodeInfo
from swarmpy.manager.scheduler.nodes import NodeView

__all__ = ["place"]


def place(needs: Needs, count: int, view: NodeView, now: int) -> list[NodeInfo]:
    """A node for each of `count` equal tasks, in their order; fewer where there is no more room. Changes nothing."""
    choice = _Choice(needs, view, now)
    if not choice.paths:
        return []
    return list(islice(iter(_part(choice, choice.paths, ()).choose, None), count))


class _Choice:
    """What the parts of one choice have in common."""

    def __init__(self, needs: Needs, view: NodeView, now: int) -> None:
        self.needs = needs
        self.tasks = view.tasks_of(needs.claim.service_id)      # by node id, before this choice
        self.tasks_below = Counter[Path]()                      # on all nodes of a branch, also those not admitted
        if needs.demand.preferences:
            for node_id, count in self.tasks.items():
                if node_id in view:
                    path = needs.demand.path(view[node_id].node)
                    for depth in range(1, len(path) + 1):
                        self.tasks_below[path[:depth]] += count
        self._admitted = view.admitted(needs.demand)
        self._places = iter(view.by_load())
        self._passed: dict[Path, deque[NodeInfo]] = {path: deque() for path in self.paths}
        self._version = needs.claim.service_id, needs.template_id
        self._now = now

    @property
    def paths(self) -> Collection[Path]:
        return self._admitted.leaves.keys()

    def nodes(self, path: Path) -> Collection[NodeInfo]:
        """Of one leaf."""
        return self._admitted.leaves[path].keys()

    def least_loaded(self, path: Path) -> Iterator[NodeInfo]:
        """The nodes of one leaf in the order of their load. Together the leaves pass over all nodes once at most."""
        passed = self._passed[path]
        while (info := passed.popleft() if passed else self._next(path)) is not None:
            yield info

    def _next(self, path: Path) -> NodeInfo | None:
        path_of = self._admitted.paths.get
        for _, _, info in self._places:
            other = path_of(info)
            if other == path:
                return info
            if other is not None:
                self._passed[other].append(info)
        return None

    def failures(self, info: NodeInfo) -> int:
        """How many tasks of the service failed on a node lately, when they are enough to matter."""
        return info.recent_failures(self._version, self._now) if info.failures else 0


class _Leaf:
    """Nodes among which only counts decide. What is chosen is counted here, until the view counts it."""

    def __init__(self, choice: _Choice, path: Path) -> None:
        self._choice = choice
        self._path = path
        self._empty = self._without_tasks()
        self._chosen: set[NodeInfo] = set()
        self._ranked: list[tuple[int, int, int, str, int, NodeInfo]] | None = None

    def choose(self) -> NodeInfo | None:
        """The best node for one task more; None when none has room."""
        if self._ranked is None:
            for info in self._empty:
                self._chosen.add(info)
                return info
            self._ranked = self._rank()
        if not self._ranked:
            return None
        failures, tasks, load, node_id, room, info = self._ranked[0]
        if room > 1:
            heapq.heapreplace(self._ranked, (failures, tasks + 1, load + 1, node_id, room - 1, info))
        else:
            heapq.heappop(self._ranked)
        return info

    def _without_tasks(self) -> Iterator[NodeInfo]:
        """As long as there are such nodes they are the best, in the order of their load: others need no look."""
        choice, room, tasks = self._choice, self._choice.needs.room, self._choice.tasks
        for info in choice.least_loaded(self._path):
            if info.id not in tasks and room(info, 0) and not choice.failures(info):
                yield info

    def _rank(self) -> list[tuple[int, int, int, str, int, NodeInfo]]:
        choice, ranked = self._choice, []
        for info in choice.nodes(self._path):
            before, taken = choice.tasks.get(info.id, 0), info in self._chosen
            if (room := choice.needs.room(info, before)) > taken:
                ranked.append(
                    (choice.failures(info), before + taken, info.load + taken, info.id, room - taken, info)
                )
        heapq.heapify(ranked)
        return ranked


class _Branch:
    """Nodes divided by the value of a label, with how many tasks of the service each part has."""

    def __init__(self, choice: _Choice, paths: Collection[Path], prefix: Path) -> None:
        divided: dict[Path, list[Path]] = {}
        for path in paths:
            divided.setdefault(path[: len(prefix) + 1], []).append(path)
        self._parts = [
            (choice.tasks_below[deeper], deeper, _part(choice, below, deeper)) for deeper, below in divided.items()
        ]
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


def _part(choice: _Choice, paths: Collection[Path], prefix: Path) -> _Part:
    """All nodes whose paths, these, begin with `prefix`."""
    if prefix in paths:                 # as deep as the preferences go
        return _Leaf(choice, prefix)
    return _Branch(choice, paths, prefix)
