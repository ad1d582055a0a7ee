"""The allocator stage: addresses in the ingress network, published ports, VXLAN identifiers."""

from swarmpy.manager.allocator.allocator import Allocator

__all__ = ["Allocator"]
