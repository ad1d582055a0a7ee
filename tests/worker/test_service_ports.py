"""Waiting for a program to listen, and for its clients to have their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from swarmpy.errors import Conflict
from swarmpy.network import TcpSocket
from swarmpy.rpc.types_pb2 import PortConfig, Task
from swarmpy.worker.service_ports import drained, listening, tcp_ports

PORTS = frozenset({80, 443})
HTTP, HTTPS = TcpSocket(80, listening=True), TcpSocket(443, listening=True)
IDLE, OWING = TcpSocket(80, listening=False), TcpSocket(80, listening=False, owing=True)


class Kernel:
    """Tells one state after another, the last one for ever; None is a container that has ended."""

    def __init__(self, *states: Sequence[TcpSocket] | None) -> None:
        self._states = list(states)
        self.asked = 0

    async def __call__(self, pid: int, ports: frozenset[int]) -> list[TcpSocket]:
        self.asked += 1
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        if state is None:
            raise Conflict("it has ended")
        return [item for item in state if item.port in ports]


def test_all_ports_must_listen() -> None:
    kernel = Kernel([], [HTTP], [HTTP, IDLE], [HTTP, HTTPS, OWING])
    assert asyncio.run(listening(1, PORTS, kernel))
    assert kernel.asked == 4


def test_nobody_waits_for_a_program_that_never_listens_or_has_ended() -> None:
    assert not asyncio.run(listening(1, PORTS, Kernel([HTTP]), patience_s=0.05))
    assert not asyncio.run(listening(1, PORTS, Kernel([HTTP], None)))
    assert not asyncio.run(drained(1, PORTS, Kernel([OWING]), patience_s=0.05))
    assert not asyncio.run(drained(1, PORTS, Kernel([OWING], None)))


def test_clients_get_their_answers() -> None:
    kernel = Kernel([HTTP, OWING, IDLE], [HTTP, OWING], [HTTP, IDLE])
    assert asyncio.run(drained(1, PORTS, kernel))
    assert kernel.asked == 3


def test_only_published_tcp_ports_matter() -> None:
    udp = PortConfig(target_port=53, published_port=53, protocol=PortConfig.UDP)
    task = Task(ports=[udp, PortConfig(target_port=80, published_port=8080), PortConfig(target_port=443)])
    assert tcp_ports(task) == PORTS
    kernel = Kernel([])
    assert asyncio.run(listening(1, tcp_ports(Task(ports=[udp])), kernel))
    assert asyncio.run(drained(1, frozenset(), kernel))
    assert kernel.asked == 0
