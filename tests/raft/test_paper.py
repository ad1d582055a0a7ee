"""The core against the Raft paper and thesis, section by section."""

from __future__ import annotations

import pytest

from swarmpy.manager.raft.core import Refused
from swarmpy.manager.raft.leader import Leader
from swarmpy.manager.raft.membership import Change, ChangeKind, Peer
from swarmpy.manager.raft.messages import (
    Append,
    AppendResponse,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    Message,
    ReadResponse,
    Snapshot,
    SnapshotChunk,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from swarmpy.manager.raft.progress import ProgressState, Window
from swarmpy.manager.raft.role import Campaign
from tests.raft.cores import ELECTION_TICKS, Cores, founded, normal, without


class TestTerms:
    """Raft paper, 5.1."""

    def test_a_newer_term_is_taken_over_and_makes_a_follower(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1)
        assert leader.is_leader
        leader.step(AppendResponse(2, 1, leader.term + 3, 0, rejected=True))
        assert not leader.is_leader
        assert leader.vote == 0

    def test_an_older_append_is_refused_with_the_newer_term(self) -> None:
        cores = Cores({1: founded((1, 2), term=5), 2: founded((1, 2), term=5)})
        cores[1].step(Append(2, 1, 4, 1, 1, 1, (normal(2, 4),)))
        cores.settle(1)
        (answer,) = cores.take(AppendResponse)
        assert answer.term == 5
        assert cores[1].log.last_index == 1


class TestElections:
    """Raft paper, 5.2."""

    def test_a_follower_campaigns_when_the_timeout_passes_and_not_before(self) -> None:
        cores = Cores.of(3)
        cores.tick(1, times=ELECTION_TICKS - 1)
        assert not cores.waiting
        cores.tick(1)
        assert [request.to for request in cores.take(VoteRequest)] == [2, 3]

    def test_a_majority_elects(self) -> None:
        cores = Cores.of(5)
        assert cores.elect(1, unless=without(4, 5)).is_leader

    def test_a_minority_does_not(self) -> None:
        cores = Cores.of(5)
        assert not cores.elect(1, unless=without(3, 4, 5)).is_leader

    def test_one_vote_per_term_first_come_first_served(self) -> None:
        cores = Cores.of(3)
        for candidate in (1, 2, 1):
            cores[3].step(VoteRequest(candidate, 3, 2, 1, 1, pre=False, forced=False))
        cores.settle(3)
        granted = {(vote.to, vote.granted) for vote in cores.take(VoteResponse) if isinstance(vote, VoteResponse)}
        assert granted == {(1, True), (2, False)}

    def test_the_vote_outlives_a_restart(self) -> None:
        disk = founded((1, 2, 3), term=4)
        voted = Cores({3: type(disk)(HardState(4, 1, 1), disk.snapshot, 1, 1)})
        voted[3].step(VoteRequest(2, 3, 4, 9, 4, pre=False, forced=False))
        voted.settle(3)
        (vote,) = voted.take(VoteResponse)
        assert isinstance(vote, VoteResponse)
        assert not vote.granted

    def test_a_vote_is_not_sent_before_it_is_durable(self) -> None:
        cores = Cores.of(3)
        cores[3].step(VoteRequest(1, 3, 2, 1, 1, pre=False, forced=False))
        cores.settle(3, durable=False)
        assert not cores.waiting

    def test_a_candidate_yields_to_the_leader_of_its_term(self) -> None:
        cores = Cores.of(3)
        cores[1].campaign(Campaign.REAL)
        cores[1].step(Heartbeat(2, 1, cores[1].term, 1, 0))
        assert cores[1].leader == 2

    def test_a_lone_voter_elects_itself(self) -> None:
        cores = Cores({1: founded((1,))})
        assert cores.elect(1).is_leader


class TestReplication:
    """Raft paper, 5.3."""

    def test_an_entry_is_committed_once_a_majority_stores_it_and_then_applied_everywhere(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1)
        index = leader.propose([b"a"])
        cores.deliver(unless=without(3))
        assert leader.log.committed == index
        for _ in range(4):
            cores.tick(1)
            cores.deliver()
        assert [entry.data for entry in cores.applied[3] if entry.kind is EntryKind.NORMAL] == [b"a"]

    def test_a_minority_commits_nothing(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1)
        index = leader.propose([b"a"])
        cores.deliver(unless=without(2, 3))
        assert leader.log.committed < index

    def test_the_leader_counts_itself_only_when_its_own_write_is_durable(self) -> None:
        """Thesis, 10.2.1: it may send before it has written."""
        cores = Cores.of(3)
        leader = cores.elect(1)
        index = leader.propose([b"a"])
        cores.settle(1, durable=False)
        appends = cores.take(Append)
        assert [append.to for append in appends] == [2, 3]
        leader.step(AppendResponse(2, 1, leader.term, index))
        assert leader.log.committed < index
        leader.step(AppendResponse(3, 1, leader.term, index))
        assert leader.log.committed == index

    def test_a_conflict_is_found_in_one_step_per_term_and_overwritten(self) -> None:
        """Figure 7 (f): a follower with two terms of entries nobody else has."""
        ours = tuple(normal(index, term) for index, term in ((2, 1), (3, 1), (4, 4), (5, 4), (6, 5), (7, 5), (8, 6)))
        theirs = tuple(normal(index, term) for index, term in ((2, 1), (3, 1), *((i, 2) for i in (4, 5, 6)),
                                                               *((i, 3) for i in (7, 8, 9, 10, 11))))  # fmt: skip
        cores = Cores({
            1: founded((1, 2, 3), entries=ours, term=6),
            2: founded((1, 2, 3), entries=theirs, term=3),
            3: founded((1, 2, 3), entries=ours, term=6),
        })  # fmt: skip
        refused: list[AppendResponse] = []

        def count_refusals(message: Message) -> bool:
            if isinstance(message, AppendResponse) and message.rejected:
                refused.append(message)
            return False

        leader = cores.elect(1, unless=count_refusals)
        assert leader.is_leader
        assert cores.stored[2] == cores.stored[1]
        assert len(refused) <= 3

    def test_entries_that_agree_are_kept_when_an_old_append_arrives_late(self) -> None:
        cores = Cores({1: founded((1, 2), entries=(normal(2, 1), normal(3, 1)))})
        cores[1].step(Append(2, 1, 1, 1, 1, 1, (normal(2, 1),)))
        assert cores[1].log.last_index == 3

    def test_appends_are_pipelined_up_to_the_window(self) -> None:
        cores = Cores({m: founded((1, 2)) for m in (1, 2)}, window=Window(appends=3))
        leader = cores.elect(1)
        for _ in range(10):
            leader.propose([b"x"])
            cores.settle(1)
        assert len(cores.take(Append)) == 3
        leader.step(AppendResponse(2, 1, leader.term, leader.log.last_index - 9))
        cores.settle(1)
        (append,) = cores.take(Append)
        assert isinstance(append, Append)
        assert len(append.entries) == 7    # what had to wait goes out as one batch

    def test_a_lost_append_is_noticed_and_sent_again(self) -> None:
        cores = Cores.of(2)
        leader = cores.elect(1)
        leader.propose([b"a"])
        cores.settle(1)
        cores.take(Append)
        for _ in range(3):
            cores.tick(1)
            cores.deliver()
        assert cores.stored[2] == cores.stored[1]


class TestSafety:
    """Raft paper, 5.4."""

    @pytest.mark.parametrize(
        ("last_index", "last_term", "granted"), [(3, 2, True), (4, 2, True), (2, 3, True), (2, 2, False), (9, 1, False)]
    )
    def test_only_a_log_as_good_as_mine_gets_my_vote(self, last_index: int, last_term: int, granted: bool) -> None:
        cores = Cores({1: founded((1, 2, 3), entries=(normal(2, 1), normal(3, 2)), term=3)})
        cores[1].step(VoteRequest(2, 1, 4, last_index, last_term, pre=False, forced=False))
        cores.settle(1)
        (vote,) = cores.take(VoteResponse)
        assert isinstance(vote, VoteResponse)
        assert vote.granted is granted

    def test_an_entry_of_an_earlier_term_is_not_committed_by_counting(self) -> None:
        """Figure 8: (c) is on a majority, and may still be overwritten, until an entry of the new term is, too."""
        old = (normal(2, 2),)
        cores = Cores({
            1: founded((1, 2, 3, 4, 5), entries=old, term=3),
            2: founded((1, 2, 3, 4, 5), entries=old, term=3),
            **{member: founded((1, 2, 3, 4, 5), term=3) for member in (3, 4, 5)},
        })  # fmt: skip
        leader = cores.elect(1, unless=lambda m: isinstance(m, Append))
        assert leader.is_leader
        for member in (2, 3):
            leader.step(AppendResponse(member, 1, leader.term, 2))
        assert leader.log.committed == 1
        for member in (2, 3):
            leader.step(AppendResponse(member, 1, leader.term, 3))
        assert leader.log.committed == 3

    def test_a_committed_entry_is_never_replaced(self) -> None:
        cores = Cores({1: founded((1, 2), entries=(normal(2, 1),), commit=2)})
        with pytest.raises(AssertionError, match="committed"):
            cores[1].log.merge((normal(2, 7),))


class TestLogCompaction:
    """Raft paper, 7."""

    def test_a_follower_too_far_behind_gets_the_snapshot_in_chunks_and_then_the_rest(self) -> None:
        cores = Cores({m: founded((1, 2, 3)) for m in (1, 2, 3)}, window=Window(chunks=2, chunk_bytes=10))
        leader = cores.elect(1, unless=without(3))
        leader.propose([b"a", b"b"])
        cores.deliver(unless=without(3))
        leader.snapshot_taken(leader.log.applied, leader.membership, b"state of thirty-two bytes length", keep=0)
        cores.tick(1)
        lost: list[SnapshotChunk] = []

        def lose_one(message: object) -> bool:
            if isinstance(message, SnapshotChunk) and message.offset == 10 and not lost:
                lost.append(message)
                return True
            return False

        for _ in range(ELECTION_TICKS):
            cores.deliver(unless=lose_one)
            cores.tick(1)
        leader.propose([b"c"])
        cores.deliver()
        cores.tick(1)
        cores.deliver()
        assert lost
        assert cores[3].log.snapshot == leader.log.snapshot
        assert [entry.data for entry in cores.applied[3]] == [b"c"]

    def test_entries_for_slow_followers_spare_them_the_snapshot(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1, unless=without(3))
        leader.propose([b"a"])
        cores.deliver(unless=without(3))
        leader.snapshot_taken(leader.log.applied, leader.membership, b"state", keep=10)
        cores.tick(1)
        for _ in range(3):
            cores.deliver(unless=lambda m: isinstance(m, SnapshotChunk))
            cores.tick(1)
        assert b"a" in [entry.data for entry in cores.applied[3]]

    def test_a_snapshot_may_come_while_the_log_goes_on_and_keeps_the_members_of_its_index(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1)
        leader.propose([b"a"])
        cores.deliver()
        index, membership = leader.log.applied, leader.membership
        leader.propose_change(Change(ChangeKind.REMOVE, 3))
        cores.deliver()
        assert leader.log.applied > index
        leader.snapshot_taken(index, membership, b"as of then", keep=0)
        assert leader.log.snapshot == Snapshot(index, leader.term, membership.encode(), b"as of then")
        assert leader.log.first_index == index + 1
        assert leader.membership.voters == {1, 2}

    def test_a_snapshot_that_comes_after_a_newer_one_is_forgotten(self) -> None:
        cores = Cores.of(1)
        leader = cores.elect(1)
        leader.propose([b"a", b"b"])
        cores.deliver()
        index = leader.log.applied
        leader.snapshot_taken(index, leader.membership, b"new", keep=0)
        leader.snapshot_taken(index - 1, leader.membership, b"old", keep=0)
        assert leader.log.snapshot is not None
        assert leader.log.snapshot.data == b"new"

    def test_no_snapshot_of_what_is_not_applied(self) -> None:
        leader = Cores.of(1).elect(1)
        with pytest.raises(AssertionError, match="no snapshot can be taken"):
            leader.snapshot_taken(leader.log.applied + 1, leader.membership, b"", keep=0)


class TestReads:
    """Raft paper, 8; thesis, 6.4."""

    def test_a_read_needs_a_majority_that_still_follows(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1)
        leader.read(7)
        cores.deliver(unless=lambda m: isinstance(m, HeartbeatResponse))
        assert not cores.reads[1]
        leader.read(8)
        cores.deliver()
        assert (8, leader.log.committed) in cores.reads[1]

    def test_a_new_leader_first_commits_an_entry_of_its_term(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1, unless=lambda m: isinstance(m, AppendResponse))
        leader.read(7)
        cores.deliver(unless=lambda m: isinstance(m, AppendResponse))
        assert not cores.reads[1]
        for _ in range(3):
            cores.tick(1)
            cores.deliver()
        ((context, index),) = cores.reads[1]
        assert (context, index) == (7, leader.log.committed)
        assert leader.log.term(index) == leader.term

    @pytest.mark.parametrize("member", [2, 3])
    def test_followers_and_learners_read_too(self, member: int) -> None:
        cores = Cores.of(2, learners=1)
        leader = cores.elect(1)
        leader.propose([b"a"])
        cores.deliver()
        cores[member].read(5)
        cores.deliver()
        assert cores.reads[member] == [(5, leader.log.committed)]
        assert cores[member].log.committed == leader.log.committed    # the round itself told it

    def test_a_deposed_leader_answers_no_read(self) -> None:
        cores = Cores.of(3)
        old = cores.elect(1)
        cores.tick(2, 3, times=ELECTION_TICKS + 1)
        cores.deliver(unless=without(1))
        old.read(9)
        cores.settle(1)
        cores.take(ReadResponse)
        cores.deliver()
        assert not cores.reads[1]


class TestMembership:
    """Thesis, 4."""

    ADD_FOUR = Change(ChangeKind.ADD_LEARNER, 4, Peer("n4", "h4:1"))

    def test_a_change_takes_effect_when_committed_and_one_at_a_time(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1)
        leader.propose_change(self.ADD_FOUR)
        assert 4 not in leader.membership
        with pytest.raises(Refused, match="another change"):
            leader.propose_change(Change(ChangeKind.REMOVE, 2))
        cores.deliver()
        assert leader.membership.learners == {4}
        leader.propose_change(Change(ChangeKind.REMOVE, 2))

    def test_the_first_change_waits_for_an_entry_of_the_leaders_term(self) -> None:
        """raft-dev, 2015: else two leaders could change an uncommitted configuration in two ways."""
        cores = Cores.of(3)
        leader = cores.elect(1, unless=lambda m: isinstance(m, AppendResponse))
        with pytest.raises(Refused, match="too new"):
            leader.propose_change(self.ADD_FOUR)

    def test_a_learner_is_not_counted_and_does_not_campaign(self) -> None:
        cores = Cores.of(3, learners=1)
        leader = cores.elect(1)
        index = leader.propose([b"a"])
        cores.deliver(unless=without(2, 3))
        assert cores[4].log.last_index == index
        assert leader.log.committed < index
        cores.tick(4, times=3 * ELECTION_TICKS)
        assert cores[4].role.name == "follower"

    def test_a_removed_member_is_told_and_disturbs_nobody(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1)
        leader.propose_change(Change(ChangeKind.REMOVE, 3))
        cores.deliver(unless=without(3))
        assert leader.membership.voters == {1, 2}
        cores.tick(3, times=2 * ELECTION_TICKS)
        cores.deliver()
        assert cores[3].removed
        assert leader.is_leader

    def test_a_leader_that_removes_itself_hands_over(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1)
        leader.propose_change(Change(ChangeKind.REMOVE, 1))
        cores.deliver()
        assert leader.removed
        assert sorted(member for member in (2, 3) if cores[member].is_leader) == [2]

    def test_a_voter_that_waits_for_a_removed_one_is_set_free(self) -> None:
        """Of two, the leader leaves, and the message that tells is lost."""
        cores = Cores.of(2)
        leader = cores.elect(1)
        leader.propose_change(Change(ChangeKind.REMOVE, 1))
        cores.deliver(unless=lambda m: m.sender == 1 and isinstance(m, Heartbeat | TimeoutNow))
        assert leader.removed
        assert cores[2].membership.voters == {1, 2}
        cores.tick(2, times=2 * ELECTION_TICKS)
        cores.deliver()
        cores.tick(2, times=ELECTION_TICKS)
        cores.deliver()
        assert cores[2].is_leader
        assert cores[2].membership.voters == {2}


class TestLeadershipTransfer:
    """Thesis, 3.10."""

    def test_the_heir_is_brought_up_to_date_and_needs_no_timeout(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1)
        leader.propose([b"a"])
        leader.transfer(2)
        with pytest.raises(Refused, match="handed to raft member 2"):
            leader.propose([b"b"])
        cores.deliver()
        assert cores[2].is_leader
        assert b"a" in [entry.data for entry in cores.applied[2]]

    def test_it_is_given_up_after_an_election_timeout(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1)
        leader.transfer(2)
        for _ in range(ELECTION_TICKS):
            cores.deliver(unless=lambda m: isinstance(m, TimeoutNow))
            cores.tick(1)
        leader.propose([b"b"])


class TestPreVoteAndCheckQuorum:
    """Thesis, 6.2 and 9.6."""

    def test_a_member_that_was_cut_off_comes_back_without_an_election(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1)
        term = leader.term
        for _ in range(5 * ELECTION_TICKS):
            cores.tick(1, 2, 3)
            cores.deliver(unless=without(3))
        assert cores[3].term == term    # it only ever asked
        for _ in range(3):
            cores.tick(1)
            cores.deliver()
        assert leader.is_leader
        assert cores[3].leader == 1

    def test_no_vote_against_a_leader_that_was_just_heard(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1)
        cores[2].step(VoteRequest(3, 2, leader.term + 1, 99, 99, pre=False, forced=False))
        assert cores[2].term == leader.term
        cores.settle(2)
        assert not cores.take(VoteResponse)

    def test_a_learner_does_not_keep_a_silent_leader_in_office(self) -> None:
        """It may have been promoted without knowing: then its vote is needed."""
        cores = Cores.of(2, learners=1)
        leader = cores.elect(1)
        cores.tick(1)
        cores.deliver()
        cores.tick(3, times=ELECTION_TICKS + 2)
        cores.take(VoteRequest)
        cores[3].step(VoteRequest(2, 3, leader.term + 1, leader.log.last_index, leader.term, pre=False, forced=False))
        cores.settle(3)
        (vote,) = cores.take(VoteResponse)
        assert isinstance(vote, VoteResponse)
        assert vote.granted

    def test_a_leader_without_a_majority_steps_down(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1)
        cores.tick(1, times=ELECTION_TICKS)
        assert not leader.is_leader

    def test_followers_whose_leader_hung_up_do_not_wait_for_the_timeout(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1)
        for member in (2, 3):
            cores[member].leader_unreachable()
        cores.tick(2)
        cores.deliver(unless=without(1))
        assert cores[2].is_leader
        assert cores[2].term == leader.term + 1

    @pytest.mark.parametrize("late", [0, 1])
    def test_followers_of_a_silent_leader_stand_in_turn(self, late: int) -> None:
        """All miss it at once; whoever's ticks come last is not bound by its lease when the first one stands."""
        cores = Cores.of(5)
        leader = cores.elect(1)
        cores.tick(3, 4, 5, times=ELECTION_TICKS + 1 - late)
        cores.tick(2, times=ELECTION_TICKS)
        cores.deliver(unless=without(1))
        assert not any(core.is_leader for core in list(cores.members.values())[1:])
        cores.tick(2)
        cores.deliver(unless=without(1))
        assert cores[2].is_leader
        assert cores[2].term == leader.term + 1

    def test_when_the_first_in_turn_is_gone_too_the_next_one_stands(self) -> None:
        cores = Cores.of(5)
        cores.elect(1)
        cores.tick(3, 4, 5, times=ELECTION_TICKS + 3)
        cores.deliver(unless=without(1, 2))
        assert cores[3].is_leader

    def test_a_pre_vote_waits_for_no_disk(self) -> None:
        """It promises nothing; one that waits is overtaken by the next in turn, and then both stand."""
        cores = Cores.of(3)
        cores.elect(1)
        cores[1].propose([b"x"])
        cores.settle(1)
        for append in cores.take(Append):
            cores[append.to].step(append)
        for member in (2, 3):
            cores.settle(member, durable=False)
            cores[member].leader_unreachable()
        cores[2].tick()
        cores.settle(2, durable=False)
        (question,) = cores.take(VoteRequest, to=3)
        cores[3].step(question)
        cores.settle(3, durable=False)
        (answer,) = cores.take(VoteResponse)
        assert isinstance(answer, VoteResponse)
        assert answer.granted

    def test_whose_leader_hung_up_asks_again_while_the_others_believe_in_it(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1)
        cores[2].leader_unreachable()
        cores.tick(2)
        cores.deliver(unless=without(1))
        cores[3].leader_unreachable()
        cores.tick(2, times=ELECTION_TICKS // 3)
        cores.deliver(unless=without(1))
        assert cores[2].is_leader
        assert cores[2].term == leader.term + 1

    def test_a_split_vote_costs_a_fraction_of_an_election_timeout(self) -> None:
        """Thesis, 9.3: two stood in one term, each with its own vote, and the third member is gone."""
        cores = Cores.of(3)
        leader = cores.elect(1)
        for rival in (2, 3):
            cores[rival].campaign(Campaign.FORCED)
        cores.deliver(unless=without(1))
        assert not cores[2].is_leader
        assert not cores[3].is_leader
        cores.tick(3, times=ELECTION_TICKS // 3)
        cores.deliver(unless=without(1))
        assert cores[3].is_leader
        assert cores[3].term == leader.term + 2

    def test_a_candidate_that_asks_again_still_counts_the_votes_of_its_term(self) -> None:
        """A slow disk delays votes; whoever stands anew each time would never be elected."""
        cores = Cores.of(3)
        cores.elect(1)
        cores[2].campaign(Campaign.FORCED)
        cores.settle(2)
        (request,) = cores.take(VoteRequest, to=3)
        term = cores[2].term
        cores.tick(2, times=2 * ELECTION_TICKS)
        assert cores[2].term == term
        cores[3].step(request)
        cores.settle(3)
        (vote,) = cores.take(VoteResponse)
        cores[2].step(vote)
        assert cores[2].is_leader
        assert cores[2].term == term

    def test_a_new_leader_tells_at_once_that_it_has_committed(self) -> None:
        """From then on it serves; whoever waits to be told at the next tick asks it late."""
        cores = Cores.of(3)
        leader = cores.elect(1)
        assert cores[2].log.committed == leader.log.committed == leader.log.last_index

    def test_one_broken_stream_does_not_depose_a_leader_the_others_hear(self) -> None:
        cores = Cores.of(3)
        leader = cores.elect(1)
        cores[2].leader_unreachable()
        cores.tick(2, times=2)
        cores.deliver()
        assert leader.is_leader


def test_a_promise_of_a_term_that_is_not_durable_waits() -> None:
    """A lone voter leads at once, yet its learner hears nothing of a term the disk might still forget."""
    cores = Cores({1: founded((1,), learners=(2,)), 2: founded((1,), learners=(2,))})
    cores[1].campaign(Campaign.PRE)
    cores.settle(1, durable=False)
    assert isinstance(cores[1].role, Leader)
    assert not cores.waiting


def test_progress_goes_back_to_probing_when_messages_are_lost() -> None:
    cores = Cores.of(2)
    leader = cores.elect(1)
    assert isinstance(leader.role, Leader)
    states = [leader.role.progress[2].state]
    leader.unreachable(2)
    states.append(leader.role.progress[2].state)
    assert states == [ProgressState.REPLICATE, ProgressState.PROBE]
