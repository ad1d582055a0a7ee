"""The candidate role, and the pre-candidate that first asks whether it would win.

Source  Raft paper, 5.2 and 5.4.1; thesis, 9.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarmpy.manager.raft.messages import (
    Append,
    Heartbeat,
    SnapshotChunk,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from swarmpy.manager.raft.quorum import Tally, tally
from swarmpy.manager.raft.role import Campaign, Role

if TYPE_CHECKING:
    from swarmpy.manager.raft.core import Raft

__all__ = ["Candidate"]


class Candidate(Role):
    name = "candidate"

    def __init__(self, raft: Raft, campaign: Campaign) -> None:
        super().__init__(raft)
        self.pre = campaign is Campaign.PRE
        self._forced = campaign is Campaign.FORCED
        self._votes = {raft.raft_id: True}
        self._timeout = raft.config.election_timeout()
        self._elapsed = 0

    def start(self) -> None:
        """Ask every voter; being one's own majority needs no answer."""
        raft, log = self.raft, self.raft.log
        term = raft.term + 1 if self.pre else raft.term
        for voter in sorted(raft.membership.voters - {raft.raft_id}):
            raft.send(
                VoteRequest(raft.raft_id, voter, term, log.last_index, log.last_term, self.pre, self._forced)
            )
        self._count()

    def tick(self) -> None:
        self._elapsed += 1
        if self._elapsed >= self._timeout:
            self.raft.campaign(Campaign.PRE)

    def on_vote_response(self, message: VoteResponse) -> None:
        late = message.granted and message.term != self.raft.term + self.pre
        if message.pre is self.pre and not late:
            self._votes.setdefault(message.sender, message.granted)
            self._count()

    def _count(self) -> None:
        raft = self.raft
        match tally(raft.membership.voters, self._votes):
            case Tally.WON if self.pre:
                raft.campaign(Campaign.REAL)
            case Tally.WON:
                raft.become_leader()
            case Tally.LOST:
                raft.become_follower(raft.term, None)
            case Tally.PENDING:
                pass

    # A message of this term that only a leader sends: the election is decided.

    def on_append(self, message: Append) -> None:
        self.raft.become_follower(self.raft.term, message.sender).on_append(message)

    def on_heartbeat(self, message: Heartbeat) -> None:
        self.raft.become_follower(self.raft.term, message.sender).on_heartbeat(message)

    def on_snapshot_chunk(self, message: SnapshotChunk) -> None:
        self.raft.become_follower(self.raft.term, message.sender).on_snapshot_chunk(message)

    def on_timeout_now(self, message: TimeoutNow) -> None:
        if self.pre:
            self.raft.campaign(Campaign.FORCED)
