"""Two moments in a task's life when its published ports matter: when it begins to serve, and before it is told to end.

A task counts as running, and is sent connections, once it listens; and it is told to end once it has answered those who
were connected before nodes stopped sending it connections. Both waits are short: a program that never listens, or a
client that always has one more wish, holds up nothing for long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from swarmpy.errors import Conflict
from swarmpy.network import TcpSocket, tcp_sockets
from swarmpy.rpc.types_pb2 import PortConfig, Task

__all__ = ["drained", "listening", "tcp_ports"]

LISTEN_S = 10.0
DRAIN_S = 2.0
SHORTEST_LOOK_S, LONGEST_LOOK_S = 0.01, 0.2

Sockets = Callable[[int, frozenset[int]], Awaitable[list[TcpSocket]]]


def tcp_ports(task: Task) -> frozenset[int]:
    """The ports in its container that the task's published ports lead to."""
    return frozenset(port.target_port for port in task.ports if port.protocol == PortConfig.TCP)


async def listening(
    pid: int, ports: frozenset[int], sockets: Sockets = tcp_sockets, *, patience_s: float = LISTEN_S
) -> bool:
    """Returns once the container of process `pid` listens on all of `ports`, has ended, or patience does. Whether it
    listens."""
    return await _until(
        lambda found: ports <= {item.port for item in found if item.listening}, pid, ports, patience_s, sockets
    )


async def drained(
    pid: int, ports: frozenset[int], sockets: Sockets = tcp_sockets, *, patience_s: float = DRAIN_S
) -> bool:
    """Returns once no client on one of `ports` waits for an answer, or patience ends. Whether none waits."""
    return await _until(lambda found: not any(item.owing for item in found), pid, ports, patience_s, sockets)


async def _until(
    right: Callable[[list[TcpSocket]], bool], pid: int, ports: frozenset[int], patience_s: float, sockets: Sockets
) -> bool:
    """The kernel tells nobody that a socket changes its state, so it is asked, less often as time goes by."""
    deadline_s, look_s = time.monotonic() + patience_s, SHORTEST_LOOK_S
    while ports:
        try:
            if right(await sockets(pid, ports)):
                return True
        except Conflict:
            return False
        if time.monotonic() + look_s > deadline_s:
            return False
        await asyncio.sleep(look_s)
        look_s = min(1.5 * look_s, LONGEST_LOOK_S)
    return True
