"""A place that is silent to who connects, as a host without power is."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["full_listener"]


@contextmanager
def full_listener() -> Iterator[int]:
    """A port of 127.0.0.1 where no further connection is made: the kernel drops requests once the queue is full."""
    with contextlib.ExitStack() as held, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])
