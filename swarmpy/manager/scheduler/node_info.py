"""One node, as the scheduler sees it: what it has left, what is taken of it, and how it did lately."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from swarmpy.rpc.types_pb2 import Node, PortConfig, Task

__all__ = ["FAILURES_THAT_COUNT", "FAILURE_WINDOW_NS", "Claim", "HostPort", "NodeInfo", "host_ports"]

FAILURE_WINDOW_NS = 5 * 60 * 10**9
FAILURES_THAT_COUNT = 5

HostPort = tuple[PortConfig.Protocol, int]
_Version = tuple[str, str]              # service id, template id


class NodeInfo:
    """One node. Numbers may go below zero when a node shrinks under its tasks."""

    __slots__ = ("failures", "id", "load", "memory_bytes", "nano_cpus", "node", "ports", "ready")

    def __init__(self, node: Node) -> None:
        self.id = node.id
        self.node = node
        self.ready = False
        self.nano_cpus = 0                              # free
        self.memory_bytes = 0                           # free
        self.load = 0                                   # tasks that are wanted here
        self.ports: dict[HostPort, int] = {}            # host ports in use; above 1 while a task is taking over
        self.failures: dict[_Version, deque[int]] = {}  # when tasks failed here, Unix ns

    def recent_failures(self, version: _Version, now: int) -> int:
        """How many tasks of a service failed here lately, or 0 while that is too few to matter."""
        times = self.failures.get(version)
        if times is None:
            return 0
        while times and times[0] <= now - FAILURE_WINDOW_NS:
            times.popleft()
        if not times:
            del self.failures[version]
        return len(times) if len(times) >= FAILURES_THAT_COUNT else 0


class Claim(NamedTuple):
    """What each task of a service takes of its node."""

    service_id: str
    nano_cpus: int
    memory_bytes: int
    ports: tuple[HostPort, ...]


def host_ports(task: Task) -> tuple[HostPort, ...]:
    """The ports a task needs for itself on its node; one left open is the node's to choose."""
    if not task.ports:
        return ()
    return tuple(
        (port.protocol, port.published_port)
        for port in task.ports
        if port.publish_mode == PortConfig.HOST and port.published_port
    )
