"""Asking a host whether it is there."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from swarmpy.manager.dispatcher.hosts import host_answers

PATIENCE_S = 10.0


def test_a_host_answers_by_accepting_and_by_refusing() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert asyncio.run(host_answers("127.0.0.1", port, PATIENCE_S)), "nothing listens yet: refused"
        listener.listen()
        assert asyncio.run(host_answers("127.0.0.1", port, PATIENCE_S)), "accepted"


def test_silence_and_no_way_to_it_are_no_answer() -> None:
    with contextlib.ExitStack() as held, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):               # the kernel drops further requests once the queue of a listener is full
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        assert not asyncio.run(host_answers("127.0.0.1", listener.getsockname()[1], 0.2))
    assert not asyncio.run(host_answers("255.255.255.255", 9, PATIENCE_S))
