"""Raft messages on a TLS connection of our own: frames in one direction, from the member that dialled to the other.

    frame = length (4 bytes, little-endian) | message

Owns    Outgoing and Incoming, the two ends. They belong to the thread that polls their sockets; nothing here waits.
Laws    What waits to be sent is bounded: beyond that, messages are refused and not queued, for Raft repairs loss and
        not delay. A frame that is longer than any message can be ends the connection before it takes memory.
"""

from __future__ import annotations

import ssl
import struct
from collections import deque

__all__ = ["FRAME_LIMIT_BYTES", "Broken", "Incoming", "Outgoing"]

FRAME_LIMIT_BYTES = 64 << 20
_LENGTH = struct.Struct("<I")
_BACKLOG_BYTES = 32 << 20
_READ_BYTES = 64 << 10
_READS_PER_TURN = 64            # 4 MiB at most: other peers and the clock get their turn


class Broken(Exception):
    """The connection ended, or what came is not what a member sends."""


class Outgoing:
    """The sending end. `send` writes at once what the socket takes and keeps the rest for `flush`."""

    def __init__(self, member: int, socket: ssl.SSLSocket) -> None:
        """To `member`. `socket` is connected, admitted and non-blocking; it is closed with this."""
        self.member = member
        self.socket = socket
        self._backlog: deque[memoryview] = deque()
        self._backlog_bytes = 0

    @property
    def waiting(self) -> bool:
        """Whether `flush` is owed once the socket can be written to."""
        return bool(self._backlog)

    def send(self, message: bytes) -> bool:
        """Returns whether the message was taken: not when too much waits already. Raises Broken."""
        if self._backlog_bytes > _BACKLOG_BYTES:
            return False
        frame = _LENGTH.pack(len(message)) + message
        sent = 0 if self._backlog else self._write(frame)
        if sent < len(frame):
            self._backlog.append(memoryview(frame)[sent:])
            self._backlog_bytes += len(frame) - sent
            self.flush()
        return True

    def flush(self) -> None:
        """Write until all is out or the socket is full. Raises Broken."""
        while self._backlog:
            first = self._backlog[0]
            sent = self._write(first)
            self._backlog_bytes -= sent
            if sent == len(first):
                self._backlog.popleft()
            elif sent:
                self._backlog[0] = first[sent:]
            else:
                return

    def _write(self, data: bytes | memoryview) -> int:
        """How much of it the socket took. Raises Broken."""
        try:
            return self.socket.send(data)
        except ssl.SSLWantWriteError:
            return 0    # TLS wants the same bytes again: they stay at the head of the backlog
        except OSError as error:
            raise Broken(str(error)) from error

    def check(self) -> None:
        """The socket became readable: nothing is ever sent this way, so that is its end. Raises Broken."""
        try:
            if not self.socket.recv(1):
                raise Broken("the peer closed the connection")
        except ssl.SSLWantReadError:
            return
        except OSError as error:
            raise Broken(str(error)) from error
        raise Broken("the peer sent data where none is expected")

    def close(self) -> None:
        self.socket.close()


class Incoming:
    """The receiving end."""

    def __init__(self, member: int, socket: ssl.SSLSocket) -> None:
        """From `member`. `socket` is connected, admitted and non-blocking; it is closed with this."""
        self.member = member
        self.socket = socket
        self._read = memoryview(bytearray(_READ_BYTES))
        self._partial = bytearray()
        self.ended = ""                 # why nothing more will come

    def receive(self) -> list[bytes]:
        """Every whole message that has come, up to a few MiB. Sets `ended` once no more will."""
        messages: list[bytes] = []
        try:
            for _ in range(_READS_PER_TURN):
                size = self.socket.recv_into(self._read)
                if size == 0:
                    raise Broken("the peer closed the connection")
                self._take(self._read[:size], messages)
                if not self._partial and not self.socket.pending():
                    break    # what comes next wakes the poll again
        except ssl.SSLWantReadError:
            pass
        except (OSError, Broken) as error:
            self.ended = str(error)
        return messages

    @property
    def pending(self) -> bool:
        """Whether TLS holds decrypted bytes, of which the poll knows nothing."""
        return self.socket.pending() > 0

    def _take(self, data: memoryview, messages: list[bytes]) -> None:
        if not self._partial:
            rest = _split(data, messages)
            self._partial += data[rest:]
            return
        self._partial += data
        if len(self._partial) >= _frame_bytes(self._partial):
            with memoryview(self._partial) as joined:
                rest = _split(joined, messages)
            del self._partial[:rest]

    def close(self) -> None:
        self.socket.close()


def _frame_bytes(data: bytearray | memoryview) -> int:
    """How long the frame at the beginning is; no more than its header says. Raises Broken."""
    if len(data) < _LENGTH.size:
        return _LENGTH.size
    (length,) = _LENGTH.unpack_from(data)
    if length > FRAME_LIMIT_BYTES:
        raise Broken(f"a frame of {length} bytes is longer than any message")
    return _LENGTH.size + int(length)


def _split(data: memoryview, messages: list[bytes]) -> int:
    """Append every whole message; returns where the rest begins."""
    at = 0
    while len(data) - at >= _LENGTH.size:
        end = at + _frame_bytes(data[at:])
        if end > len(data):
            break
        messages.append(bytes(data[at + _LENGTH.size : end]))
        at = end
    return at
