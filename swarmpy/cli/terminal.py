"""This process's terminal joined to a stream of a container: raw mode, window size, both directions at once.

Source  termios(3), tty_ioctl(4) TIOCGWINSZ; Docker Engine API: ContainerAttach, ExecStart.
"""

from __future__ import annotations

import errno
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
from typing import TYPE_CHECKING

from swarmpy.cli.failures import ApiError
from swarmpy.detach_keys import DetachKeys

if TYPE_CHECKING:
    from swarmpy.cli.client import Hijacked

__all__ = ["forwarded_signals", "join_streams", "raw_terminal", "window_size"]

CHUNK = 65536
HEADER = 8
CONFLICT = 409
FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
Resize = Callable[[int, int], None]


def window_size() -> tuple[int, int]:
    """(rows, columns)."""
    size = shutil.get_terminal_size()
    return size.lines, size.columns


@contextmanager
def raw_terminal(resize: Resize) -> Iterator[Callable[[], None]]:
    """Keys go through unread while inside; every change of the window's size is told.

    Yields what tells the size once more: a process that has not begun yet, or has just ended, cannot be told.
    """

    def tell(*_: object) -> None:
        try:
            resize(*window_size())
        except ApiError as error:
            if error.status != CONFLICT:
                raise

    if not sys.stdin.isatty():
        yield lambda: None
        return
    before = termios.tcgetattr(sys.stdin)
    previous = signal.signal(signal.SIGWINCH, tell)
    try:
        tty.setraw(sys.stdin, termios.TCSANOW)  # what has been typed ahead is for the container
        tell()
        yield tell
    finally:
        signal.signal(signal.SIGWINCH, previous)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@contextmanager
def forwarded_signals(send: Callable[[int], None]) -> Iterator[None]:
    """What this process is told to do, the container is told instead."""

    def forward(number: int, _: object) -> None:
        try:
            send(number)
        except ApiError as error:
            if error.status != CONFLICT:  # it has just ended
                raise

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def join_streams(
    stream: Hijacked, *, stdin: bool, tty: bool, keys: bytes, begun: Callable[[], None] = lambda: None
) -> bool:
    """Copy until the container's side ends. End of our input is passed on by closing that half of the connection.

    `keys` detach, where there is a terminal. `begun` is called with the first output. Returns True when the user has
    detached, and False otherwise.
    """
    connection = stream.connection
    output = _Output(tty)
    escape = DetachKeys(keys) if tty else None
    if stream.early:
        output.write(stream.early)
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        if stdin:
            _register_input(selector, connection)
        while True:
            for key, _ in selector.select():
                if key.fileobj is connection:
                    data = _heard(connection)
                    if not data:
                        return False
                    if not output.begun:
                        begun()
                    output.write(data)
                elif data := os.read(sys.stdin.fileno(), CHUNK):
                    if not _taken(connection, escape.feed(data) if escape else data):
                        selector.unregister(sys.stdin)
                    if escape and escape.pressed:
                        return True
                else:
                    selector.unregister(sys.stdin)
                    _end_input(connection)


def _register_input(selector: selectors.BaseSelector, connection: socket.socket) -> None:
    try:
        selector.register(sys.stdin, selectors.EVENT_READ)
    except PermissionError:  # epoll(7): a plain file is always ready, and cannot be polled
        if _taken(connection, sys.stdin.buffer.read()):
            _end_input(connection)


def _heard(connection: socket.socket) -> bytes:
    """What is said next; empty at the end, however it comes: a daemon that closes with input of ours unread resets the
    connection, and one that is gone is missed when it is asked how the container ended."""
    try:
        return connection.recv(CHUNK)
    except OSError:
        return b""


def _taken(connection: socket.socket, data: bytes) -> bool:
    """Send; False when nobody listens any more. What was said before is still to be read."""
    try:
        connection.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _end_input(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError as error:
        if error.errno != errno.ENOTCONN:  # it has gone meanwhile
            raise


class _Output:
    """Where what comes goes: a terminal's bytes to stdout, frames to stdout or stderr."""

    def __init__(self, tty: bool) -> None:
        self._split = None if tty else Demultiplexer()
        self.begun = False

    def write(self, data: bytes) -> None:
        self.begun = True
        if self._split is None:
            write(1, data)
            return
        for stream, part in self._split.feed(data):
            write(2 if stream == 2 else 1, part)


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
