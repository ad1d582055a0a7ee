"""TLS to a daemon, as a plain socket: each direction ends by itself, and select(2) sees all that has come.

Owns    the connection, and two threads that carry what is said in either direction between it and a socket pair.
Laws    Python's own SSLSocket cannot end one direction and go on with the other, which `docker run` does at once; and
        it keeps bytes back that select(2) does not know of. So records are made and read in memory (ssl.MemoryBIO).
Source  RFC 8446, 6.1: a close_notify ends the direction of who sends it.
"""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress

__all__ = ["TlsSocket", "connect_tls"]

CHUNK = 1 << 16


class TlsSocket(socket.socket):
    """The near end. When the connection has ended for a reason, whoever reads on hears it."""

    failure: OSError | None = None

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        if not data and self.failure is not None:
            raise self.failure
        return data


def connect_tls(connection: socket.socket, context: ssl.SSLContext, host: str) -> TlsSocket:
    """Shake hands as a client of `host`. The connection is this function's. Raises OSError (SSLError among them)."""
    records = _Records(connection, context, host)
    try:
        records.shake_hands()
    except BaseException:
        connection.close()
        raise
    near, far = socket.socketpair()
    tls = TlsSocket(near.family, near.type, near.proto, near.detach())
    inward = threading.Thread(target=_inward, args=(records, far, tls), name="from the daemon", daemon=True)
    outward = threading.Thread(target=_outward, args=(records, far), name="to the daemon", daemon=True)
    inward.start()
    outward.start()
    return tls


def _inward(records: _Records, far: socket.socket, tls: TlsSocket) -> None:
    """What the daemon says, until it ends its direction."""
    try:
        while data := records.read():
            far.sendall(data)
    except OSError as failure:
        tls.failure = failure
    _end(far, socket.SHUT_WR)


def _outward(records: _Records, far: socket.socket) -> None:
    """What is said to the daemon, until that direction ends or nobody listens any more."""
    try:
        while data := far.recv(CHUNK):
            records.write(data)
        records.end()
    except OSError:
        _end(far, socket.SHUT_RD)       # what the daemon said before it left is still read


def _end(far: socket.socket, direction: int) -> None:
    try:
        far.shutdown(direction)
    except OSError:
        return                          # the near end has been closed


class _Records:
    """TLS over a connection, for one thread that reads and one that writes."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._connection = connection
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)
        self._ended = False
        self._state = threading.Lock()      # held for a moment, while records are made or read
        self._sending = threading.Lock()    # so that records leave in the order in which they were made

    def shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._take_in(self._connection.recv(CHUNK))
            else:
                return
            finally:
                self._flush()           # an alert says what is wrong with the other side

    def read(self) -> bytes:
        """What has come next; empty at the end."""
        with self._state:
            data = self._taken()
        while not data and not self._ended:
            came = self._connection.recv(CHUNK)
            with self._state:
                self._take_in(came)
                data = self._taken()
            self._flush()
        return data

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            with self._state:
                view = view[self._tls.write(view) :]
            self._flush()

    def end(self) -> None:
        """Nothing more will be written."""
        with self._state, suppress(ssl.SSLWantReadError):   # it would also like to read the other side's end
            self._tls.unwrap()
        self._flush()

    def _taken(self) -> bytes:
        """All that can be read now. What stayed behind `end` would meet, and take for an offence."""
        parts = []
        try:
            while part := self._tls.read(CHUNK):
                parts.append(part)
        except ssl.SSLWantReadError:
            return b"".join(parts)
        except ssl.SSLEOFError:
            if not parts:
                raise
            return b"".join(parts)      # and the next read tells of the rest
        except ssl.SSLZeroReturnError:
            pass
        self._ended = True
        return b"".join(parts)

    def _take_in(self, data: bytes) -> None:
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    def _flush(self) -> None:
        with self._sending:
            with self._state:
                data = self._out.read()
            if data:
                self._connection.sendall(data)
