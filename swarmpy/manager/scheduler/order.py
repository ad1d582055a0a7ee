"""Ready nodes in the order of their load, and those of them that a demand admits."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

from swarmpy.manager.scheduler.demand import Demand, Path
from swarmpy.manager.scheduler.node_info import NodeInfo

__all__ = ["Admitted", "LoadOrder", "Place"]

Place = tuple[int, str, NodeInfo]       # load, id: equals are chosen the same way on every manager

_FEW = 4            # of so many nodes one may have changed to be put right by itself; else all are sorted anew


class LoadOrder:
    """The least loaded first. A node that changed is noted, and put right when the order is asked for."""

    def __init__(self) -> None:
        self._places: list[Place] = []
        self._listed: dict[NodeInfo, Place] = {}
        self._changed: set[NodeInfo] = set()

    def note(self, info: NodeInfo) -> None:
        """A node is new, changed or gone."""
        self._changed.add(info)

    def places(self) -> list[Place]:
        """The order's own: change nothing, and do not keep it."""
        if len(self._changed) * _FEW > len(self._listed):
            for info in self._changed:
                self._list(info)
            self._places = sorted(self._listed.values())
        else:
            places = self._places
            for info in self._changed:
                before = self._listed.get(info)
                if before is not None:
                    del places[bisect_left(places, before)]
                if (place := self._list(info)) is not None:
                    insort(places, place)
        self._changed.clear()
        return self._places

    def _list(self, info: NodeInfo) -> Place | None:
        if not info.ready:
            self._listed.pop(info, None)
            return None
        place = self._listed[info] = info.load, info.id, info
        return place


class Admitted:
    """The ready nodes that one demand admits, whatever runs there, divided by its preferences."""

    def __init__(self, demand: Demand, nodes: Iterable[NodeInfo]) -> None:
        self.paths: dict[NodeInfo, Path] = {}
        self.leaves: dict[Path, dict[NodeInfo, None]] = {}      # none of them empty
        self._demand = demand
        for info in nodes:
            self.put(info)

    def put(self, info: NodeInfo) -> None:
        """A node is new, changed or gone."""
        before = self.paths.get(info)
        path = self._demand.path(info.node) if info.ready and self._demand.admits(info.node) else None
        if path == before:
            return
        if before is not None:
            del self.paths[info]
            del self.leaves[before][info]
            if not self.leaves[before]:
                del self.leaves[before]
        if path is not None:
            self.paths[info] = path
            self.leaves.setdefault(path, {})[info] = None
