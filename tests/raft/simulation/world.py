"""One run: a cluster, clients and a troublemaker, all drawn from one seed. Time is in virtual milliseconds."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial
from random import Random

from swarmpy.manager.raft.leader import Leader
from swarmpy.manager.raft.membership import Change, ChangeKind, Peer
from swarmpy.manager.raft.messages import HardState, Message
from swarmpy.manager.raft.role import Campaign
from tests.raft.simulation.disk import Disk, founding_entries
from tests.raft.simulation.laws import Broken, Laws
from tests.raft.simulation.member import Member
from tests.raft.simulation.network import Network, Weather

__all__ = ["World"]

TICK = 100
TROUBLE = (2_000, 8_000)    # how long the troublemaker is at work
CALM = 4_000                # how long the cluster may take to recover when he is gone
QUIET = 20_000              # how long its members may take to agree once the clients are gone, too
MAX_MEMBERS = 7
FAST_DISK = (1, 1, 1, 4)    # how long a write takes


class World:
    """`run` raises Broken, or an AssertionError of the core, when something does not hold."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.now = 0
        self.laws = Laws()
        self._trace = trace
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._calm = False
        self._clients = True
        self._contexts = 0
        self._pumping: set[Member] = set()
        self._stopped_until: dict[Member, int] = {}
        self._syncing: set[Member] = set()
        self.network = Network(self._weather(), self.random)
        self.members: dict[int, Member] = {}
        voters = self.random.choice((1, 2, 3, 3, 3, 4, 5, 5, 5, 6, 7))
        learners = min(self.random.choice((0, 0, 1, 2)), MAX_MEMBERS - voters)
        founding = founding_entries(voters, learners)
        for raft_id in range(1, voters + learners + 1):
            self._add(raft_id, Disk(HardState(1, 0, len(founding)), founding))
        self._write_every = self.random.choice((5, 20, 100))
        self._trouble_every = self.random.choice((60, 150, 400, 1200))
        self._rivalry = self.random.choice((0, 3, 12))
        self._leaders_fall = self.random.random() < 0.3
        self._syncs = self.random.choice(((1, 1, 4, 40), FAST_DISK, (40, 100, 400)))
        self._snapshot_every = self.random.choice((0, 300, 1500))

    def _weather(self) -> Weather:
        random = self.random
        return Weather(
            loss=random.choice((0, 0, 0.02, 0.2)),
            duplication=random.choice((0, 0, 0.05)),
            max_delay=random.choice((2, 20, 150)),
            in_order=random.random() < 0.5,
        )

    def run(self) -> None:
        self._every(self._write_every, self._client_writes)
        self._every(2 * self._write_every, self._client_reads)
        self._every(self._trouble_every, self._make_trouble)
        if self._leaders_fall:
            self._every(TICK // 2, self._lead_and_fall)
        if self._snapshot_every:
            self._every(self._snapshot_every, self._someone_takes_a_snapshot)
        self._run_until(self.random.randint(*TROUBLE))
        self._calm_down()
        self._run_until(self.now + CALM)
        self._clients = False
        deadline = self.now + QUIET
        while (wrong := self._not_recovered()) is not None:
            if self.now >= deadline:
                raise Broken(wrong)
            self._run_until(self.now + 5 * TICK)
        self.laws.at_the_end()

    # Virtual time.

    def _at(self, time: int, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (time, self._count, action))

    def _every(self, interval: int, action: Callable[[], None]) -> None:
        def again() -> None:
            action()
            self._at(self.now + self.random.randint(1, 2 * interval), again)

        again()

    def _run_until(self, end: int) -> None:
        while self._queue and self._queue[0][0] <= end:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = end

    def say(self, text: str) -> None:
        if self._trace is not None:
            self._trace(f"{self.now:6} {text}")

    # Members.

    def _add(self, raft_id: int, disk: Disk) -> None:
        member = self.members[raft_id] = Member(raft_id, disk, self.laws, self.random, self._send)
        self._at(self.now + self.random.randint(1, TICK), lambda: self._tick(member))

    def _tick(self, member: Member) -> None:
        """Clocks run at slightly different rates, and sometimes a member is held up."""
        held_up = 0 if self._calm or self.random.random() > 0.01 else self.random.randint(0, 12) * TICK
        self._at(self.now + self.random.randint(TICK - 5, TICK + 5) + held_up, lambda: self._tick(member))
        if member.up and self.now >= self._stopped_until.get(member, 0):
            member.core.tick()
            self._pump_soon(member)

    def _pump_soon(self, member: Member) -> None:
        if member not in self._pumping:
            self._pumping.add(member)
            self._at(self.now + self.random.choice((0, 0, 1, 3)), lambda: self._pump(member))

    def _pump(self, member: Member) -> None:
        self._pumping.discard(member)
        if member.up:
            before = (member.core.term, member.core.role.name, member.core.membership.voters)
            if member.pump():
                self._pump_soon(member)
            after = (member.core.term, member.core.role.name, member.core.membership.voters)
            if self._trace and before != after:
                self.say(f"{member.raft_id}: {after}")
            self._sync_soon(member)

    def _sync_soon(self, member: Member) -> None:
        if member.disk.under_way and member not in self._syncing:
            self._syncing.add(member)
            core, count = member.core, len(member.disk.under_way)
            self._at(self.now + self.random.choice(self._syncs), lambda: self._sync(member, core, count))

    def _sync(self, member: Member, core: object, count: int) -> None:
        self._syncing.discard(member)
        if member.up and member.core is core:
            member.synced(count)
            self._pump_soon(member)
        self._sync_soon(member)

    def _send(self, message: Message) -> None:
        for time in self.network.arrivals(message, self.now):
            self._at(time, lambda: self._deliver(message))

    def _deliver(self, message: Message) -> None:
        member = self.members.get(message.to)
        if member is not None and member.up:
            if self._trace is not None:
                self.say(f"{message}")
            member.core.step(message)
            self._pump_soon(member)

    # Clients.

    def _up(self) -> list[Member]:
        return [member for member in self.members.values() if member.up]

    def _leaders(self) -> list[Member]:
        return [member for member in self._up() if member.core.is_leader]

    def _client_writes(self) -> None:
        leaders = self._leaders()
        if leaders and self._clients:
            leader = self.random.choice(leaders)
            for _ in range(self.random.choice((1, 1, 5))):
                data = b"%d." % self.random.getrandbits(32) + bytes(self.random.choice((0, 10, 60)))
                leader.write(data)
            self._pump_soon(leader)

    def _client_reads(self) -> None:
        up = self._up()
        if up and self._clients:
            self._read_at(self.random.choice(up))

    def _read_at(self, member: Member) -> None:
        if member.up:
            self._contexts += 1
            member.read(self._contexts)
            self._pump_soon(member)

    # The troublemaker.

    def _make_trouble(self) -> None:
        if self._calm:
            return
        deeds = (
            (3, self._crash), (4, self._restart), (2, self._bounce), (2, self._cut_power), (1, self._jump_clock),
            (2, self._partition), (2, self._cut_one_way), (4, self._heal), (2, self._break_stream),
            (2, self._strand_leader), (2, self._transfer), (self._rivalry, self._rivals_stand),
            (2, self._add_learner), (2, self._promote), (1, self._remove), (1, self._change_much),
        )  # fmt: skip
        deed = self.random.choices([deed for _, deed in deeds], [weight for weight, _ in deeds])[0]
        deed()

    def _pick(self) -> Member | None:
        up = self._up()
        leaders = self._leaders()
        if leaders and self.random.random() < 0.5:
            return self.random.choice(leaders)
        return self.random.choice(up) if up else None

    def _crash(self) -> None:
        member = self._pick()
        if member is not None:
            self.say(f"crash {member.raft_id}")
            member.crash()

    def _bounce(self, member: Member | None = None) -> None:
        """Crash and start again before anybody notices: what was not synced is forgotten, the term goes on."""
        member = member or self._pick()
        if member is not None and member.up and not self._calm:
            self.say(f"bounce {member.raft_id}")
            member.crash()
            member.start()

    def _jump_clock(self) -> None:
        """Much time passes at once, as when a machine was suspended."""
        member = self._pick()
        if member is not None:
            self.say(f"clock of {member.raft_id} jumps")
            for _ in range(self.random.randint(1, 30)):
                member.core.tick()
            self._pump_soon(member)

    def _rivals_stand(self) -> None:
        """Two stand for the same term; those they ask hear the second later, and some crash in between. The first
        may win before that, but says so only afterwards.

        Any follower may stand at any time (Raft paper, 5.2): timeouts make it rare, they do not make it safe.
        """
        voters = [member for member in self._up() if member.raft_id in member.core.membership.voters]
        self.random.shuffle(voters)
        first, second, asked = voters[:1], voters[1:2], voters[2:]
        late = self.random.randint(0, 2 * TICK)
        for rival in (*first, *second):
            self.say(f"{rival.raft_id} stands")
            rival.core.campaign(Campaign.FORCED)
            self._pump_soon(rival)
        for rival in first:
            self._at(self.now + 5, partial(self._hold_up, rival, self.now + 2 * late))
        for rival in second:
            self._hold_up(rival, self.now + late)
        for member in asked:
            if self.random.random() < 0.5:
                self._at(self.now + self.random.randint(0, late), partial(self._bounce, member))

    def _hold_up(self, member: Member, until: int) -> None:
        self.network.hold_up(member.raft_id, until)

    def _lead_and_fall(self) -> None:
        """Leaders fall soon after a write or two, and no more than a majority is ever up (Raft paper, Figure 8).

        Every election then needs all who are up, among them those who last held something else.
        """
        if self._calm:
            return
        for leader in self._leaders():
            leader.write(b"%d." % self.random.getrandbits(32) + bytes(60))
            self._pump_soon(leader)
            if self.random.random() < 0.6:
                self._at(self.now + self.random.randint(0, 40), partial(self._fall, leader))
        up, down = self._up(), [member for member in self.members.values() if not member.up]
        self.random.shuffle(down)
        for member in down[: max(0, len(self.members) // 2 + 1 - len(up))]:
            member.start()
            self._stand_soon(member)
        if up and not self._leaders():
            self._stand_soon(self.random.choice(up))

    def _stand_soon(self, member: Member) -> None:
        self._at(self.now + self.random.randint(0, TICK), lambda: self._stand(member))

    def _stand(self, member: Member) -> None:
        if member.up:
            member.core.campaign(Campaign.REAL)
            self._pump_soon(member)

    def _fall(self, leader: Member) -> None:
        if leader.up and not self._calm:
            self.say(f"crash {leader.raft_id}")
            leader.crash()

    def _cut_power(self) -> None:
        """All at once, and most come back before the rest: what only they had is gone with what was not synced."""
        self.say("power cut")
        for member in self._up():
            member.crash()
        self._restart()

    def _restart(self) -> None:
        down = [member for member in self.members.values() if not member.up]
        for member in down:
            if self.random.random() < 0.7:
                self.say(f"restart {member.raft_id}")
                member.start()

    def _partition(self) -> None:
        if self._calm:
            return
        ids = list(self.members)
        self.random.shuffle(ids)
        at = self.random.randint(0, len(ids))
        both_ways = self.random.random() < 0.7
        self.say(f"partition {ids[:at]} | {ids[at:]}, both ways: {both_ways}")
        self.network.partition(set(ids[:at]), set(ids[at:]), both_ways=both_ways)

    def _strand_leader(self) -> None:
        """Cut a leader off and stop its clock, so that it goes on believing; clients still ask it."""
        for leader in self._leaders():
            self.say(f"strand {leader.raft_id}")
            self.network.partition({leader.raft_id}, set(self.members) - {leader.raft_id}, both_ways=True)
            self._stopped_until[leader] = self.now + 30 * TICK
            for _ in range(3):
                self._at(self.now + self.random.randint(1, 30 * TICK), partial(self._read_at, leader))

    def _cut_one_way(self) -> None:
        self.network.cut(self.random.choice(list(self.members)), self.random.choice(list(self.members)))

    def _heal(self) -> None:
        self.say("heal")
        self.network.heal()

    def _break_stream(self) -> None:
        member = self._pick()
        if member is not None:
            member.core.leader_unreachable()
            for other in self.members:
                member.core.unreachable(other)
            self._pump_soon(member)

    def _transfer(self) -> None:
        for leader in self._leaders():
            role = leader.core.role
            heirs = sorted(leader.core.membership.voters - {leader.raft_id})
            if heirs and isinstance(role, Leader) and role.transferee is None:
                heir = self.random.choice(heirs)
                self.say(f"transfer {leader.raft_id} -> {heir}")
                leader.core.transfer(heir)
                self._pump_soon(leader)

    def _add_learner(self) -> None:
        raft_id = len(self.members) + 1
        for leader in self._leaders():
            present = leader.core.membership.voters | leader.core.membership.learners
            if len(present) < MAX_MEMBERS and raft_id <= 2 * MAX_MEMBERS and raft_id not in self.members:
                peer = Peer(f"node-{raft_id}", f"host-{raft_id}:1")
                if leader.change(Change(ChangeKind.ADD_LEARNER, raft_id, peer)):
                    self.say(f"add learner {raft_id}")
                    self._add(raft_id, Disk())
                self._pump_soon(leader)

    def _promote(self) -> None:
        for leader in self._leaders():
            learners = sorted(leader.core.membership.learners)
            if learners:
                leader.change(Change(ChangeKind.PROMOTE, self.random.choice(learners)))
                self._pump_soon(leader)

    def _remove(self) -> None:
        for leader in self._leaders():
            membership = leader.core.membership
            member = self.random.choice(sorted(membership.voters | membership.learners))
            leader.change(Change(ChangeKind.REMOVE, member))
            self._pump_soon(leader)

    def _change_much(self) -> None:
        """Several changes in one breath, of which a leader takes the first; then it loses touch with some."""
        for leader in self._leaders():
            membership = leader.core.membership
            wanted = [Change(ChangeKind.PROMOTE, learner) for learner in sorted(membership.learners)]
            wanted += [Change(ChangeKind.REMOVE, voter) for voter in sorted(membership.voters - {leader.raft_id})]
            self.random.shuffle(wanted)
            self.say(f"{leader.raft_id} is asked for {len(wanted)} changes at once")
            for change in wanted[:3]:
                leader.change(change)
            self._pump_soon(leader)
            self._at(self.now + self.random.randint(1, TICK), self._partition)

    def _someone_takes_a_snapshot(self) -> None:
        member = self._pick()
        if member is not None:
            member.take_snapshot(keep=self.random.choice((0, 3, 20)))
            self._pump_soon(member)

    # Afterwards.

    def _calm_down(self) -> None:
        self.say("calm")
        self._calm = True
        self.network.heal()
        self._stopped_until.clear()
        self._syncs = FAST_DISK
        self.network.weather = Weather(loss=0, duplication=0, max_delay=5, in_order=True)
        for member in self.members.values():
            if not member.up:
                member.start()

    def _not_recovered(self) -> str | None:
        """What is missing: one leader that commits, members of one configuration that hold the same, the rest gone."""
        latest = max(self._up(), key=lambda member: member.core.log.committed).core
        membership = latest.membership
        leaders = [member.core for member in self._leaders() if member.raft_id in membership.voters]
        if len(leaders) != 1:
            return f"in calm weather there are {len(leaders)} leaders among {sorted(membership.voters)}"
        leader = leaders[0]
        if leader.log.term(leader.log.committed) != leader.term:
            return f"leader {leader.raft_id} has committed nothing in its term"
        for raft_id in membership.voters | membership.learners:
            core = self.members[raft_id].core
            if core.log.applied < leader.log.last_index or core.membership != membership:
                return f"member {raft_id} did not catch up: {core.log.applied} of {leader.log.last_index}"
        for raft_id in membership.removed & self.members.keys():
            out = self.members[raft_id].core
            knows_someone = out.membership.voters & (membership.voters | membership.learners)
            if knows_someone and not out.removed:
                return f"member {raft_id} was removed and does not know"
        return None
