"""What the three roles have in common: by default a message addressed to another role is dropped.

Such messages are late, duplicated or meant for an earlier term; Raft is safe under their loss.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, ClassVar

from swarmpy.manager.raft.messages import (
    Append,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    ReadRequest,
    ReadResponse,
    SnapshotChunk,
    SnapshotResponse,
    TimeoutNow,
    VoteResponse,
)

if TYPE_CHECKING:
    from swarmpy.manager.raft.core import Raft

__all__ = ["Campaign", "Role"]


class Campaign(enum.Enum):
    PRE = enum.auto()       # would a majority vote for me? Changes no term (thesis, 9.6)
    REAL = enum.auto()
    FORCED = enum.auto()    # the leader asked for it: no pre-vote, and its lease does not count (thesis, 3.10)


class Role:
    """State that lasts as long as one member plays one role in one term."""

    name: ClassVar[str]
    leader: int | None = None    # raft id of the leader of this term, as far as known

    def __init__(self, raft: Raft) -> None:
        self.raft = raft

    @property
    def in_lease(self) -> bool:
        """Whether a leader was heard so lately that no election may disturb it."""
        return False

    def tick(self) -> None: ...
    def flush(self) -> None: ...
    def leave(self) -> None: ...
    def vote_granted(self) -> None: ...
    def stable_moved(self) -> None: ...
    def membership_changed(self) -> None: ...
    def leader_unreachable(self) -> None: ...
    def read(self, context: int) -> None: ...
    def on_append(self, message: Append) -> None: ...
    def on_append_response(self, message: AppendResponse) -> None: ...
    def on_heartbeat(self, message: Heartbeat) -> None: ...
    def on_heartbeat_response(self, message: HeartbeatResponse) -> None: ...
    def on_snapshot_chunk(self, message: SnapshotChunk) -> None: ...
    def on_snapshot_response(self, message: SnapshotResponse) -> None: ...
    def on_read_request(self, message: ReadRequest) -> None: ...
    def on_read_response(self, message: ReadResponse) -> None: ...
    def on_timeout_now(self, message: TimeoutNow) -> None: ...
    def on_vote_response(self, message: VoteResponse) -> None: ...
