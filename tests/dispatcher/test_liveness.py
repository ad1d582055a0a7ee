"""Silence and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.api.swarm_json.cluster import DEFAULT_HEARTBEAT_NS
from swarmpy.manager.dispatcher.sessions import (
    ANSWERING_PERIODS,
    DEFAULT_PERIOD_NS,
    GRACE_PERIODS,
    MANAGER_PERIODS,
    STALL_NS,
    Liveness,
    Phase,
    heartbeat_period,
)
from swarmpy.rpc.types_pb2 import NodeStatus

S = 1_000_000_000
PERIOD = 2 * S
GRACE = GRACE_PERIODS * PERIOD
ANSWERING = ANSWERING_PERIODS * PERIOD
STEP = STALL_NS // 2


@dataclass
class Leader:
    """A leader whose clock is moved on by hand, and all that it found: (seconds, node, state)."""

    answering: frozenset[str] = frozenset()      # nodes whose hosts answer
    now: int = 0
    found: list[tuple[float, str, int]] = field(default_factory=list)
    asked: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.liveness = Liveness(self.now)

    def connect(self, *nodes: str) -> None:
        for node in nodes:
            self.liveness.connected(node, PERIOD, self.now)

    def run(self, until_s: float, each_step: Callable[[], None] = lambda: None, step: int = STEP) -> None:
        while self.now < until_s * S:
            self.now += step
            each_step()
            self.tick()

    def tick(self) -> None:
        judgement = self.liveness.tick(self.now)
        self.found += [(self.now / S, verdict.node_id, verdict.state) for verdict in judgement.verdicts]
        self.asked += [(self.now / S, node) for node in judgement.suspects]
        for node in judgement.suspects:
            if node in self.answering:
                self.liveness.answered(node)

    def hear(self, nodes: Iterable[str]) -> Callable[[], None]:
        def all_speak() -> None:
            for node in nodes:
                self.liveness.heard(node, self.now)

        return all_speak

    def down(self) -> dict[str, float]:
        return {node: at_s for at_s, node, state in self.found if state == NodeStatus.DOWN}


def test_period_grows_so_that_a_leader_hears_a_thousand_heartbeats_a_second() -> None:
    assert heartbeat_period(0, 3) == DEFAULT_PERIOD_NS == DEFAULT_HEARTBEAT_NS, "and the API says so"
    assert heartbeat_period(5 * S, 3) == 5 * S
    assert heartbeat_period(0, 5000) == 5 * S


def test_silence_of_three_periods_is_down_and_of_two_a_reason_to_ask() -> None:
    leader = Leader()
    leader.connect("a")
    leader.run(3)
    leader.liveness.heard("a", leader.now)
    leader.run(20)
    assert leader.asked == [(7.0, "a")]
    assert leader.found == [(9.0, "a", NodeStatus.DOWN)]
    assert leader.liveness.phase("a") is Phase.DOWN


def test_a_broken_stream_is_first_doubted_then_down() -> None:
    leader = Leader()
    leader.connect("a")
    leader.run(1)
    leader.liveness.broken("a", leader.now)
    leader.run(20)
    assert leader.found == [(2.0, "a", NodeStatus.DISCONNECTED), (6.0, "a", NodeStatus.DOWN)]


def test_a_daemon_that_restarts_in_time_costs_nothing() -> None:
    leader = Leader()
    leader.connect("a")
    leader.run(1)
    leader.liveness.broken("a", leader.now)
    leader.run(1.75)
    leader.connect("a")
    leader.run(5)
    assert leader.found == []


def test_a_session_that_breaks_in_a_long_silence_leaves_half_a_period_to_come_back() -> None:
    leader = Leader()
    leader.connect("a", "b")
    leader.run(5.8)
    leader.liveness.broken("a", leader.now)
    leader.liveness.broken("b", leader.now)
    leader.run(6.25)
    leader.connect("b")
    leader.run(8)
    assert leader.down() == {"a": 6.8}


def test_a_host_that_answers_has_eight_periods() -> None:
    leader = Leader(answering=frozenset("a"))
    leader.connect("a", "b")
    leader.run(40)
    assert leader.down() == {"a": 16.0, "b": 6.0}


def test_an_answer_outlives_the_session_but_no_message() -> None:
    leader = Leader(answering=frozenset("ab"))
    leader.connect("a", "b")
    leader.run(5)
    leader.liveness.broken("a", leader.now)
    leader.liveness.heard("b", leader.now)
    leader.answering = frozenset()
    leader.run(40)
    assert leader.down() == {"a": 16.0, "b": 11.0}


def test_a_new_leader_waits_less_for_managers_who_know_of_it_at_once() -> None:
    leader = Leader()
    leader.liveness.expect(["a", "b", "m"], PERIOD, 0, managers=["m"])
    leader.run(1)
    leader.connect("b")
    leader.run(20, leader.hear("b"))
    assert leader.found == [
        (2.0, "a", NodeStatus.UNKNOWN), (2.0, "m", NodeStatus.UNKNOWN),
        (4.0, "m", NodeStatus.DOWN), (6.0, "a", NodeStatus.DOWN),
    ]  # fmt: skip


def test_nobody_is_down_while_thousands_are_still_coming_back() -> None:
    nodes = [f"n{number}" for number in range(100)]
    leader = Leader()
    leader.liveness.expect(nodes, PERIOD, 0)
    coming = iter(nodes[:90])
    back: list[str] = []

    def one_more() -> None:
        if (node := next(coming, None)) is not None:
            leader.connect(node)
            back.append(node)
        leader.hear(back)()

    leader.run(40, one_more)
    last_s = 90 * STEP / S
    assert leader.down() == dict.fromkeys(nodes[90:], last_s + PERIOD / S)


@pytest.mark.parametrize("heard_first", [True, False])
def test_the_leaders_own_pause_is_not_held_against_nodes(heard_first: bool) -> None:
    leader = Leader()
    leader.connect("a", "b")
    leader.run(0.5)
    leader.now = 60 * S
    if heard_first:                          # what waited in its sockets is read before it judges, or after
        leader.liveness.heard("b", leader.now)
    leader.tick()
    leader.liveness.heard("b", leader.now)
    assert leader.found == []
    leader.run(80)
    assert leader.down() == {"a": 65.3, "b": 66.0}      # a was silent for 0.7 s of the leader's time


def test_a_leader_that_is_slow_judges_slowly() -> None:
    leader = Leader()
    leader.connect("a")
    leader.run(60, step=4 * STALL_NS)
    assert leader.down() == {"a": 4.0 * GRACE / S}


def test_a_shorter_period_counts_once_the_node_could_hear_of_it() -> None:
    leader = Leader()
    leader.liveness.connected("a", 10 * S, 0)
    leader.liveness.retimed("a", S, 0)
    leader.run(9)
    assert leader.found == []
    leader.run(12, leader.hear("a"))
    leader.run(20)
    assert leader.down() == {"a": 15.0}


def test_a_node_that_left_is_not_judged_and_may_come_back() -> None:
    leader = Leader()
    leader.connect("a")
    leader.liveness.left("a")
    leader.run(20)
    assert (leader.found, leader.asked) == ([], [])
    leader.connect("a")
    leader.run(40)
    assert leader.down() == {"a": 26.0}


def test_a_removed_node_is_not_judged() -> None:
    leader = Leader()
    leader.connect("a")
    leader.liveness.forget("a")
    leader.run(20)
    assert (leader.found, leader.asked) == ([], [])


acts = st.sampled_from(["connect", "hear", "break", "wait", "stall"])


@given(st.lists(st.tuples(st.sampled_from("abc"), acts), max_size=60), st.frozensets(st.sampled_from("abc")))
def test_nobody_is_down_who_spoke_within_the_grace_and_everybody_silent_is(
    script: list[tuple[str, str]], answering: frozenset[str]
) -> None:
    leader = Leader(answering)
    heard: dict[str, int] = {}           # in the leader's own time, in which a stall counts one STALL_NS
    down: set[str] = set()
    own = 0
    for node, act in script:
        if act == "connect":
            leader.connect(node)
            heard[node] = own
            down.discard(node)
        elif act == "hear" and leader.liveness.phase(node) is Phase.CONNECTED:
            leader.liveness.heard(node, leader.now)
            heard[node] = own
        elif act == "break":
            leader.liveness.broken(node, leader.now)
        for _ in range(4 if act == "wait" else 1):
            leader.now += 20 * S if act == "stall" else STEP
            own += STALL_NS if act == "stall" else STEP
            before = len(leader.found)
            leader.tick()
            for _, judged, state in leader.found[before:]:
                if state == NodeStatus.DOWN:
                    assert own - heard[judged] >= (ANSWERING if judged in answering else GRACE)
                    assert judged not in down
                    down.add(judged)
        for other, at in heard.items():
            # a node whose stream broke late is given half a period to come back
            longest = ANSWERING if other in answering else GRACE + PERIOD // 2
            assert other in down or own - at <= longest + STALL_NS


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 80)), max_size=10),
    st.frozensets(st.integers(0, 9)),
    st.frozensets(st.integers(0, 9)),
)
def test_a_new_leader_misses_exactly_those_who_do_not_come_back(
    returns: list[tuple[int, int]], managers: frozenset[int], answering: frozenset[int]
) -> None:
    nodes = [str(number) for number in range(10)]
    leader = Leader(frozenset(map(str, answering)))
    leader.liveness.expect(nodes, PERIOD, 0, managers=map(str, managers))
    first: dict[str, int] = {}
    for number, step in returns:
        first[str(number)] = min(step, first.get(str(number), step))
    back: list[str] = []
    came: list[int] = []

    def arrive() -> None:
        for node, step in first.items():
            if leader.now == step * STEP and leader.liveness.phase(node) is Phase.EXPECTED:
                leader.connect(node)
                back.append(node)
                came.append(leader.now)
        leader.hear(back)()

    leader.run(60, arrive)
    down = leader.down()
    assert set(down) == set(nodes) - set(back)
    for node, at_s in down.items():
        periods = MANAGER_PERIODS if int(node) in managers else GRACE_PERIODS
        periods = ANSWERING_PERIODS if int(node) in answering else periods
        waited = [at for at in came if at <= at_s * S]
        assert round(at_s * S) == max([periods * PERIOD, *(at + PERIOD for at in waited[-1:])])
