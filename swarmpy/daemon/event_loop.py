"""The daemon's event loop: one that takes what gRPC has for it in one turn.

gRPC's poller thread hands completions over in a queue: for each it writes a byte to a socket pair, and the callback on
the other end takes one byte and all that is queued. The selector calls it once a turn. When completions come faster
than turns, the socket fills up (some 280 bytes); the poller then waits for room for its byte, and from there on one
completion a turn gets through: a loop whose turns take 20 ms, because it has much else to do, hears 50 messages a
second from all peers together. Here all bytes that wait are taken, so the poller finds room in each turn.

Source  grpc/_cython/_cygrpc/aio/completion_queue.pyx.pxi: PollerCompletionQueue._handle_events, _BoundEventLoop.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable
from typing import Any

__all__ = ["DaemonLoop"]

MOST_BYTES = 4096               # more than the socket holds
GRPC = "grpc._cython.cygrpc"


class DaemonLoop(asyncio.SelectorEventLoop):
    """Give it to `asyncio.Runner` as `loop_factory`."""

    def add_reader(  # type: ignore[override]  # the base binds the types of callback and arguments to each other
        self, fd: Any, callback: Callable[..., Any], *args: Any
    ) -> None:
        """As the base class does; of the bytes for gRPC's own reader, all but the one it takes are taken before."""
        handler = callback.func if isinstance(callback, functools.partial) else callback
        if isinstance(fd, socket.socket) and getattr(handler, "__module__", None) == GRPC:
            callback, args = functools.partial(_hand_over, fd, functools.partial(callback, *args)), ()
        super().add_reader(fd, callback, *args)


def _hand_over(source: socket.socket, take: Callable[[], object]) -> None:
    surplus = len(source.recv(MOST_BYTES, socket.MSG_PEEK)) - 1
    if surplus > 0:
        source.recv(surplus)
    take()
