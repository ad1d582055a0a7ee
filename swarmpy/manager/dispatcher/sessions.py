"""Which nodes are alive: deadlines of heartbeats, and the states that follow from silence.

Owns    when each node was last heard, and when it will be judged next. Pure: time comes in as monotonic nanoseconds.
In      sessions that begin and break, any message of a node, `tick`.
Out     Verdicts: the states to write to the store, each with its reason in an operator's words.

The laws, with *grace* = three heartbeat periods of the node's session:

- connected and silent for the grace: DOWN, and its session is over;
- session broken: DISCONNECTED after one period (the scheduler then looks elsewhere), DOWN when the grace since the last
  message has run out. A daemon that restarts in between costs nothing;
- new leader: a node that was up is expected back. UNKNOWN after one period, DOWN after twice the grace;
- the leader's own silence is not the nodes' silence: time between two ticks beyond `STALL_NS` (the process was stopped,
  or starved) is taken out of every deadline.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from swarmpy.rpc.types_pb2 import NodeStatus

__all__ = ["DEFAULT_PERIOD_NS", "GRACE_PERIODS", "Liveness", "Phase", "Verdict", "heartbeat_period"]

DEFAULT_PERIOD_NS = 2_000_000_000
GRACE_PERIODS = 3
HEARTBEATS_PER_S = 1000          # what a leader takes at most; beyond it the period grows with the swarm
STALL_NS = 1_000_000_000


def heartbeat_period(spec_ns: int, nodes: int) -> int:
    """The period to tell a node, ns: the spec's (0: 2 s), stretched so that all nodes send under 1000 a second."""
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
class _Node:
    phase: Phase
    since: int                   # when the phase began
    seen: int                    # last message
    period: int                  # as told to the node
    doubted: bool = False        # UNKNOWN or DISCONNECTED has been said
    shorter: tuple[int, int] | None = None   # a shorter period, and when it may be held against the node
    armed: int = 0               # due time of its live entry in the heap; other entries are stale

    def due(self) -> int:
        if self.phase is Phase.CONNECTED:
            return self.seen + GRACE_PERIODS * self.period
        if not self.doubted:
            return self.since + self.period
        if self.phase is Phase.EXPECTED:
            return self.since + 2 * GRACE_PERIODS * self.period
        return max(self.seen + GRACE_PERIODS * self.period, self.since + self.period)


class Liveness:
    """The judge of all nodes. Cost: O(1) per message, O(log nodes) per deadline, no scans."""

    def __init__(self, now: int) -> None:
        self._nodes: dict[str, _Node] = {}
        self._heap: list[tuple[int, str]] = []
        self.judged = now        # the last tick
        self._stalled = 0        # time in which this process did not run; subtracted from every `now`

    def expect(self, node_ids: Iterable[str], period: int, now: int) -> None:
        """A new leader waits for the nodes that were up under the one before."""
        for node_id in node_ids:
            self._enter(node_id, _Node(Phase.EXPECTED, self._time(now), self._time(now), period))

    def connected(self, node_id: str, period: int, now: int) -> None:
        """A session began, with this heartbeat period."""
        self._enter(node_id, _Node(Phase.CONNECTED, self._time(now), self._time(now), period))

    def heard(self, node_id: str, now: int) -> None:
        """Any message of the node's present session."""
        node = self._nodes.get(node_id)
        if node is not None and node.phase is Phase.CONNECTED:
            node.seen = self._time(now)
            if node.shorter is not None and node.seen >= node.shorter[1]:
                node.period, node.shorter = node.shorter[0], None
                self._arm(node_id, node)

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
            self._enter(node_id, _Node(Phase.BROKEN, self._time(now), node.seen, node.period))

    def forget(self, node_id: str) -> None:
        """The node was removed from the swarm."""
        self._nodes.pop(node_id, None)

    def phase(self, node_id: str) -> Phase | None:
        """None for a node that neither was up before nor came since."""
        node = self._nodes.get(node_id)
        return node.phase if node is not None else None

    def tick(self, now: int) -> list[Verdict]:
        """All verdicts due. Call at least every half `STALL_NS`."""
        gap = now - self.judged
        self.judged = now
        if gap > STALL_NS:
            self._stalled += gap
        time = self._time(now)
        verdicts = []
        while self._heap and self._heap[0][0] <= time:
            due, node_id = heapq.heappop(self._heap)
            node = self._nodes.get(node_id)
            if node is None or node.armed != due or node.phase is Phase.DOWN:
                continue
            if node.due() <= time:
                verdicts.append(self._judge(node_id, node, time))
                if verdicts[-1].state == NodeStatus.DOWN:
                    continue
            self._arm(node_id, node)
        return verdicts

    def _judge(self, node_id: str, node: _Node, time: int) -> Verdict:
        if node.phase is not Phase.CONNECTED and not node.doubted:
            node.doubted = True
            if node.phase is Phase.EXPECTED:
                return Verdict(node_id, NodeStatus.UNKNOWN, "the leader changed and the node has not come back yet")
            return Verdict(node_id, NodeStatus.DISCONNECTED, "its session broke and it has not come back yet")
        silent_s = (time - node.seen) / 1e9
        since = " since the leader changed" if node.phase is Phase.EXPECTED else ""
        node.phase = Phase.DOWN
        return Verdict(node_id, NodeStatus.DOWN, f"no heartbeat for {silent_s:.1f} s{since}")

    def _time(self, now: int) -> int:
        return now - self._stalled

    def _enter(self, node_id: str, node: _Node) -> None:
        self._nodes[node_id] = node
        self._arm(node_id, node)

    def _arm(self, node_id: str, node: _Node) -> None:
        node.armed = node.due()
        heapq.heappush(self._heap, (node.armed, node_id))
