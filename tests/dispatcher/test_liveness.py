"""Silence and what follows from it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarmpy.manager.dispatcher.sessions import GRACE_PERIODS, STALL_NS, Liveness, Phase, heartbeat_period
from swarmpy.rpc.types_pb2 import NodeStatus

S = 1_000_000_000
PERIOD = 2 * S
STEP = STALL_NS // 2


def ticks(liveness: Liveness, start: int, end: int) -> list[tuple[int, str, int]]:
    """(second, node, state) of every verdict between two times."""
    found: list[tuple[int, str, int]] = []
    for now in range(start, end + 1, STEP):
        found += [(now // STEP, verdict.node_id, verdict.state) for verdict in liveness.tick(now)]
    return found


def test_period_grows_so_that_a_leader_hears_a_thousand_heartbeats_a_second() -> None:
    assert heartbeat_period(0, 3) == 2 * S
    assert heartbeat_period(5 * S, 3) == 5 * S
    assert heartbeat_period(0, 5000) == 5 * S


def test_silence_of_three_periods_is_down() -> None:
    liveness = Liveness(0)
    liveness.connected("a", PERIOD, 0)
    ticks(liveness, 0, 3 * S)
    liveness.heard("a", 3 * S)
    assert ticks(liveness, 3 * S + STEP, 9 * S - STEP) == []
    assert ticks(liveness, 9 * S, 20 * S) == [(18, "a", NodeStatus.DOWN)]
    assert liveness.phase("a") is Phase.DOWN


def test_a_broken_stream_is_first_doubted_then_down() -> None:
    liveness = Liveness(0)
    liveness.connected("a", PERIOD, 0)
    liveness.broken("a", S)
    assert ticks(liveness, S, 20 * S) == [(6, "a", NodeStatus.DISCONNECTED), (12, "a", NodeStatus.DOWN)]


def test_a_daemon_that_restarts_in_time_costs_nothing() -> None:
    liveness = Liveness(0)
    liveness.connected("a", PERIOD, 0)
    liveness.broken("a", S)
    assert ticks(liveness, S, 2 * S) == []
    liveness.connected("a", PERIOD, 2 * S)
    assert ticks(liveness, 2 * S, 7 * S) == []


def test_a_new_leader_waits_twice_the_grace() -> None:
    liveness = Liveness(0)
    liveness.expect(["a", "b"], PERIOD, 0)
    liveness.connected("b", PERIOD, S)
    seen = []
    for now in range(0, 20 * S, STEP):
        liveness.heard("b", now)
        seen += [(now // S, verdict.node_id, verdict.state) for verdict in liveness.tick(now)]
    assert seen == [(2, "a", NodeStatus.UNKNOWN), (12, "a", NodeStatus.DOWN)]


def test_the_leaders_own_pause_is_not_held_against_nodes() -> None:
    liveness = Liveness(0)
    liveness.connected("a", PERIOD, 0)
    assert liveness.tick(STEP) == []
    assert liveness.tick(60 * S) == []
    liveness.heard("a", 60 * S)
    assert ticks(liveness, 60 * S, 65 * S) == []
    assert ticks(liveness, 65 * S + STEP, 70 * S) == [(132, "a", NodeStatus.DOWN)]


def test_a_shorter_period_counts_once_the_node_could_hear_of_it() -> None:
    liveness = Liveness(0)
    liveness.connected("a", 10 * S, 0)
    liveness.retimed("a", S, 0)
    assert ticks(liveness, 0, 9 * S) == []
    for now in range(9 * S, 12 * S, STEP):
        liveness.tick(now)
        liveness.heard("a", now)
    assert ticks(liveness, 12 * S, 20 * S) == [(29, "a", NodeStatus.DOWN)]


def test_a_removed_node_is_not_judged() -> None:
    liveness = Liveness(0)
    liveness.connected("a", PERIOD, 0)
    liveness.forget("a")
    assert ticks(liveness, 0, 20 * S) == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["connect", "hear", "break", "wait"])), max_size=60))
def test_nobody_is_down_who_spoke_within_the_grace_and_everybody_silent_is(script: list[tuple[str, str]]) -> None:
    liveness, now = Liveness(0), 0
    heard: dict[str, int] = {}
    down: set[str] = set()
    for node, act in script:
        if act == "connect":
            liveness.connected(node, PERIOD, now)
            heard[node] = now
            down.discard(node)
        elif act == "hear" and liveness.phase(node) is Phase.CONNECTED:
            liveness.heard(node, now)
            heard[node] = now
        elif act == "break":
            liveness.broken(node, now)
        for _ in range(2 if act == "wait" else 1):
            now += STEP
            for verdict in liveness.tick(now):
                if verdict.state == NodeStatus.DOWN:
                    assert now - heard[verdict.node_id] >= GRACE_PERIODS * PERIOD
                    assert verdict.node_id not in down
                    down.add(verdict.node_id)
        for other, at in heard.items():
            # a node whose stream broke late is given one more period to come back
            assert other in down or now - at <= (GRACE_PERIODS + 1) * PERIOD + STEP
