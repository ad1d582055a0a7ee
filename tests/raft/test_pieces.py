"""The values and small pieces: quorum arithmetic, the log's marks, codec, membership, progress, seal."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.manager.raft.codec import Codec, Malformed, decode_entries, decode_message, encode_entries
from swarmpy.manager.raft.entries import EntryLog
from swarmpy.manager.raft.membership import Change, ChangeKind, Membership, Peer
from swarmpy.manager.raft.messages import (
    Append,
    AppendResponse,
    Decided,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    Message,
    ReadRequest,
    ReadResponse,
    ReadState,
    RemovedNotice,
    Snapshot,
    SnapshotChunk,
    SnapshotResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from swarmpy.manager.raft.progress import Progress, ProgressState, Window
from swarmpy.manager.raft.quorum import agreed
from swarmpy.manager.raft.reads import Reads
from swarmpy.manager.raft.seal import BrokenSeal, Sealer
from tests.raft.cores import normal

numbers = st.integers(0, 2**64 - 1)


class TestQuorum:
    @given(st.dictionaries(st.integers(1, 9), st.integers(0, 20), max_size=7))
    def test_agreed_is_the_largest_value_a_majority_reached(self, values: dict[int, int]) -> None:
        majority = len(values) // 2 + 1
        slow = max(
            (v for v in range(21) if sum(value >= v for value in values.values()) >= majority and values), default=0
        )
        assert agreed(values.keys(), values.__getitem__) == slow


class TestEntryLog:
    def test_a_write_that_a_later_one_overwrites_makes_nothing_durable(self) -> None:
        """The same entry truncated and appended again while both writes are under way (index and term say nothing)."""
        log = EntryLog(None, 0, 0, [normal(1, 1)])
        log.merge((normal(2, 2), normal(3, 2)))
        log.hand_over(1)
        log.merge((normal(2, 3),))
        log.hand_over(2)
        log.merge((normal(2, 2), normal(3, 2)))
        log.hand_over(3)
        log.written(1)
        assert log.stable == 1
        log.written(2)
        assert log.stable == 1
        log.written(3)
        assert log.stable == 3

    def test_a_hint_skips_whole_terms(self) -> None:
        log = EntryLog(None, 0, 0, [normal(1, 1), normal(2, 3), normal(3, 3), normal(4, 6)])
        assert log.last_at_or_below(9, 5) == (3, 3)
        assert log.last_at_or_below(3, 2) == (1, 1)
        assert log.last_at_or_below(3, 0) == (0, 0)

    def test_compaction_keeps_the_terms_a_follower_may_ask_for(self) -> None:
        log = EntryLog(None, 0, 0, [normal(index, index) for index in range(1, 11)])
        log.commit_to(10)
        log.take_committed(1 << 20)
        assert log.compact(Snapshot(10, 10, b"", b""), keep=3) == 7
        assert (log.term(6), log.term(7), log.term(8), log.last_index) == (None, 7, 8, 10)

    def test_slices_are_cut_by_size_but_never_to_nothing(self) -> None:
        log = EntryLog(None, 0, 0, [normal(index, 1, bytes(100)) for index in range(1, 6)])
        assert len(log.slice(1, 5, 250)) == 2
        assert len(log.slice(1, 5, 10)) == 1


entry_lists = st.lists(
    st.tuples(numbers, st.sampled_from(EntryKind), st.binary(max_size=40)), min_size=1, max_size=8
).map(lambda rows: tuple(Entry(7 + i, term, kind, data) for i, (term, kind, data) in enumerate(rows)))
head = (numbers, numbers, numbers)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(VoteRequest, *head, numbers, numbers, st.booleans(), st.booleans()),
    st.builds(VoteResponse, *head, st.booleans(), st.booleans()),
    st.builds(Append, *head, numbers, numbers, numbers, st.just(()) | entry_lists),
    st.builds(AppendResponse, *head, numbers, st.booleans(), numbers, numbers),
    st.builds(Heartbeat, *head, numbers, numbers),
    st.builds(HeartbeatResponse, *head, numbers),
    st.builds(SnapshotChunk, *head, numbers, numbers, st.binary(max_size=9), numbers, numbers, st.binary(max_size=9)),
    st.builds(SnapshotResponse, *head, numbers, numbers),
    st.builds(ReadRequest, *head, numbers),
    st.builds(ReadResponse, *head, numbers, numbers),
    st.builds(TimeoutNow, *head),
    st.builds(RemovedNotice, *head),
    st.builds(Decided, *head, numbers, numbers),
)


class TestCodec:
    @given(messages)
    def test_every_message_comes_back_as_it_was(self, message: Message) -> None:
        assert decode_message(Codec().encode_message(message)) == message

    @given(messages, st.data())
    def test_a_cut_message_is_malformed_and_nothing_else(self, message: Message, data: st.DataObject) -> None:
        encoded = Codec().encode_message(message)
        cut = encoded[: data.draw(st.integers(0, len(encoded) - 1))]
        try:
            decode_message(cut)
        except Malformed:
            return
        assert isinstance(message, Append | SnapshotChunk) or len(cut) == len(encoded)

    @given(st.binary(max_size=60))
    def test_noise_is_malformed_or_a_message(self, noise: bytes) -> None:
        try:
            decode_message(noise)
            decode_entries(noise)
        except Malformed:
            pass

    def test_a_batch_is_encoded_once(self) -> None:
        codec = Codec(remember=2)
        batch = (normal(1, 1), normal(2, 1))
        assert codec.encode_entries(batch) is codec.encode_entries(batch)
        assert decode_entries(encode_entries(batch)) == batch


class TestMembership:
    def test_a_joiner_replays_the_same_configuration(self) -> None:
        peer = Peer("n", "h:1")
        membership = Membership()
        for change in (
            Change(ChangeKind.ADD_LEARNER, 1, peer), Change(ChangeKind.PROMOTE, 1),
            Change(ChangeKind.ADD_LEARNER, 2, peer), Change(ChangeKind.MOVE, 2, Peer("n", "elsewhere:1")),
            Change(ChangeKind.ADD_LEARNER, 3, peer), Change(ChangeKind.REMOVE, 3),
        ):  # fmt: skip
            membership = membership.after(Change.decode(change.encode()))
        assert membership.voters == {1}
        assert membership.learners == {2}
        assert membership.removed == {3}
        assert membership.peers[2].addr == "elsewhere:1"
        assert Membership.decode(membership.encode()) == membership

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (Change(ChangeKind.REMOVE, 1), "last voter"),
            (Change(ChangeKind.PROMOTE, 1), "not a learner"),
            (Change(ChangeKind.REMOVE, 9), "not in the configuration"),
            (Change(ChangeKind.ADD_LEARNER, 1, Peer("n", "h:1")), "already"),
            (Change(ChangeKind.ADD_LEARNER, 3, Peer("n", "h:1")), "was removed"),
        ],
    )
    def test_a_change_that_makes_no_sense_is_explained_and_changes_nothing(self, change: Change, why: str) -> None:
        membership = Membership(voters=frozenset({1}), removed=frozenset({3}))
        objection = membership.objection(change)
        assert objection is not None
        assert why in objection
        assert membership.after(change) == membership


class TestProgress:
    def test_stale_answers_change_nothing(self) -> None:
        progress = Progress(Window(), next=11)
        progress.accepted(10)
        progress.appended(12, 2)
        assert not progress.accepted(5)
        assert not progress.rejected(9, 3)
        assert (progress.match, progress.next, progress.state) == (10, 13, ProgressState.REPLICATE)

    def test_a_follower_that_lost_its_half_snapshot_gets_it_again(self) -> None:
        progress = Progress(Window(chunks=1, chunk_bytes=4), next=1)
        progress.start_snapshot(Snapshot(9, 1, b"", b"0123456789"))
        assert progress.next_chunk() == (0, 4)
        assert progress.next_chunk() is None
        progress.received_chunks(9, 4)
        assert progress.next_chunk() == (4, 4)
        progress.received_chunks(9, 0)
        assert progress.next_chunk() == (0, 4)

    def test_an_empty_snapshot_is_one_empty_chunk(self) -> None:
        progress = Progress(Window(), next=1)
        progress.start_snapshot(Snapshot(9, 1, b"", b""))
        assert progress.next_chunk() == (0, 0)
        assert progress.next_chunk() is None


class TestSealer:
    def test_what_was_sealed_opens_only_in_its_place_unchanged_and_with_its_key(self) -> None:
        sealer = Sealer([bytes(32)])
        sealed = sealer.seal(b"secret", b"place 1")
        assert b"secret" not in sealed
        assert Sealer([bytes(32)]).open(sealed, b"place 1") == b"secret"
        flipped = [sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :] for at in range(len(sealed))]
        for wrong, context, key in (
            (sealed, b"place 2", bytes(32)),
            (sealed, b"place 1", bytes(31) + b"\1"),
            (sealed[:-1], b"place 1", bytes(32)),
            (b"", b"place 1", bytes(32)),
            *((one, b"place 1", bytes(32)) for one in flipped),
        ):
            with pytest.raises(BrokenSeal):
                Sealer([key]).open(wrong, context)

    def test_a_new_key_seals_from_now_on_and_the_old_one_still_opens(self) -> None:
        old, new = bytes(32), bytes(31) + b"\1"
        sealer = Sealer([old])
        before = sealer.seal(b"before", b"1")
        sealer.take([new, old])
        after = sealer.seal(b"after", b"2")
        for one in (sealer, Sealer([new, old])):
            assert (one.open(before, b"1"), one.open(after, b"2")) == (b"before", b"after")
        assert Sealer([new]).open(after, b"2") == b"after"
        for key, sealed, context in ((new, before, b"1"), (old, after, b"2")):
            with pytest.raises(BrokenSeal):
                Sealer([key]).open(sealed, context)

    def test_a_key_of_another_size_is_refused(self) -> None:
        with pytest.raises(ValueError, match="16 bytes"):
            Sealer([bytes(16)])


class TestReads:
    def test_who_asked_a_leader_that_died_asks_the_next_one_as_soon_as_it_leads(self) -> None:
        async def scenario() -> None:
            asked: list[int] = []
            reads = Reads()
            barrier: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            reads.ask(barrier)
            for term, leader in ((3, 1), (3, 1), (3, None), (4, None), (4, 2), (4, 2)):
                reads.start(asked.append, term, leader)
            assert asked == [1, 1]
            assert reads.answered([ReadState(1, 7)]) == [(7, [barrier])]

        asyncio.run(scenario())

    def test_an_answer_that_is_overdue_is_asked_for_again(self) -> None:
        async def scenario() -> None:
            asked: list[int] = []
            reads = Reads()
            reads.ask(asyncio.get_running_loop().create_future())
            for _ in range(20):
                reads.start(asked.append, 3, 1)
                reads.tick()
            assert set(asked) == {1}
            assert 1 < len(asked) < 20

        asyncio.run(scenario())
