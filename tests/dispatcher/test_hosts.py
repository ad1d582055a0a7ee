"""Asking a host whether it is there."""

from __future__ import annotations

import asyncio
import socket

from swarmpy.manager.dispatcher.hosts import host_answers
from tests.full_listener import full_listener

PATIENCE_S = 10.0


def test_a_host_answers_by_accepting_and_by_refusing() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert asyncio.run(host_answers("127.0.0.1", port, PATIENCE_S)), "nothing listens yet: refused"
        listener.listen()
        assert asyncio.run(host_answers("127.0.0.1", port, PATIENCE_S)), "accepted"


def test_silence_and_no_way_to_it_are_no_answer() -> None:
    with full_listener() as port:
        assert not asyncio.run(host_answers("127.0.0.1", port, 0.2))
    assert not asyncio.run(host_answers("255.255.255.255", 9, PATIENCE_S))
