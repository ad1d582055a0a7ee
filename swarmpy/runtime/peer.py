"""One connection to the shim: frames in, a bounded queue of frames out."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable

from swarmpy.runtime.failure import RuntimeFailure
from swarmpy.runtime.loop import READ, WRITE, Loop
from swarmpy.runtime.wire import FrameParser, Kind, json_frame

__all__ = ["PATIENCE_S", "Peer"]

HIGH_WATER = 1024 * 1024
PATIENCE_S = 30.0


class Peer:
    """Never blocks. `full` says that its reader is slow; it is dropped when it takes nothing for PATIENCE_S."""

    def __init__(
        self, loop: Loop, connection: socket.socket, on_frame: Callable[[Kind, bytes], None],
        on_gone: Callable[[], None],
    ) -> None:  # fmt: skip
        connection.setblocking(False)
        self._loop = loop
        self._socket = connection
        self._parser = FrameParser()
        self._queue: deque[memoryview] = deque()
        self._queued = 0
        self._sent = 0  # bytes in all, to see progress
        self._closing = False
        self._held = False
        self._waiting: list[tuple[Kind, bytes]] = []
        self.droppable = True  # False: it may be as slow as it likes
        self.wrote_stdin = False
        self.closed = False
        self.on_frame = on_frame
        self._on_gone = on_gone
        self.on_closed: Callable[[], None] = lambda: None
        self.on_drained: Callable[[], None] = lambda: None
        loop.watch(connection.fileno(), READ, self._ready)

    @property
    def full(self) -> bool:
        return self._queued > HIGH_WATER

    # -- out -----------------------------------------------------------------------------------------------------

    def send_json(self, value: dict[str, object]) -> None:
        self.send(json_frame(value))

    def send(self, message: bytes) -> None:
        if self.closed:
            return
        was_full = self.full
        self._queue.append(memoryview(message))
        self._queued += len(message)
        if len(self._queue) == 1:
            self._flush()
        if self.full and not was_full and self.droppable:
            self._watch_progress(self._sent)

    def _flush(self) -> None:
        try:
            while self._queue:
                sent = self._socket.send(self._queue[0])
                self._sent += sent
                self._queued -= sent
                if sent == len(self._queue[0]):
                    self._queue.popleft()
                else:
                    self._queue[0] = self._queue[0][sent:]
        except BlockingIOError:
            self._update_events()
            return
        except OSError:  # EPIPE, ECONNRESET: it hung up
            self.close()
            return
        self._update_events()
        if self._closing:
            self.close()

    def _watch_progress(self, before: int) -> None:
        def check() -> None:
            if self.closed or not self.full:
                return
            if self._sent == before:
                self.close()
            else:
                self._watch_progress(self._sent)

        self._loop.after(PATIENCE_S, check)

    def close_when_sent(self) -> None:
        self._closing = True
        if not self._queue:
            self.close()

    # -- in ------------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Take no more frames until `proceed`; the sender waits."""
        self._held = True
        self._update_events()

    def proceed(self) -> None:
        if not self._held:
            return
        self._held = False
        self._update_events()
        waiting, self._waiting = self._waiting, []
        self._deliver(waiting)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            was_full = self.full
            self._flush()
            if was_full and not self.full:
                self.on_drained()
        if self.closed or not events & ~WRITE:
            return
        if self._held:  # reading was not asked for: the other side is gone
            self.close()
            return
        try:
            data = self._socket.recv(65536)
            frames = self._parser.feed(data)
        except BlockingIOError:
            return
        except (OSError, RuntimeFailure):
            self.close()
            return
        self._deliver(frames)
        if not data:
            self.close()

    def _deliver(self, frames: list[tuple[Kind, bytes]]) -> None:
        for index, (kind, data) in enumerate(frames):
            if self.closed:
                return
            if self._held:
                self._waiting += frames[index:]
                return
            self.on_frame(kind, data)

    def _update_events(self) -> None:
        if not self.closed:
            self._loop.change(self._socket.fileno(), (0 if self._held else READ) | (WRITE if self._queue else 0))

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        self._queue.clear()
        self._queued = 0
        self.on_closed()
        self._on_gone()
