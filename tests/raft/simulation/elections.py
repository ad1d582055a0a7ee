"""How long a cluster is without a leader when its leader's process dies, in virtual milliseconds.

`python -m tests.raft.simulation --elections --seeds 1000` prints how it is distributed, and how often votes were split,
for 3 and for 5 members. Cores tick each at their own phase; the leader takes writes until it dies; the others hear of
its end one by one, while disks are slow now and then and threads get no processor for a while.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random

from swarmpy.manager.raft.candidate import Candidate
from swarmpy.manager.raft.core import Config, Raft
from swarmpy.manager.raft.leader import Leader
from swarmpy.manager.raft.messages import Message, Ready
from swarmpy.manager.raft.role import Campaign
from tests.raft.cores import founded

__all__ = ["BUSY", "CALM", "Conditions", "Election", "report"]

TICK = 100
ELECTION_TICKS = 10
GIVEN_UP = 60_000

Spans = tuple[tuple[int, int, int], ...]    # (weight, least, most) in ms


@dataclass(frozen=True, slots=True)
class Conditions:
    """How long things take. Every 50 to 150 ms a member may be held up."""

    noticed: Spans      # that the leader's process is gone
    sync: Spans         # a write to disk
    delay: Spans        # a message
    held_up: Spans      # without a processor


CALM = Conditions(((1, 1, 10),), ((1, 1, 4),), ((1, 0, 2),), ((1, 0, 0),))
BUSY = Conditions(
    noticed=((6, 1, 30), (3, 30, 200), (1, 200, 600)),
    sync=((8, 2, 10), (1, 20, 100), (1, 100, 400)),
    delay=((5, 0, 3), (1, 3, 30)),
    held_up=((19, 0, 0), (1, 10, 100)),
)


class Member:
    """A core, what its disk has not finished, and until when it is held up."""

    def __init__(self, core: Raft) -> None:
        self.core = core
        self.up = True
        self.held_until = 0
        self.syncing = False
        self.writes: deque[Ready] = deque()


class Election:
    """`time_without_leader` is one run, the same for the same seed."""

    def __init__(self, seed: int, members: int, conditions: Conditions) -> None:
        self._random = Random(seed)
        self._conditions = conditions
        self._now = 0
        self._count = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._latest: dict[tuple[int, int], int] = {}
        self.stood: list[tuple[int, int]] = []      # (term, member) of each candidacy
        ids = range(1, members + 1)
        self._members = {raft_id: Member(self._core(raft_id, members)) for raft_id in ids}
        for member in self._members.values():
            self._in(self._random.randrange(TICK), partial(self._tick, member))
            self._hold_up(member)
        first = self._members[self._random.choice(ids)]
        first.core.campaign(Campaign.FORCED)
        self._carry_out(first)

    def _core(self, raft_id: int, members: int) -> Raft:
        timeout = lambda: self._random.randrange(ELECTION_TICKS, 2 * ELECTION_TICKS)  # noqa: E731
        return Raft(Config(raft_id, timeout, ELECTION_TICKS), founded(range(1, members + 1)))

    def time_without_leader(self) -> int:
        """From the death of the leader until the next one has committed an entry."""
        self._run_until(self._now + GIVEN_UP, lambda: self._leader() is not None)
        self._write()
        self._run_until(self._now + self._random.randint(300, 700))
        self._run_until(self._now + GIVEN_UP, lambda: self._leader() is not None)
        dead = self._leader()
        assert dead is not None, "no leader was elected at first"
        dead.up, died = False, self._now
        self.stood.clear()
        for member in self._members.values():
            self._in(self._take(self._conditions.noticed), partial(self._notice, member, dead))
        self._run_until(died + GIVEN_UP, lambda: self._leader() is not None)
        return self._now - died

    @property
    def votes_were_split(self) -> bool:
        """Whether two stood in one term."""
        return len({term for term, _ in self.stood}) < len(set(self.stood))

    def _leader(self) -> Member | None:
        for member in self._members.values():
            role = member.core.role
            if member.up and isinstance(role, Leader) and role.has_committed_in_term:
                return member
        return None

    def _write(self) -> None:
        leader = self._leader()
        if leader is not None:
            leader.core.propose([b"x"])
            self._carry_out(leader)
        self._in(self._random.randint(4, 30), self._write)

    def _notice(self, member: Member, dead: Member) -> None:
        def notice() -> None:
            if member.core.leader == dead.core.raft_id:
                member.core.leader_unreachable()
                self._carry_out(member)

        self._once_free(member, notice)

    # Virtual time.

    def _in(self, delay: int, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self._now + delay, self._count, action))

    def _run_until(self, end: int, done: Callable[[], bool] = lambda: False) -> None:
        while not done() and self._queue[0][0] <= end:
            self._now, _, action = heapq.heappop(self._queue)
            action()

    def _take(self, spans: Spans) -> int:
        (_, least, most) = self._random.choices(spans, [weight for weight, _, _ in spans])[0]
        return self._random.randint(least, most)

    def _once_free(self, member: Member, action: Callable[[], None]) -> None:
        if member.up and member.held_until > self._now:
            self._in(member.held_until - self._now, lambda: self._once_free(member, action))
        elif member.up:
            action()

    def _hold_up(self, member: Member) -> None:
        member.held_until = self._now + self._take(self._conditions.held_up)
        self._in(self._random.randint(50, 150), lambda: self._hold_up(member))

    # What a driver does.

    def _tick(self, member: Member) -> None:
        def tick() -> None:
            member.core.tick()
            self._carry_out(member)
            self._in(TICK + self._random.randint(0, 5), lambda: self._tick(member))

        self._once_free(member, tick)

    def _carry_out(self, member: Member) -> None:
        role = member.core.role
        if isinstance(role, Candidate) and not role.pre:
            self.stood.append((member.core.term, member.core.raft_id))
        while (ready := member.core.ready()) is not None:
            self._send(ready.early)
            member.writes.append(ready)
        self._sync(member)

    def _sync(self, member: Member) -> None:
        """All that waits is one write; what needs none waits for those before it."""
        if member.writes and not member.syncing:
            count = len(member.writes)
            takes = self._take(self._conditions.sync) if any(ready.must_write for ready in member.writes) else 0
            member.syncing = True
            self._in(takes, lambda: self._once_free(member, lambda: self._synced(member, count)))

    def _synced(self, member: Member, count: int) -> None:
        member.syncing = False
        for ready in [member.writes.popleft() for _ in range(count)]:
            self._send(ready.messages)
            member.core.advance(ready.number)
        self._carry_out(member)

    def _send(self, messages: tuple[Message, ...]) -> None:
        for message in messages:
            path = message.sender, message.to
            arrives = max(self._now + self._take(self._conditions.delay), self._latest.get(path, 0))
            self._latest[path] = arrives
            self._in(arrives - self._now, partial(self._deliver, message))

    def _deliver(self, message: Message) -> None:
        member = self._members[message.to]

        def step() -> None:
            if self._members[message.sender].up:
                member.core.step(message)
                self._carry_out(member)

        self._once_free(member, step)


def report(members: int, seeds: range) -> Iterator[str]:
    """A line for a calm machine and one for a busy one."""
    for name, conditions in (("calm", CALM), ("busy", BUSY)):
        elections = [Election(seed, members, conditions) for seed in seeds]
        took = sorted(election.time_without_leader() for election in elections)
        split = sum(election.votes_were_split for election in elections) / len(elections)
        p50, p99 = (took[math.ceil(share * len(took)) - 1] for share in (0.5, 0.99))
        yield f"{members} members, {name}: p50 {p50} ms, p99 {p99} ms, max {took[-1]} ms, votes split {split:.1%}"
