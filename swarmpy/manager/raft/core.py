"""Raft as a deterministic state machine: no clock, socket, disk or randomness of its own.

In      `step(message)`, `tick()`, proposals, and the driver's word that a Ready is durable.
Out     Ready values; the whole loop of a driver is

            core.step(message); core.tick(); core.propose([data])
            while ready := core.ready():
                send(ready.early)
                apply(ready.restore, ready.committed)
                write(ready).then(lambda: (send(ready.messages), core.advance(ready.number)))

        Writes may overlap with later Readys, provided they complete in order.
Owns    term, vote, role, the log's marks, the membership in force. The roles live in follower.py, candidate.py and
        leader.py; each has one door here (`become_follower`, `campaign`, `become_leader`).
Source  Raft paper, Figure 2; thesis, chapters 3, 4, 6, 9. Pre-vote and check-quorum are always on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from swarmpy.manager.raft.candidate import Candidate
from swarmpy.manager.raft.entries import EntryLog
from swarmpy.manager.raft.follower import Follower
from swarmpy.manager.raft.leader import Leader
from swarmpy.manager.raft.membership import Change, Membership
from swarmpy.manager.raft.messages import (
    Append,
    AppendResponse,
    Decided,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    Message,
    ReadRequest,
    ReadResponse,
    ReadState,
    Ready,
    RemovedNotice,
    Snapshot,
    SnapshotChunk,
    SnapshotResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from swarmpy.manager.raft.progress import Window
from swarmpy.manager.raft.role import Campaign

__all__ = ["Config", "Durable", "Raft", "Refused"]


class Refused(Exception):
    """The core does not take a proposal now; the text says why."""


@dataclass(frozen=True, slots=True)
class Config:
    """How one member behaves. `election_timeout` draws from [election_ticks, 2 * election_ticks)."""

    raft_id: int
    election_timeout: Callable[[], int]
    election_ticks: int = 10
    heartbeat_ticks: int = 1
    max_append_bytes: int = 1 << 20
    max_apply_bytes: int = 32 << 10       # some 75 tasks: milliseconds, in which the event loop does nothing else
    window: Window = field(default_factory=Window)


@dataclass(frozen=True, slots=True)
class Durable:
    """What a member finds on its disk when it starts. `offset` is the entry before the first of `entries`."""

    hard_state: HardState = field(default_factory=HardState)
    snapshot: Snapshot | None = None
    offset: int = 0
    offset_term: int = 0
    entries: tuple[Entry, ...] = ()


class Raft:
    """One member. `term` and `vote` as in Figure 2; `membership` is the last committed configuration."""

    def __init__(self, config: Config, durable: Durable) -> None:
        self.config = config
        self.raft_id = config.raft_id
        self.term = durable.hard_state.term
        self.vote = durable.hard_state.vote
        self.log = EntryLog(durable.snapshot, durable.offset, durable.offset_term, durable.entries)
        self.membership = Membership.decode(durable.snapshot.membership) if durable.snapshot else Membership()
        self.removed = False                         # this member is out; it takes no part from now on
        self.reads: list[ReadState] = []
        self._early: list[Message] = []
        self._after_disk: list[Message] = []
        self._number = 0                             # of the last Ready
        self._promised = (self.term, self.vote)      # as handed to the disk
        self._durable = (self.term, self.vote)       # as known durable
        self._promises: deque[tuple[int, tuple[int, int]]] = deque()    # (number of the Ready, what it promises)
        self._snapshot_to_store: Snapshot | None = None
        self._restore: Snapshot | None = None
        self._compact = 0
        self.role: Follower | Candidate | Leader = Follower(self, None)
        self.commit_to(durable.hard_state.commit)

    # What a driver asks.

    @property
    def leader(self) -> int | None:
        return self.role.leader

    @property
    def is_leader(self) -> bool:
        return isinstance(self.role, Leader)

    def tick(self) -> None:
        """One unit of time has passed."""
        if not self.removed:
            self.role.tick()

    def propose(self, proposals: Sequence[bytes]) -> int:
        """Append to the log; returns the index of the first. Raises Refused unless this member leads."""
        return self._leading().append(EntryKind.NORMAL, proposals)

    def propose_change(self, change: Change) -> int:
        """Append a change of the members. Raises Refused when not leading, or when it cannot be made now."""
        leader = self._leading()
        objection = leader.objection(change)
        if objection is not None:
            raise Refused(objection)
        return leader.change(change)

    def transfer(self, member: int) -> None:
        """Begin to hand leadership to a voter. Raises Refused when not leading, or already handing over."""
        leader = self._leading()
        if member not in self.membership.voters or member == self.raft_id:
            raise Refused(f"raft member {member} is not another voter")
        leader.transfer(member)

    def read(self, context: int) -> None:
        """Ask for a read index; a ReadState with this context follows unless messages are lost. May be repeated."""
        self.role.read(context)

    def leader_unreachable(self) -> None:
        """The path to the leader broke."""
        self.role.leader_unreachable()

    def unreachable(self, member: int) -> None:
        """Messages to `member` were lost."""
        if isinstance(self.role, Leader) and member in self.role.progress:
            self.role.progress[member].unreachable()

    def snapshot_taken(self, index: int, membership: Membership, data: bytes, keep: int) -> None:
        """The state machine's state as of the applied entry at `index`, and the membership in force there: store it,
        and drop all but `keep` entries before.

        One that comes late, after a newer one was restored, is forgotten.
        """
        log = self.log
        if log.snapshot is not None and index <= log.snapshot.index:
            return
        term = log.term(index)
        if term is None or index > log.applied:
            raise AssertionError(f"no snapshot can be taken at {index} while {log.applied} is applied")
        self._snapshot_to_store = Snapshot(index, term, membership.encode(), data)
        self._compact = log.compact(self._snapshot_to_store, keep)

    def _leading(self) -> Leader:
        if not isinstance(self.role, Leader):
            raise Refused("this member does not lead")
        if self.role.transferee is not None:
            raise Refused(f"leadership is being handed to raft member {self.role.transferee}")
        return self.role

    # Work for the driver.

    def ready(self) -> Ready | None:
        """Everything to be done since the last one, or None."""
        self.role.flush()
        log = self.log
        promise = (self.term, self.vote)
        if not (
            self._early
            or self._after_disk
            or log.applied < log.committed
            or log.handed < log.last_index
            or self.reads
            or self._promised != promise
            or self._snapshot_to_store
        ):
            return None
        self._number += 1
        restore, self._restore = self._restore, None
        entries = log.hand_over(self._number)
        must_write = bool(entries or self._snapshot_to_store or promise != self._promised)
        self._promised = promise
        self._promises.append((self._number, promise))
        ready = Ready(
            number=self._number,
            early=tuple(self._early),
            hard_state=HardState(self.term, self.vote, log.committed),
            snapshot=self._snapshot_to_store,
            entries=entries,
            compact=self._compact,
            must_write=must_write,
            messages=tuple(self._after_disk),
            restore=restore,
            committed=log.take_committed(self.config.max_apply_bytes),
            reads=tuple(self.reads),
        )
        self._early, self._after_disk, self.reads = [], [], []
        self._snapshot_to_store, self._compact = None, 0
        return ready

    def advance(self, number: int) -> None:
        """Ready `number`, and every earlier one, is durable."""
        while self._promises and self._promises[0][0] <= number:
            self._durable = self._promises.popleft()[1]
        before = self.log.stable
        self.log.written(number)
        if self.log.stable > before:
            self.role.stable_moved()

    def send(self, message: Message) -> None:
        """Queue a message; it leaves early only if the term it speaks for is durable."""
        if message.after_disk or self._durable != (self.term, self.vote):
            self._after_disk.append(message)
        else:
            self._early.append(message)

    # Messages.

    def step(self, message: Message) -> None:
        """Take one message from another member."""
        if self.removed:
            self._step_removed(message)
        elif isinstance(message, Decided):
            if self.log.matches(message.index, message.index_term):
                self.commit_to(message.index)
        elif isinstance(message, RemovedNotice):
            self.removed = True
            self.become_follower(self.term, None)
        elif message.sender in self.membership.removed and message.sender != self.leader:    # its last words count
            self.send(RemovedNotice(self.raft_id, message.sender, self.term))
        elif message.term == self.term:
            self._dispatch(message)
        elif message.term > self.term:
            self._step_newer(message)
        else:
            self._step_older(message)

    def _step_removed(self, message: Message) -> None:
        """A voter may not know yet that this member is out, and wait for its vote. What is decided frees it."""
        if isinstance(message, VoteRequest) and message.sender in self.membership.voters:
            index, term = self.log.committed, self.log.term(self.log.committed)
            if term is not None:
                self.send(Decided(self.raft_id, message.sender, self.term, index, term))

    def _step_newer(self, message: Message) -> None:
        match message:
            case VoteRequest(forced=False) if self.role.in_lease:
                pass    # a leader is in office; the asker has lost touch, or is out (thesis, 6.2 and 4.2.3)
            case VoteRequest(pre=True) | VoteResponse(pre=True, granted=True):
                self._dispatch(message)    # speaks of a term that may never be
            case _:
                from_leader = isinstance(message, Append | Heartbeat | SnapshotChunk)
                self.become_follower(message.term, message.sender if from_leader else None)
                self._dispatch(message)

    def _step_older(self, message: Message) -> None:
        """The sender learns of our term from the answer, or the message is dropped."""
        match message:
            case Append() | Heartbeat() | SnapshotChunk():
                self.send(AppendResponse(self.raft_id, message.sender, self.term, 0, rejected=True))
            case VoteRequest(pre=True):
                self.send(VoteResponse(self.raft_id, message.sender, self.term, pre=True, granted=False))

    def _dispatch(self, message: Message) -> None:
        role = self.role
        match message:
            case Append():
                role.on_append(message)
            case AppendResponse():
                role.on_append_response(message)
            case Heartbeat():
                role.on_heartbeat(message)
            case HeartbeatResponse():
                role.on_heartbeat_response(message)
            case VoteRequest():
                self._consider(message)
            case VoteResponse():
                role.on_vote_response(message)
            case ReadRequest():
                role.on_read_request(message)
            case ReadResponse():
                role.on_read_response(message)
            case SnapshotChunk():
                role.on_snapshot_chunk(message)
            case SnapshotResponse():
                role.on_snapshot_response(message)
            case TimeoutNow():
                role.on_timeout_now(message)
            case _:
                raise AssertionError(f"no rule for {message}")

    def _consider(self, request: VoteRequest) -> None:
        """Answer a request for a vote of this term, or for a pre-vote (Raft paper, 5.2, 5.4.1)."""
        free = self.vote == request.sender or (self.vote == 0 and self.leader is None)
        may = free or (request.pre and request.term > self.term)
        granted = may and self.log.is_up_to_date(request.last_index, request.last_term)
        term = request.term if granted else self.term
        if granted and not request.pre:
            self.vote = request.sender
            self.role.vote_granted()
        self.send(VoteResponse(self.raft_id, request.sender, term, request.pre, granted))

    # The doors of the roles.

    def become_follower(self, term: int, leader: int | None) -> Follower:
        if term < self.term:
            raise AssertionError(f"term would go back from {self.term} to {term}")
        if term > self.term:
            self.term, self.vote = term, 0
        self.role = Follower(self, leader)
        return self.role

    def campaign(self, kind: Campaign) -> None:
        """Stand for election. A leader does not; one that is no voter only asks whether it is still a member."""
        if self.is_leader:
            return
        if self.raft_id not in self.membership.voters:
            self._ask_around()
            return
        if kind is not Campaign.PRE:
            self.term, self.vote = self.term + 1, self.raft_id
        candidate = Candidate(self, kind)
        self.role = candidate
        candidate.start()

    def _ask_around(self) -> None:
        """A pre-vote that this member has no use for: if it was removed, a RemovedNotice is the answer."""
        log = self.log
        for voter in sorted(self.membership.voters):
            question = (self.term + 1, log.last_index, log.last_term)
            self.send(VoteRequest(self.raft_id, voter, *question, pre=True, forced=False))

    def become_leader(self) -> None:
        if not isinstance(self.role, Candidate) or self.role.pre:
            raise AssertionError(f"a {self.role.name} of term {self.term} cannot become leader")
        leader = Leader(self)
        self.role = leader
        leader.append(EntryKind.NOOP, [b""])

    # What is decided.

    def commit_to(self, index: int) -> None:
        """Entries up to `index` are committed; changes of the members among them take effect."""
        log = self.log
        if index <= log.committed:
            return
        decided = log.slice(log.committed + 1, index)
        log.commit_to(index)
        self._take_effect(entry for entry in decided if entry.kind is EntryKind.CONFIG)

    def _take_effect(self, changes: Iterable[Entry]) -> None:
        for entry in changes:
            self.membership = self.membership.after(Change.decode(entry.data))
            if self.raft_id in self.membership.removed:
                self._leave()
                return
            self.role.membership_changed()

    def _leave(self) -> None:
        """This member was voted out: a leader still hands over; then it takes no part any more."""
        self.role.membership_changed()
        self.role.leave()
        self.removed = True
        self.become_follower(self.term, None)

    def restore(self, snapshot: Snapshot, membership: Membership) -> None:
        """Replace everything by the leader's snapshot, which is ahead of all we have committed."""
        self.log.restore(snapshot)
        self.membership = membership
        self._snapshot_to_store = self._restore = snapshot
        self._compact = 0
        if self.raft_id in membership.removed:
            self._leave()
