"""Which nodes are alive: deadlines of heartbeats, and the states that follow from silence.

Owns    when each node was last heard, and when it will be judged next. Pure: time comes in as monotonic nanoseconds.
In      sessions that begin and break, any message of a node, hosts that answer when asked, `tick`.
Out     Verdicts: the states to write to the store, each with its reason in an operator's words; and suspects, whose
        hosts are to be asked whether they are there.

The laws, with *grace* = three heartbeat periods of the node's session:

- silent for the grace: DOWN, and its session is over. Silent for two periods: suspect;
- session broken: DISCONNECTED, and suspect, once it is silent for a period (the scheduler then looks elsewhere); DOWN
  when the grace since the last message has run out. A daemon that restarts in between costs nothing. A session that
  breaks in a long silence leaves half a period to come back in;
- new leader: a node that was up is expected back. UNKNOWN and suspect after one period, DOWN after the grace. A manager
  has two periods only: its own Raft tells it who leads, where a worker has to notice and to search. While others are
  still coming back the leader is busy with them, so nobody is DOWN until a period has passed without a return;
- the host of a suspect answers: only its daemon is silent (stopped, starved, or starting again), its containers run,
  and replacing them would stop them. It is DOWN after eight periods. It is asked until it answers or is judged: one
  answer may be missed by a leader that stands still;
- a node that says that it leaves is DOWN at once;
- the leader's own silence is not the nodes' silence: it judges by a time that stands still while it does not run.
  Between two ticks, or a tick and a message, no more than `STALL_NS` pass.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from swarmpy.rpc.types_pb2 import NodeStatus

__all__ = [
    "ANSWERING_PERIODS",
    "DEFAULT_PERIOD_NS",
    "GRACE_PERIODS",
    "MANAGER_PERIODS",
    "STALL_NS",
    "Judgement",
    "Liveness",
    "Phase",
    "Verdict",
    "heartbeat_period",
]

DEFAULT_PERIOD_NS = 1_500_000_000
GRACE_PERIODS = 3
SUSPECT_PERIODS = 2
MANAGER_PERIODS = 2              # for a manager to come back to a new leader
ANSWERING_PERIODS = 8            # for a daemon whose host is there: time to start again, within what Docker waits
HEARTBEATS_PER_S = 1000          # what a leader takes at most; beyond it the period grows with the swarm
STALL_NS = 200_000_000           # a leader that ticks half as often as it should judges half as fast


def heartbeat_period(spec_ns: int, nodes: int) -> int:
    """The period to tell a node, ns: the spec's (0: 1.5 s), stretched so that all nodes send under 1000 a second."""
    return max(spec_ns or DEFAULT_PERIOD_NS, nodes * 1_000_000_000 // HEARTBEATS_PER_S)


class Phase(Enum):
    """How this leader knows a node."""

    EXPECTED = auto()            # was up under the previous leader
    CONNECTED = auto()
    BROKEN = auto()              # its stream ended; the grace runs
    DOWN = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What silence made of a node; to be written as Node.status."""

    node_id: str
    state: NodeStatus.State
    message: str


@dataclass(slots=True)
class Judgement:
    """What one tick found."""

    verdicts: list[Verdict] = field(default_factory=list)
    suspects: list[str] = field(default_factory=list)    # by node; `answered` takes what their hosts say


@dataclass(slots=True)
class _Node:
    phase: Phase
    since: int                   # when the phase began
    seen: int                    # last message
    period: int                  # as told to the node
    periods: int = GRACE_PERIODS
    suspected: bool = False      # and, unless it is connected, UNKNOWN or DISCONNECTED has been said
    answers: bool = False        # its host does
    shorter: tuple[int, int] | None = None   # a shorter period, and when it may be held against the node
    armed: int = 0               # due time of its live entry in the heap; other entries are stale

    def due(self, last_return: int) -> int:
        """When it is to be suspected, or else DOWN."""
        if not self.suspected:
            if self.phase is Phase.CONNECTED:
                return self.seen + SUSPECT_PERIODS * self.period
            if self.phase is Phase.EXPECTED:
                return self.since + self.period
            return max(self.seen + self.period, self.since + self.period // 2)
        end = self.seen + (ANSWERING_PERIODS if self.answers else self.periods) * self.period
        if self.phase is Phase.EXPECTED:
            return max(end, last_return + self.period)
        if self.phase is Phase.BROKEN:
            return max(end, self.since + self.period // 2)
        return end


class Liveness:
    """The judge of all nodes. Cost: O(1) per message, O(log nodes) per deadline, no scans."""

    def __init__(self, now: int) -> None:
        self._nodes: dict[str, _Node] = {}
        self._heap: list[tuple[int, str]] = []
        self.judged = now            # the last tick
        self._own = now              # our own time, in which we judge, at the last tick
        self._last_return = now      # of a node that was expected

    def expect(self, node_ids: Iterable[str], period: int, now: int, *, managers: Iterable[str] = ()) -> None:
        """A new leader waits for the nodes that were up under the one before; these of them are managers."""
        time = self._time(now)
        soon = frozenset(managers)
        for node_id in node_ids:
            periods = MANAGER_PERIODS if node_id in soon else GRACE_PERIODS
            self._enter(node_id, _Node(Phase.EXPECTED, time, time, period, periods))

    def connected(self, node_id: str, period: int, now: int) -> None:
        """A session began, with this heartbeat period."""
        time = self._time(now)
        if self.phase(node_id) is Phase.EXPECTED:
            self._last_return = time
        self._enter(node_id, _Node(Phase.CONNECTED, time, time, period))

    def heard(self, node_id: str, now: int) -> None:
        """Any message of the node's present session."""
        node = self._nodes.get(node_id)
        if node is None or node.phase is not Phase.CONNECTED:
            return
        node.seen, node.suspected, node.answers = self._time(now), False, False
        if node.shorter is not None and node.seen >= node.shorter[1]:
            node.period, node.shorter = node.shorter[0], None
            self._arm(node_id, node)

    def doubts(self, node_id: str) -> bool:
        """Whether the node is a suspect whose host has not answered yet."""
        node = self._nodes.get(node_id)
        return node is not None and node.phase is not Phase.DOWN and node.suspected and not node.answers

    def answered(self, node_id: str) -> None:
        """The host of a suspect is there."""
        node = self._nodes.get(node_id)
        if node is not None and node.suspected:
            node.answers = True

    def retimed(self, node_id: str, period: int, now: int) -> None:
        """The node was told another period. A shorter one counts once the node had a whole old one to hear of it."""
        node = self._nodes.get(node_id)
        if node is None:
            return
        if node.phase is Phase.CONNECTED and period < node.period:
            node.shorter = (period, self._time(now) + node.period)
        else:
            node.period, node.shorter = period, None

    def broken(self, node_id: str, now: int) -> None:
        """The node's session ended and no other has taken its place."""
        node = self._nodes.get(node_id)
        if node is not None and node.phase is Phase.CONNECTED:
            self._enter(
                node_id, _Node(Phase.BROKEN, self._time(now), node.seen, node.period, answers=node.answers)
            )

    def left(self, node_id: str) -> None:
        """The node left the swarm; the caller says so."""
        node = self._nodes.get(node_id)
        if node is not None:
            node.phase = Phase.DOWN

    def forget(self, node_id: str) -> None:
        """The node was removed from the swarm."""
        self._nodes.pop(node_id, None)

    def phase(self, node_id: str) -> Phase | None:
        """None for a node that neither was up before nor came since."""
        node = self._nodes.get(node_id)
        return node.phase if node is not None else None

    def tick(self, now: int) -> Judgement:
        """All that is due. Call at least every half `STALL_NS`."""
        time = self._own = self._time(now)
        self.judged = now
        found = Judgement()
        while self._heap and self._heap[0][0] <= time:
            due, node_id = heapq.heappop(self._heap)
            node = self._nodes.get(node_id)
            if node is None or node.armed != due or node.phase is Phase.DOWN:
                continue
            if node.due(self._last_return) <= time:
                if node.suspected:
                    found.verdicts.append(self._down(node_id, node, time))
                    continue
                self._suspect(node_id, node, found)
            self._arm(node_id, node)
        return found

    def _suspect(self, node_id: str, node: _Node, found: Judgement) -> None:
        node.suspected = True
        found.suspects.append(node_id)
        if node.phase is Phase.EXPECTED:
            reason = "the leader changed and the node has not come back yet"
            found.verdicts.append(Verdict(node_id, NodeStatus.UNKNOWN, reason))
        elif node.phase is Phase.BROKEN:
            reason = "its session broke and it has not come back yet"
            found.verdicts.append(Verdict(node_id, NodeStatus.DISCONNECTED, reason))

    def _down(self, node_id: str, node: _Node, time: int) -> Verdict:
        reason = f"no heartbeat for {(time - node.seen) / 1e9:.1f} s"
        if node.phase is Phase.EXPECTED:
            reason += " since the leader changed"
        if node.answers:
            reason += ", though its host answers"
        node.phase = Phase.DOWN
        return Verdict(node_id, NodeStatus.DOWN, reason)

    def _time(self, now: int) -> int:
        """Our own time: it does not pass while we do not run."""
        return self._own + min(now - self.judged, STALL_NS)

    def _enter(self, node_id: str, node: _Node) -> None:
        self._nodes[node_id] = node
        self._arm(node_id, node)

    def _arm(self, node_id: str, node: _Node) -> None:
        node.armed = node.due(self._last_return)
        heapq.heappush(self._heap, (node.armed, node_id))
