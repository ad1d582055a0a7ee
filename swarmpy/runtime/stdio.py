"""The streams of one process: pipes or a terminal on one side, the log and any number of attached peers on the other.

Owns    how fast output is read. Every attached peer has a bounded queue; while one is full, the process' output is not
        read, so it waits. A peer that takes nothing for PATIENCE_S is dropped, so that it cannot stop a container for
        ever; the log is written before any peer sees the data and loses nothing.
Law     Standard input is written as the process takes it; peers that send more wait.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable
from functools import partial

from swarmpy.runtime.json_log import JsonLog
from swarmpy.runtime.loop import READ, WRITE, Loop
from swarmpy.runtime.peer import Peer
from swarmpy.runtime.wire import Kind, frame

__all__ = ["ProcessStreams", "make_pipes"]

CHUNK = 65536
STDIN_HIGH_WATER = 256 * 1024
DRAIN_S = 1.0
TERMINAL_HOLDS = 1024 * 1024  # more than a pty's buffers ever do: TTYB_DEFAULT_MEM_LIMIT, drivers/tty/tty_buffer.c


def make_pipes(stdin: bool, owner: tuple[int, int] | None) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The process' ends (0, 1, 2) and ours (-1 for no standard input).

    They belong to `owner` (host uid and gid), so that the process can open /dev/stdout by its path.
    """
    if stdin:
        child_in, our_in = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(our_in, False)
    else:
        child_in, our_in = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1
    our_out, child_out = os.pipe2(os.O_CLOEXEC)
    our_err, child_err = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(our_out, False)
    os.set_blocking(our_err, False)
    if owner is not None and owner != (0, 0):
        for descriptor in (child_out, child_err, *((child_in,) if stdin else ())):
            os.fchown(descriptor, *owner)
    return (child_in, child_out, child_err), (our_in, our_out, our_err)


class ProcessStreams:
    """One process' streams. Calls `ended` once, when all output has been seen or will no longer be waited for."""

    def __init__(
        self, loop: Loop, log: JsonLog | None, ended: Callable[[], None], complain: Callable[[str], None]
    ) -> None:
        self._loop = loop
        self._log = log
        self._ended = ended
        self._complain = complain
        self._outputs: dict[int, Kind] = {}
        self._stdin = -1
        self._stdin_queue = bytearray()
        self._closing_stdin = False
        self._master = -1
        self._peers: list[Peer] = []
        self._paused = False
        self.stdin_once = False
        self.finished = False

    def open_pipes(self, stdin: int, stdout: int, stderr: int) -> None:
        self._stdin = stdin
        self._outputs = {stdout: Kind.STDOUT, stderr: Kind.STDERR}
        self._listen()

    def open_terminal(self, master: int) -> None:
        """Everything a terminal shows is standard output. Input goes through a copy of the descriptor."""
        os.set_blocking(master, False)
        self._master = master
        self._stdin = os.dup(master)
        self._outputs = {master: Kind.STDOUT}
        self._listen()

    def _listen(self) -> None:
        for descriptor in self._outputs:
            self._loop.watch(descriptor, READ, partial(self._ready, descriptor))

    def _ready(self, descriptor: int, events: int) -> None:
        self._read(descriptor)

    def resize(self, height: int, width: int) -> bool:
        """False when there is no terminal (any more)."""
        if self._master < 0:
            return False
        fcntl.ioctl(self._master, 0x5414, struct.pack("HHHH", height, width, 0, 0))  # TIOCSWINSZ
        return True

    # -- output --------------------------------------------------------------------------------------------------

    def _read(self, descriptor: int) -> int:
        """Pass on one chunk, and say how long it is: 0 when there is none now."""
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno != errno.EIO:  # pty(7): the last slave was closed
                raise
            data = b""
        if not data:
            self._close_output(descriptor)
            return 0
        self._pass_on(self._outputs[descriptor], data)
        return len(data)

    def _pass_on(self, kind: Kind, data: bytes) -> None:
        if self._log is not None:
            self._write_log(kind, data)
        if self._peers:
            message = frame(kind, data)
            for peer in list(self._peers):
                peer.send(message)
            self._regulate()

    def _write_log(self, kind: Kind, data: bytes) -> None:
        """A full disk must not end the container: its output then goes on without a log, and says so once."""
        assert self._log is not None
        try:
            self._log.write("stdout" if kind is Kind.STDOUT else "stderr", data, time.time_ns())
        except OSError as error:
            self._complain(f"log is lost: {error}")
            self._log = None

    def _regulate(self) -> None:
        """Read on only while no peer's queue is full."""
        full = any(peer.full for peer in self._peers)
        if full == self._paused:
            return
        self._paused = full
        for descriptor in self._outputs:
            self._loop.change(descriptor, 0 if full else READ)

    def _close_output(self, descriptor: int) -> None:
        del self._outputs[descriptor]
        self._loop.forget(descriptor)
        if descriptor != self._master:
            os.close(descriptor)
        if not self._outputs:
            self._finish()

    def process_ended(self) -> None:
        """The process is gone. What it wrote is read; what others still hold open is waited for DRAIN_S, no longer.

        No more of it can be on its way than a pipe holds, so that one who goes on writing cannot keep us here.
        """
        for descriptor in list(self._outputs):
            left = TERMINAL_HOLDS if descriptor == self._master else fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
            while left > 0 and descriptor in self._outputs and (read := self._read(descriptor)):
                left -= read
        if not self.finished:
            self._loop.after(DRAIN_S, self._finish)

    def _finish(self) -> None:
        if self.finished:
            return
        self.finished = True
        for descriptor in list(self._outputs):
            self._loop.forget(descriptor)
            if descriptor != self._master:
                os.close(descriptor)
        self._outputs = {}
        self._close_stdin()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
        if self._log is not None:
            try:
                self._log.finish(time.time_ns())
            except OSError as error:
                self._complain(f"log is lost: {error}")
        for peer in self._peers:
            peer.send(frame(Kind.END))
            peer.close_when_sent()
        self._peers = []
        self._ended()

    # -- peers ---------------------------------------------------------------------------------------------------

    def attach(self, peer: Peer) -> None:
        """From now on `peer` gets all output, and its input frames go to the process."""
        peer.on_frame = lambda kind, data: self._from_peer(peer, kind, data)
        peer.on_drained = self._regulate
        peer.on_closed = lambda: self._detach(peer)
        if self.finished:
            peer.send(frame(Kind.END))
            peer.close_when_sent()
            return
        self._peers.append(peer)

    def _detach(self, peer: Peer) -> None:
        if peer not in self._peers:
            return
        self._peers.remove(peer)
        self._regulate()
        if self.stdin_once and peer.wrote_stdin:
            self._end_stdin()

    def _from_peer(self, peer: Peer, kind: Kind, data: bytes) -> None:
        if kind is Kind.STDIN:
            peer.wrote_stdin = True
            self._feed_stdin(data)
            if len(self._stdin_queue) > STDIN_HIGH_WATER:
                peer.hold()
        elif kind is Kind.CLOSE_STDIN:
            self._end_stdin()

    # -- input ---------------------------------------------------------------------------------------------------

    def _feed_stdin(self, data: bytes) -> None:
        if self._stdin < 0 or self._closing_stdin:
            return
        watched = bool(self._stdin_queue)
        self._stdin_queue += data
        self._drain_stdin()
        if self._stdin_queue and not watched:
            self._loop.watch(self._stdin, WRITE, lambda _: self._drain_stdin())

    def _drain_stdin(self) -> None:
        watched = self._loop.watches(self._stdin)
        try:
            while self._stdin_queue:
                written = os.write(self._stdin, self._stdin_queue[:CHUNK])
                del self._stdin_queue[:written]
        except BlockingIOError:
            return
        except OSError:  # EPIPE, EIO: the process closed its standard input
            self._stdin_queue.clear()
            self._close_stdin()
            watched = False
        if watched:
            self._loop.forget(self._stdin)
        if self._closing_stdin:
            self._close_stdin()
        for peer in self._peers:
            peer.proceed()

    def _end_stdin(self) -> None:
        """Close the process' input once all that came before has been written. A terminal has no half to close."""
        if self._master >= 0:
            return
        self._closing_stdin = True
        if not self._stdin_queue:
            self._close_stdin()

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            self._loop.forget(self._stdin)
            os.close(self._stdin)
            self._stdin = -1
