"""The daemon's event loop: one that takes what gRPC has for it in one turn.

gRPC's poller thread hands completions over: for each it writes a byte to a socket pair, and the callback on the other
end takes one byte. The selector calls it once a turn. When completions come faster than turns, the socket fills up
(some 280 bytes); the poller then waits for room, and from there on one completion a turn gets through: a loop whose
turns take 20 ms, because it has much else to do, hears 50 messages a second from all peers together. Here the
callback is called again while there is more, up to a limit that leaves others their turn.

Source  grpc/_cython/_cygrpc/aio/completion_queue.pyx.pxi: PollerCompletionQueue._handle_events, _BoundEventLoop.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable
from typing import Any

__all__ = ["DaemonLoop"]

A_TURN = 64                     # completions: some milliseconds of work
GRPC = "grpc._cython.cygrpc"


class DaemonLoop(asyncio.SelectorEventLoop):
    """Give it to `asyncio.Runner` as `loop_factory`."""

    def add_reader(  # type: ignore[override]  # the base binds the types of callback and arguments to each other
        self, fd: Any, callback: Callable[..., Any], *args: Any
    ) -> None:
        """As the base class does; gRPC's own reader gets all that waits for it."""
        handler = callback.func if isinstance(callback, functools.partial) else callback
        if isinstance(fd, socket.socket) and getattr(handler, "__module__", None) == GRPC:
            callback, args = functools.partial(_take_all, fd, functools.partial(callback, *args)), ()
        super().add_reader(fd, callback, *args)


def _take_all(source: socket.socket, take_one: Callable[[], object]) -> None:
    for _ in range(A_TURN):
        take_one()
        try:
            source.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
