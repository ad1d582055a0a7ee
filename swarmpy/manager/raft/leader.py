"""The leader role: replicates its log, decides what is committed, confirms reads, hands over.

Owns    one Progress per other member, the read rounds, and a leadership transfer under way. Appends are made in
        `flush`, once per Ready, so that whatever came in between goes out as one batch.
Source  Raft paper, 5.3, 5.4.2 (only entries of its own term are committed by counting), 7, 8;
        thesis, 3.10 (transfer), 6.2 (check quorum), 6.4 (read index), 10.2.1 (writing its own disk in parallel).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import count, repeat
from typing import TYPE_CHECKING

from swarmpy.manager.raft.membership import Change
from swarmpy.manager.raft.messages import (
    Append,
    AppendResponse,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    ReadRequest,
    ReadResponse,
    ReadState,
    RemovedNotice,
    SnapshotChunk,
    SnapshotResponse,
    TimeoutNow,
    make_entries,
)
from swarmpy.manager.raft.progress import Progress
from swarmpy.manager.raft.quorum import agreed
from swarmpy.manager.raft.role import Role

if TYPE_CHECKING:
    from swarmpy.manager.raft.core import Raft

__all__ = ["Leader"]


class Leader(Role):
    name = "leader"

    def __init__(self, raft: Raft) -> None:
        super().__init__(raft)
        self.leader = raft.raft_id
        self.progress: dict[int, Progress] = {}
        self.transferee: int | None = None
        self._transfer_ticks = 0
        self._heartbeat_ticks = 0
        self._pending_change = raft.log.last_index    # a change up to here may be uncommitted
        self._round = 0                               # of reads; each is confirmed by a majority's heartbeat answers
        self._asked: list[tuple[int, int]] = []       # reads in no round yet: (member, context)
        self._rounds: deque[tuple[int, int, list[tuple[int, int]]]] = deque()    # (round, commit index, reads)
        self._track_members()

    @property
    def in_lease(self) -> bool:
        return True

    @property
    def has_committed_in_term(self) -> bool:
        log = self.raft.log
        return log.term(log.committed) == self.raft.term

    def membership_changed(self) -> None:
        """Until the others hear of it they count by the old configuration, so they hear at once."""
        self._track_members()
        self._heartbeat()

    def _track_members(self) -> None:
        others = (self.raft.membership.voters | self.raft.membership.learners) - {self.raft.raft_id}
        for member in sorted(self.progress.keys() - others):
            del self.progress[member]
            self.raft.send(RemovedNotice(self.raft.raft_id, member, self.raft.term))
        for member in others - self.progress.keys():
            self.progress[member] = Progress(self.raft.config.window, self.raft.log.last_index + 1)
        if self.transferee is not None and self.transferee not in self.raft.membership.voters:
            self.transferee = None

    # Proposals.

    def append(self, kind: EntryKind, proposals: Sequence[bytes]) -> int:
        """Add entries to the log; returns the index of the first."""
        raft, log = self.raft, self.raft.log
        first = log.last_index + 1
        log.extend(make_entries(count(first), repeat(raft.term), repeat(kind), proposals))
        return first

    def objection(self, change: Change) -> str | None:
        """Why the change cannot be proposed now, or None."""
        if not self.may_change:
            return "another change of the members is under way, or this leader is too new; try again"
        return self.raft.membership.objection(change)

    @property
    def may_change(self) -> bool:
        """One change at a time, and the first only once an entry of this term is committed (raft-dev, 2015)."""
        return self.has_committed_in_term and self._pending_change <= self.raft.log.committed

    def change(self, change: Change) -> int:
        self._pending_change = self.append(EntryKind.CONFIG, [change.encode()])
        return self._pending_change

    # Replication.

    def flush(self) -> None:
        """Send every follower what it may be sent now, and start a round for the reads that wait."""
        last_index = self.raft.log.last_index
        for member, progress in self.progress.items():
            while progress.next <= last_index and progress.can_append:
                self._append(member, progress)
            if progress.snapshot is not None:
                self._send_chunks(member, progress)
        if self._asked:
            self._start_round()

    def _append(self, member: int, progress: Progress) -> None:
        """Send the entries from `next` on, or none as a probe; a snapshot when they are gone."""
        raft, log = self.raft, self.raft.log
        prev_index = progress.next - 1
        prev_term = log.term(prev_index) if prev_index >= log.offset else None
        if prev_term is None:
            if log.snapshot is None:
                raise AssertionError(f"entries before {log.first_index} are gone and there is no snapshot")
            progress.start_snapshot(log.snapshot)
            self._send_chunks(member, progress)
            return
        entries = log.slice(progress.next, log.last_index, raft.config.max_append_bytes)
        last_index = prev_index + len(entries)
        raft.send(Append(raft.raft_id, member, raft.term, prev_index, prev_term, log.committed, entries))
        progress.appended(last_index, log.size(progress.next, last_index))

    def _send_chunks(self, member: int, progress: Progress) -> None:
        raft, snapshot = self.raft, progress.snapshot
        while snapshot is not None and (chunk := progress.next_chunk()) is not None:
            offset, size = chunk
            raft.send(
                SnapshotChunk(
                    raft.raft_id, member, raft.term, snapshot.index, snapshot.term, snapshot.membership,
                    len(snapshot.data), offset, snapshot.data[offset : offset + size],
                )
            )  # fmt: skip

    def on_append_response(self, message: AppendResponse) -> None:
        progress = self._heard(message.sender)
        if progress is None:
            return
        if message.rejected:
            # No entry between the hint and prev_index can match; nor can ours with a term above the hint's.
            retry_at, _ = self.raft.log.last_at_or_below(message.hint_index, message.hint_term)
            if progress.rejected(message.index, retry_at) and progress.can_append:
                self._append(message.sender, progress)
            return
        if progress.accepted(message.index):
            self._commit()
            self._continue_transfer(message.sender)

    def on_snapshot_response(self, message: SnapshotResponse) -> None:
        progress = self._heard(message.sender)
        if progress is not None:
            progress.received_chunks(message.index, message.received)

    def on_heartbeat_response(self, message: HeartbeatResponse) -> None:
        progress = self._heard(message.sender)
        if progress is None:
            return
        overdue = progress.answered_heartbeat(message.read)
        if overdue and progress.match < self.raft.log.last_index:
            self._append(message.sender, progress)    # possibly empty
        self._confirm_reads()

    def stable_moved(self) -> None:
        self._commit()

    def _match(self, member: int) -> int:
        return self.raft.log.stable if member == self.raft.raft_id else self.progress[member].match

    def _commit(self) -> None:
        raft = self.raft
        index = agreed(raft.membership.voters, self._match)
        if index > raft.log.committed and raft.log.term(index) == raft.term:
            took_office = not self.has_committed_in_term
            raft.commit_to(index)
            if took_office and isinstance(raft.role, Leader):
                self._heartbeat()    # the others wait for it: from now on this member can be asked

    def _heard(self, member: int) -> Progress | None:
        progress = self.progress.get(member)
        if progress is not None:
            progress.heard()
        return progress

    # Time.

    def tick(self) -> None:
        raft = self.raft
        for progress in self.progress.values():
            progress.tick(patience=raft.config.election_ticks // 2)
        if not self._hears_a_majority():
            raft.become_follower(raft.term, None)
            return
        if self.transferee is not None:
            self._transfer_ticks += 1
            if self._transfer_ticks >= raft.config.election_ticks:
                self.transferee = None
        self._heartbeat_ticks += 1
        if self._heartbeat_ticks >= raft.config.heartbeat_ticks:
            self._heartbeat()

    def _hears_a_majority(self) -> bool:
        return sum(map(self.is_active, self.raft.membership.voters)) >= self.raft.membership.majority

    def is_active(self, member: int) -> bool:
        """Whether a member was heard within an election timeout."""
        if member == self.raft.raft_id:
            return True
        progress = self.progress.get(member)
        return progress is not None and progress.silent_ticks < self.raft.config.election_ticks

    def _heartbeat(self) -> None:
        raft = self.raft
        self._heartbeat_ticks = 0
        for member, progress in self.progress.items():
            commit = min(raft.log.committed, progress.match)
            raft.send(Heartbeat(raft.raft_id, member, raft.term, commit, self._round))

    # Reads.

    def read(self, context: int) -> None:
        self._asked.append((self.raft.raft_id, context))

    def on_read_request(self, message: ReadRequest) -> None:
        self._heard(message.sender)
        self._asked.append((message.sender, message.context))

    def _start_round(self) -> None:
        """Reads wait until the leader knows what is committed, which its first own entry tells (Raft paper, 8)."""
        if not self.has_committed_in_term:
            return
        self._round += 1
        self._rounds.append((self._round, self.raft.log.committed, self._asked))
        self._asked = []
        self._heartbeat()
        self._confirm_reads()

    def _confirm_reads(self) -> None:
        confirmed = agreed(self.raft.membership.voters, self._acknowledged_read)
        raft = self.raft
        while self._rounds and self._rounds[0][0] <= confirmed:
            _, index, reads = self._rounds.popleft()
            for member, context in reads:
                if member == raft.raft_id:
                    raft.reads.append(ReadState(context, index))
                else:
                    raft.send(ReadResponse(raft.raft_id, member, raft.term, context, index))

    def _acknowledged_read(self, member: int) -> int:
        return self._round if member == self.raft.raft_id else self.progress[member].acknowledged_read

    # Leadership transfer.

    def leave(self) -> None:
        """Out of the configuration, as the rest has just been told: have the most up to date stand."""
        voters = [member for member in sorted(self.progress) if member in self.raft.membership.voters]
        heir = max(voters, key=lambda member: self.progress[member].match, default=None)
        if heir is not None:
            self.raft.send(TimeoutNow(self.raft.raft_id, heir, self.raft.term))

    def transfer(self, member: int) -> None:
        """Stop taking proposals, bring `member` up to date and have it campaign; given up after an election timeout."""
        self.transferee = member
        self._transfer_ticks = 0
        self._continue_transfer(member)

    def _continue_transfer(self, member: int) -> None:
        raft = self.raft
        if member == self.transferee and self.progress[member].match == raft.log.last_index:
            raft.send(TimeoutNow(raft.raft_id, member, raft.term))
