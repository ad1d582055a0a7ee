"""What tasks ask of a node itself, whatever runs there: it changes with the node alone."""

from __future__ import annotations

from typing import NamedTuple

from swarmpy.manager.store import Constraint, node_attribute, normal_architecture
from swarmpy.rpc.types_pb2 import Node

__all__ = ["Demand", "Path"]

Path = tuple[str, ...]          # the values of the spread descriptors on a node, outermost first


class Demand(NamedTuple):
    """Hashable: equal demands see the same nodes."""

    constraints: tuple[Constraint, ...] = ()
    platforms: tuple[tuple[str, str], ...] = ()     # os, architecture; an empty one is any, none at all too
    preferences: tuple[str, ...] = ()               # spread descriptors, outermost first

    def admits(self, node: Node) -> bool:
        return self.within_constraints(node) and self.on_platform(node)

    def within_constraints(self, node: Node) -> bool:
        return all(constraint.admits(node) for constraint in self.constraints)

    def on_platform(self, node: Node) -> bool:
        if not self.platforms:
            return True
        platform = node.description.platform
        os, architecture = platform.os.lower(), normal_architecture(platform)
        return any((not o or o == os) and (not a or a == architecture) for o, a in self.platforms)

    def path(self, node: Node) -> Path:
        return tuple(node_attribute(node, preference) for preference in self.preferences)
