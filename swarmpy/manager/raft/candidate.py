"""The candidate role, and the pre-candidate that first asks whether it would win.

A pre-vote changes nothing, so it is asked again soon: those who have not noticed yet that the leader is gone are bound
by its lease. One who stands and is not elected asks the same of the next term, and is a candidate of the present one
meanwhile. A vote that was split so costs a fraction of an election timeout. But votes wait for disks and pre-votes do
not: where disks are slow an election takes longer than that, and would be ended by the next one again and again. So
patience doubles with every term that had no leader, up to a whole election timeout.

Source  Raft paper, 5.2 and 5.4.1; thesis, 9.3 (split votes), 9.6 (pre-vote).
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
from swarmpy.manager.raft.role import Campaign, Role

if TYPE_CHECKING:
    from swarmpy.manager.raft.core import Raft

__all__ = ["Candidate"]

_HASTE = 6    # a pre-vote is repeated after this fraction of an election timeout, drawn anew each time
_MOST_DOUBLINGS = 3


class Candidate(Role):
    name = "candidate"

    def __init__(self, raft: Raft, campaign: Campaign) -> None:
        super().__init__(raft)
        self.pre = campaign is Campaign.PRE      # it does not stand yet
        self._forced = campaign is Campaign.FORCED
        self._votes: set[int] = set()            # who gave it theirs in this term
        self._pre_votes: set[int] = set()        # who would in the next
        self._patience = 0
        self._elapsed = 0

    def start(self) -> None:
        """Ask every voter; being one's own majority needs no answer."""
        if self.pre:
            self._ask()
        else:
            self._wait()
            self._votes.add(self.raft.raft_id)
            self._request(self.raft.term)
            self._count()

    def _ask(self) -> None:
        """Would a majority vote for this member in the next term?"""
        self._wait()
        self._pre_votes = {self.raft.raft_id}
        self._request(self.raft.term + 1, pre=True)
        self._count_pre()

    def _wait(self) -> None:
        raft = self.raft
        timeout, doublings = raft.config.election_timeout(), 0
        if not self.pre:
            doublings = min(raft.term - raft.log.last_term - 1, _MOST_DOUBLINGS)    # each leader's term has an entry
        self._patience = max(1, min(timeout, (timeout << doublings) // _HASTE))
        self._elapsed = 0

    def _request(self, term: int, *, pre: bool = False) -> None:
        raft, log = self.raft, self.raft.log
        for voter in sorted(raft.membership.voters - {raft.raft_id}):
            forced = self._forced and not pre
            raft.send(VoteRequest(raft.raft_id, voter, term, log.last_index, log.last_term, pre, forced))

    def tick(self) -> None:
        self._elapsed += 1
        if self._elapsed >= self._patience:
            self._ask()

    def on_vote_response(self, message: VoteResponse) -> None:
        if not message.granted or message.term != self.raft.term + message.pre:
            return    # no, or late
        if message.pre:
            self._pre_votes.add(message.sender)
            self._count_pre()
        elif not self.pre:
            self._votes.add(message.sender)
            self._count()

    def _count(self) -> None:
        if self._is_majority(self._votes):
            self.raft.become_leader()

    def _count_pre(self) -> None:
        if self._is_majority(self._pre_votes):
            self.raft.campaign(Campaign.REAL)

    def _is_majority(self, members: set[int]) -> bool:
        membership = self.raft.membership
        return len(members & membership.voters) >= membership.majority

    def vote_granted(self) -> None:
        """To another, by one who did not stand: that one gets the time of an election."""
        self.raft.become_follower(self.raft.term, None)

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
