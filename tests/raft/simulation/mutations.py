"""Bugs that real implementations have had, planted in the core one at a time: the simulation must find every one.

A simulation that no bug can fail proves nothing. Each mutation replaces a method or two of the core for as long as its
context lasts, and says which rule it breaks. `python -m tests.raft.simulation --mutations` plants them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from swarmpy.manager.raft.candidate import Candidate
from swarmpy.manager.raft.core import Raft
from swarmpy.manager.raft.entries import EntryLog
from swarmpy.manager.raft.follower import Follower, _IncomingSnapshot
from swarmpy.manager.raft.leader import Leader
from swarmpy.manager.raft.membership import Change, ChangeKind, Membership
from swarmpy.manager.raft.messages import (
    Append,
    AppendResponse,
    Entry,
    HardState,
    Heartbeat,
    Message,
    Ready,
    Snapshot,
    SnapshotChunk,
    VoteRequest,
    VoteResponse,
)
from swarmpy.manager.raft.progress import Progress
from swarmpy.manager.raft.quorum import agreed

__all__ = ["MUTATIONS", "Mutation", "planted"]

# Of the class and the name: what stands there instead.
Patches = Sequence[tuple[type, str, Any]]


@dataclass(frozen=True, slots=True)
class Mutation:
    """`breaks` is the rule that no longer holds, `seed` one that finds it."""

    name: str
    breaks: str
    seed: int
    patches: Callable[[], Patches]


MUTATIONS: dict[str, Mutation] = {}


def mutation(breaks: str, seed: int) -> Callable[[Callable[[], Patches]], Callable[[], Patches]]:
    def register(patches: Callable[[], Patches]) -> Callable[[], Patches]:
        name = patches.__name__.strip("_").replace("_", "-")
        MUTATIONS[name] = Mutation(name, breaks, seed, patches)
        return patches

    return register


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The bug called `name` is in the core until the end."""
    patches = MUTATIONS[name].patches()
    whole = [(owner, attribute, owner.__dict__[attribute]) for owner, attribute, _ in patches]
    try:
        for owner, attribute, bug in patches:
            setattr(owner, attribute, bug)
        yield
    finally:
        for owner, attribute, original in whole:
            setattr(owner, attribute, original)


# What must be on the disk.


def _with_hard_state(change: Callable[[HardState], HardState]) -> Patches:
    sound = Raft.ready

    def ready(self: Raft) -> Ready | None:
        made = sound(self)
        return made and made._replace(hard_state=change(made.hard_state))

    return [(Raft, "ready", ready)]


@mutation("Figure 2: votedFor is persistent state", seed=33)
def _vote_in_memory_only() -> Patches:
    return _with_hard_state(lambda state: state._replace(vote=0))


@mutation("Figure 2: currentTerm is persistent state", seed=1)
def _term_in_memory_only() -> Patches:
    return _with_hard_state(lambda state: state._replace(term=1, vote=0))


@mutation("a change is in force where the next one is stored: the commit index is written with the entries", seed=5)
def _commit_index_not_stored() -> Patches:
    return _with_hard_state(lambda state: state._replace(commit=0))


@mutation("5.3: a follower answers when the entries are durable", seed=9)
def _acknowledged_before_the_disk() -> Patches:
    return [(AppendResponse, "after_disk", False)]


@mutation("Figure 2: a vote is durable before it is given", seed=34)
def _vote_before_the_disk() -> Patches:
    return [(VoteResponse, "after_disk", False), (VoteRequest, "after_disk", False), (Raft, "send", _send_at_once)]


def _send_at_once(self: Raft, message: Message) -> None:
    (self._after_disk if message.after_disk else self._early).append(message)


@mutation("thesis, 10.2.1: a leader counts itself once its own disk has the entries", seed=59)
def _leader_counts_itself_early() -> Patches:
    def match(self: Leader, member: int) -> int:
        return self.raft.log.last_index if member == self.raft.raft_id else self.progress[member].match

    return [(Leader, "_match", match)]


# Elections.


@mutation("5.2: one vote in a term", seed=1)
def _two_votes_in_a_term() -> Patches:
    def consider(self: Raft, request: VoteRequest) -> None:
        granted = self.log.is_up_to_date(request.last_index, request.last_term)
        term = request.term if granted else self.term
        if granted and not request.pre:
            self.vote = request.sender
            self.role.vote_granted()
        self.send(VoteResponse(self.raft_id, request.sender, term, request.pre, granted))

    return [(Raft, "_consider", consider)]


@mutation("5.4.1: the later term wins, and only then the longer log", seed=203)
def _longer_log_wins() -> Patches:
    def is_up_to_date(self: EntryLog, last_index: int, last_term: int) -> bool:
        return last_index >= self.last_index

    return [(EntryLog, "is_up_to_date", is_up_to_date)]


@mutation("5.4.1: a voter refuses whose log is behind", seed=0)
def _vote_for_anyone() -> Patches:
    def is_up_to_date(self: EntryLog, last_index: int, last_term: int) -> bool:
        return True

    return [(EntryLog, "is_up_to_date", is_up_to_date)]


@mutation("5.2: a majority of the voters elects", seed=7)
def _half_of_the_voters_elects() -> Patches:
    def is_majority(self: Candidate, members: set[int]) -> bool:
        voters = self.raft.membership.voters
        return 2 * len(members & voters) >= len(voters)

    return [(Candidate, "_is_majority", is_majority)]


@mutation("5.2: an answer counts for the term it was given in", seed=37)
def _late_votes_count() -> Patches:
    def on_vote_response(self: Candidate, message: VoteResponse) -> None:
        if message.granted and message.pre is self.pre:
            (self._pre_votes if self.pre else self._votes).add(message.sender)
            self._count_pre() if self.pre else self._count()

    return [(Candidate, "on_vote_response", on_vote_response)]


# Replication.


@mutation("5.3: the entry before the new ones must match", seed=5)
def _no_consistency_check() -> Patches:
    def matches(self: EntryLog, index: int, term: int) -> bool:
        return index <= self.last_index

    def merge(self: EntryLog, entries: Sequence[Entry]) -> None:
        for position, entry in enumerate(entries):
            if self.term(entry.index) != entry.term:
                if entry.index <= self.last_index:
                    self._truncate(entry.index)
                self.extend(entries[position:])
                return

    return [(EntryLog, "matches", matches), (EntryLog, "merge", merge)]


@mutation("5.3: only a conflicting entry is replaced; an append that was overtaken takes nothing away", seed=4)
def _every_append_truncates() -> Patches:
    def merge(self: EntryLog, entries: Sequence[Entry]) -> None:
        if entries and entries[0].index <= self.last_index:
            self._truncate(entries[0].index)
        self.extend(entries)

    return [(EntryLog, "merge", merge)]


@mutation("5.3: a conflicting entry and all that follow it are replaced", seed=0)
def _conflicts_are_kept() -> Patches:
    def merge(self: EntryLog, entries: Sequence[Entry]) -> None:
        self.extend([entry for entry in entries if entry.index > self.last_index])

    return [(EntryLog, "merge", merge)]


@mutation("Figure 2, AppendEntries 5: nothing is committed beyond the last entry that was compared", seed=0)
def _commit_beyond_the_last_new_entry() -> Patches:
    sound = Follower.on_append

    def on_append(self: Follower, message: Append) -> None:
        sound(self, message)
        self.raft.commit_to(min(message.commit, self.raft.log.last_index))

    return [(Follower, "on_append", on_append)]


@mutation("a heartbeat's commit never passes what the follower is known to hold", seed=30)
def _heartbeat_commits_anything() -> Patches:
    def heartbeat(self: Leader) -> None:
        self._heartbeat_ticks = 0
        for member in self.progress:
            raft = self.raft
            raft.send(Heartbeat(raft.raft_id, member, raft.term, raft.log.committed, self._round))

    def on_heartbeat(self: Follower, message: Heartbeat) -> None:
        sound(self, replace(message, commit=min(message.commit, self.raft.log.last_index)))

    sound = Follower.on_heartbeat
    return [(Leader, "_heartbeat", heartbeat), (Follower, "on_heartbeat", on_heartbeat)]


@mutation("5.4.2, Figure 8: entries of an older term are not committed by counting", seed=519)
def _older_terms_commit_by_counting() -> Patches:
    def commit(self: Leader) -> None:
        self.raft.commit_to(agreed(self.raft.membership.voters, self._match))

    return [(Leader, "_commit", commit)]


@mutation("thesis, 4.2.1: a learner is not counted", seed=30)
def _learners_are_counted() -> Patches:
    def commit(self: Leader) -> None:
        membership = self.raft.membership
        everyone = [*membership.voters, *membership.learners]
        values = sorted(map(self._match, everyone), reverse=True)
        index = values[membership.majority - 1]
        if index > self.raft.log.committed and self.raft.log.term(index) == self.raft.term:
            self.raft.commit_to(index)

    return [(Leader, "_commit", commit)]


# Reads.


@mutation("thesis, 6.4: a read waits until a majority has confirmed that the leader still leads", seed=56)
def _stale_read_on_a_deposed_leader() -> Patches:
    def acknowledged_read(self: Leader, member: int) -> int:
        return self._round

    return [(Leader, "_acknowledged_read", acknowledged_read)]


@mutation("Raft paper, 8: a new leader first learns what is committed", seed=0)
def _new_leader_reads_at_once() -> Patches:
    def start_round(self: Leader) -> None:
        if self._asked:
            self._round += 1
            self._rounds.append((self._round, self.raft.log.committed, self._asked))
            self._asked = []
            self._heartbeat()
            self._confirm_reads()

    return [(Leader, "_start_round", start_round)]


@mutation("thesis, 6.4: an answer confirms the reads that were asked before it was asked for", seed=197)
def _any_answer_confirms_a_read() -> Patches:
    sound = Progress.answered_heartbeat

    def answered_heartbeat(self: Progress, read: int) -> bool:
        return sound(self, 1 << 60)

    return [(Progress, "answered_heartbeat", answered_heartbeat)]


# Members.


@mutation("thesis, 4.1: one change at a time", seed=739)
def _two_changes_at_once() -> Patches:
    return [(Leader, "may_change", property(lambda self: True))]


@mutation("thesis, 4.3: a snapshot carries the membership", seed=28)
def _membership_lost_with_a_snapshot() -> Patches:
    sound = Raft.restore

    def restore(self: Raft, snapshot: Snapshot, membership: Membership) -> None:
        sound(self, snapshot, self.membership)

    return [(Raft, "restore", restore)]


@mutation("thesis, 4.1: who was removed has no vote", seed=4)
def _removed_members_keep_their_vote() -> Patches:
    sound = Membership.after

    def after(self: Membership, change: Change) -> Membership:
        changed = sound(self, change)
        if change.kind is ChangeKind.REMOVE:
            return replace(changed, voters=self.voters, peers=self.peers)
        return changed

    return [(Membership, "after", after)]


# Snapshots.


@mutation("Raft paper, 7: a snapshot does not take away newer entries that agree with it", seed=2)
def _snapshot_over_newer_entries() -> Patches:
    def on_snapshot_chunk(self: Follower, message: SnapshotChunk) -> None:
        self._heard(message.sender)
        raft = self.raft
        if self._incoming is None or not self._incoming.is_for(message):
            self._incoming = _IncomingSnapshot(message)
        self._incoming.add(message)
        if self._incoming.complete:
            data, self._incoming = bytes(self._incoming.data), None
            snapshot = Snapshot(message.index, message.index_term, message.membership, data)
            raft.restore(snapshot, Membership.decode(message.membership))
            raft.send(AppendResponse(raft.raft_id, message.sender, raft.term, raft.log.committed))

    return [(Follower, "on_snapshot_chunk", on_snapshot_chunk)]


@mutation("Raft paper, 7: chunks are put together by their offset", seed=67)
def _chunks_in_the_order_of_arrival() -> Patches:
    def add(self: _IncomingSnapshot, chunk: SnapshotChunk) -> None:
        self.data += chunk.data
        self.complete = len(self.data) >= chunk.size

    return [(_IncomingSnapshot, "add", add)]
