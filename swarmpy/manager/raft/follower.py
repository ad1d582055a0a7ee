"""The follower (and learner) role: takes the leader's log, and campaigns when it falls silent.

Source  Raft paper, 5.2, 5.3, 7; thesis, 9.6 (a follower that hears its leader supports no other).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarmpy.manager.raft.membership import Membership
from swarmpy.manager.raft.messages import (
    Append,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    ReadRequest,
    ReadResponse,
    ReadState,
    Snapshot,
    SnapshotChunk,
    SnapshotResponse,
    TimeoutNow,
)
from swarmpy.manager.raft.role import Campaign, Role

if TYPE_CHECKING:
    from swarmpy.manager.raft.core import Raft

__all__ = ["Follower"]

_STAGGER_TICKS = 2


class Follower(Role):
    name = "follower"

    def __init__(self, raft: Raft, leader: int | None) -> None:
        super().__init__(raft)
        self.leader = leader
        self.timeout = raft.config.election_timeout()
        self.elapsed = 0                           # ticks since the leader was heard, or a vote was granted
        self._incoming: _IncomingSnapshot | None = None

    @property
    def in_lease(self) -> bool:
        return self.leader is not None and self.elapsed < self.raft.config.election_ticks

    @property
    def patience(self) -> int:
        """Ticks of silence after which to stand: at random, or in turn where all have heard the same leader.

        They then miss it in the same moment. The first waits one tick longer than its lease, so that nobody whose
        ticks come a little later is bound by theirs.
        """
        turn = self._turn()
        if turn is None:
            return self.timeout
        return self.raft.config.election_ticks + 1 + _STAGGER_TICKS * turn

    def _turn(self) -> int | None:
        """This voter's place among those who follow the leader; None without one, and in a learner."""
        voters = self.raft.membership.voters
        if self.leader is None or self.raft.raft_id not in voters:
            return None
        return sorted(voters - {self.leader}).index(self.raft.raft_id)

    def tick(self) -> None:
        self.elapsed += 1
        if self.elapsed >= self.patience:
            self.elapsed = 0
            self.leader = None    # also in a learner, which cannot stand: it must be free to vote
            self.raft.campaign(Campaign.PRE)

    def vote_granted(self) -> None:
        self.elapsed = 0

    def leader_unreachable(self) -> None:
        """The connection to the leader broke: forget it and ask the others soon. Those it still reaches say no.

        All of its followers may notice at the same moment, so they stand one after the other.
        """
        if self.leader is None:
            return
        turn = self._turn()
        self.leader = None
        if turn is not None:
            self.timeout = self.elapsed + 1 + _STAGGER_TICKS * turn

    def read(self, context: int) -> None:
        if self.leader is not None:
            self.raft.send(ReadRequest(self.raft.raft_id, self.leader, self.raft.term, context))

    def on_read_response(self, message: ReadResponse) -> None:
        self.raft.reads.append(ReadState(message.context, message.index))

    def on_timeout_now(self, message: TimeoutNow) -> None:
        self.raft.campaign(Campaign.FORCED)

    def on_append(self, message: Append) -> None:
        self._heard(message.sender)
        raft, log = self.raft, self.raft.log
        if message.prev_index < log.committed:
            # What we have committed agrees with the leader's log (Leader Completeness), so only the rest is looked at.
            known = log.committed - message.prev_index
            if known >= len(message.entries):
                raft.send(AppendResponse(raft.raft_id, message.sender, raft.term, log.committed))
                return
            entries = message.entries[known:]
        elif log.matches(message.prev_index, message.prev_term):
            entries = message.entries
        else:
            hint = log.last_at_or_below(message.prev_index, message.prev_term)
            raft.send(AppendResponse(raft.raft_id, message.sender, raft.term, message.prev_index, True, *hint))
            return
        log.merge(entries)
        last = message.prev_index + len(message.entries)
        raft.commit_to(min(message.commit, last))
        raft.send(AppendResponse(raft.raft_id, message.sender, raft.term, last))

    def on_heartbeat(self, message: Heartbeat) -> None:
        self._heard(message.sender)
        raft = self.raft
        raft.commit_to(message.commit)
        raft.send(HeartbeatResponse(raft.raft_id, message.sender, raft.term, message.read))

    def on_snapshot_chunk(self, message: SnapshotChunk) -> None:
        self._heard(message.sender)
        raft = self.raft
        if message.index <= raft.log.committed:
            raft.send(AppendResponse(raft.raft_id, message.sender, raft.term, raft.log.committed))
            return
        if self._incoming is None or not self._incoming.is_for(message):
            self._incoming = _IncomingSnapshot(message)
        self._incoming.add(message)
        if not self._incoming.complete:
            held = len(self._incoming.data)
            raft.send(SnapshotResponse(raft.raft_id, message.sender, raft.term, message.index, held))
            return
        snapshot = Snapshot(message.index, message.index_term, message.membership, bytes(self._incoming.data))
        self._incoming = None
        if raft.log.matches(snapshot.index, snapshot.term):
            raft.commit_to(snapshot.index)
        else:
            raft.restore(snapshot, Membership.decode(snapshot.membership))
        raft.send(AppendResponse(raft.raft_id, message.sender, raft.term, raft.log.committed))

    def _heard(self, leader: int) -> None:
        if self.leader is not None and self.leader != leader:
            raise AssertionError(f"term {self.raft.term} has two leaders: {self.leader} and {leader}")
        self.leader = leader
        self.elapsed = 0


class _IncomingSnapshot:
    """A snapshot being received; a chunk that does not continue it is answered with how far it has come."""

    def __init__(self, first: SnapshotChunk) -> None:
        self._key = (first.index, first.index_term, first.size)
        self.data = bytearray()
        self.complete = False

    def is_for(self, chunk: SnapshotChunk) -> bool:
        return self._key == (chunk.index, chunk.index_term, chunk.size)

    def add(self, chunk: SnapshotChunk) -> None:
        if chunk.offset == len(self.data):
            self.data += chunk.data
            self.complete = len(self.data) == chunk.size
