"""This process's terminal joined to a stream of a container: raw mode, window size, both directions at once.

Source  termios(3), tty_ioctl(4) TIOCGWINSZ; Docker Engine API: ContainerAttach, ExecStart.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import socket
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["join_streams", "raw_terminal", "window_size"]

CHUNK = 65536
HEADER = 8
Resize = Callable[[int, int], None]


def window_size() -> tuple[int, int]:
    """(rows, columns)."""
    size = shutil.get_terminal_size()
    return size.lines, size.columns


@contextmanager
def raw_terminal(on_resize: Resize) -> Iterator[None]:
    """Keys go through unread while inside; every change of the window's size is told."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    previous = signal.signal(signal.SIGWINCH, lambda *_: on_resize(*window_size()))
    try:
        tty.setraw(sys.stdin)
        on_resize(*window_size())
        yield
    finally:
        signal.signal(signal.SIGWINCH, previous)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def join_streams(connection: socket.socket, *, stdin: bool, tty: bool) -> None:
    """Copy until the container's side ends. End of our input is passed on by closing that half of the connection."""
    split = Demultiplexer()
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        if stdin:
            try:
                selector.register(sys.stdin, selectors.EVENT_READ)
            except PermissionError:  # epoll(7): a plain file is always ready, and cannot be polled
                connection.sendall(sys.stdin.buffer.read())
                connection.shutdown(socket.SHUT_WR)
        while True:
            for key, _ in selector.select():
                if key.fileobj is connection:
                    data = connection.recv(CHUNK)
                    if not data:
                        return
                    if tty:
                        write(1, data)
                    else:
                        for stream, part in split.feed(data):
                            write(2 if stream == 2 else 1, part)
                elif data := os.read(sys.stdin.fileno(), CHUNK):
                    connection.sendall(data)
                else:
                    selector.unregister(sys.stdin)
                    connection.shutdown(socket.SHUT_WR)


class Demultiplexer:
    """Frames of eight bytes of header and data, fed as they arrive."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        self._pending += data
        while len(self._pending) >= HEADER:
            end = HEADER + int.from_bytes(self._pending[4:HEADER], "big")
            if len(self._pending) < end:
                return
            yield self._pending[0], self._pending[HEADER:end]
            self._pending = self._pending[end:]


def write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
