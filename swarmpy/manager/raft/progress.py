"""How far one follower has come, as its leader knows: the only place where that moves.

Owns    Progress, a small state machine for each follower and learner:

            PROBE      the point where the logs agree is being sought: one append at a time
            REPLICATE  it is known: appends are pipelined within a window
            SNAPSHOT   what it needs was compacted: chunks of a snapshot flow within a window

            PROBE --accepted--> REPLICATE --rejected, unreachable--> PROBE
            any   --its next entry is compacted--> SNAPSHOT --installed--> PROBE --> REPLICATE
Law     match < next; match never falls; a stale answer changes nothing.
Source  Raft paper, 5.3; thesis, 10.2.1 (pipelining).
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

from swarmpy.manager.raft.messages import Snapshot

__all__ = ["Progress", "ProgressState", "Window"]


_OVERDUE_TICKS = 2    # at least one whole tick


class ProgressState(enum.Enum):
    PROBE = enum.auto()
    REPLICATE = enum.auto()
    SNAPSHOT = enum.auto()


@dataclass(frozen=True, slots=True)
class Window:
    """How much may be under way to one follower."""

    appends: int = 256
    append_bytes: int = 8 << 20
    chunks: int = 4
    chunk_bytes: int = 256 << 10


@dataclass(slots=True)
class Progress:
    """Starts at `next`, with nothing known to match."""

    window: Window
    next: int
    match: int = 0
    state: ProgressState = ProgressState.PROBE
    acknowledged_read: int = 0            # the last read round it answered
    silent_ticks: int = 0                 # since it was last heard
    snapshot: Snapshot | None = None      # SNAPSHOT: what is being sent, pinned until done
    _paused: bool = False                 # PROBE: an append is under way
    _quiet_ticks: int = 0                 # since an append was sent or answered
    _inflight: deque[tuple[int, int]] = field(default_factory=deque)    # REPLICATE: (last index, bytes)
    _inflight_bytes: int = 0
    _sent: int = 0                        # SNAPSHOT: bytes sent
    _all_sent: bool = False
    _received: int = 0                    # SNAPSHOT: bytes the follower holds
    _stalled_ticks: int = 0               # SNAPSHOT: since the last answer

    @property
    def can_append(self) -> bool:
        match self.state:
            case ProgressState.PROBE:
                return not self._paused
            case ProgressState.REPLICATE:
                return len(self._inflight) < self.window.appends and self._inflight_bytes < self.window.append_bytes
            case ProgressState.SNAPSHOT:
                return False

    # What the leader did.

    def appended(self, last_index: int, size: int) -> None:
        """An append ending at `last_index` was sent; an empty one ends at `next - 1`."""
        self._quiet_ticks = 0
        if self.state is ProgressState.PROBE:
            self._paused = True
        elif last_index >= self.next:
            self.next = last_index + 1
            self._inflight.append((last_index, size))
            self._inflight_bytes += size

    def start_snapshot(self, snapshot: Snapshot) -> None:
        self._enter(ProgressState.SNAPSHOT)
        self.snapshot = snapshot

    def next_chunk(self) -> tuple[int, int] | None:
        """(offset, size) of the chunk to send now, counted as sent; None while the window is full or all is out."""
        if self.snapshot is None or self._all_sent:
            return None
        if self._sent - self._received >= self.window.chunks * self.window.chunk_bytes:
            return None
        offset = self._sent
        length = min(self.window.chunk_bytes, len(self.snapshot.data) - offset)
        self._sent += length
        self._all_sent = self._sent == len(self.snapshot.data)
        return offset, length

    # What the follower said.

    def heard(self) -> None:
        self.silent_ticks = 0

    def accepted(self, index: int) -> bool:
        """The follower durably holds everything up to `index`. Returns whether that is news."""
        news = index > self.match
        self._quiet_ticks = 0
        self.match = max(self.match, index)
        self.next = max(self.next, index + 1)
        match self.state:
            case ProgressState.PROBE:
                if index == self.match:
                    self._enter(ProgressState.REPLICATE)
            case ProgressState.REPLICATE:
                self._free_to(index)
            case ProgressState.SNAPSHOT:
                if self.snapshot is not None and self.match >= self.snapshot.index:
                    self._enter(ProgressState.PROBE)
        return news

    def rejected(self, prev_index: int, retry_at: int) -> bool:
        """The follower lacks or disputes `prev_index`; its log may agree at `retry_at`. Returns whether it is news."""
        match self.state:
            case ProgressState.REPLICATE if prev_index > self.match:
                self._enter(ProgressState.PROBE)
            case ProgressState.PROBE if prev_index == self.next - 1:
                self._paused = False
                self.next = max(self.match + 1, min(prev_index, retry_at + 1))
            case _:
                return False
        return True

    def answered_heartbeat(self, read: int) -> bool:
        """The path works. Returns whether an append that went unanswered for a tick must be taken for lost.

        Then there is room to send one: its refusal or acceptance tells where the follower stands.
        """
        self.acknowledged_read = max(self.acknowledged_read, read)
        if self._quiet_ticks < _OVERDUE_TICKS or self.state is ProgressState.SNAPSHOT:
            return False
        self._paused = False
        if not self.can_append:
            self._inflight_bytes -= self._inflight.popleft()[1]
        return self.can_append

    def received_chunks(self, index: int, received: int) -> None:
        """The follower holds `received` bytes of the snapshot at `index`: fewer than before if it had to start over."""
        if self.snapshot is None or index != self.snapshot.index:
            return
        self._stalled_ticks = 0
        if received < self._received or received > self._sent:
            self._send_from(received)
        self._received = received

    # What the transport or the clock said.

    def unreachable(self) -> None:
        """Messages to it were lost: find the common point again instead of running ahead."""
        if self.state is ProgressState.REPLICATE:
            self._enter(ProgressState.PROBE)

    def tick(self, patience: int) -> None:
        """A snapshot without an answer for `patience` ticks is sent again from what is known to have arrived."""
        self.silent_ticks += 1
        self._quiet_ticks += 1
        self._stalled_ticks += 1
        if self.state is ProgressState.SNAPSHOT and self._stalled_ticks >= patience:
            self._stalled_ticks = 0
            self._send_from(self._received)

    def _enter(self, state: ProgressState) -> None:
        self.state = state
        self.next = self.match + 1
        self._paused = False
        self._quiet_ticks = 0
        self._inflight.clear()
        self._inflight_bytes = 0
        self.snapshot = None
        self._sent = self._received = self._stalled_ticks = 0
        self._all_sent = False

    def _send_from(self, offset: int) -> None:
        self._sent = offset
        self._all_sent = False

    def _free_to(self, index: int) -> None:
        while self._inflight and self._inflight[0][0] <= index:
            self._inflight_bytes -= self._inflight.popleft()[1]
