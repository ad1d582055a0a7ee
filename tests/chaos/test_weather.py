"""The plan of faults keeps its own laws."""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest

from tests.chaos.weather import AT_ONCE, ON_A_HOST, Fault, Trouble, forecast

HOSTS = [f"host{number}" for number in range(10)]


def overlap(one: Fault, other: Fault) -> bool:
    return one.began_s < other.ended_s and other.began_s < one.ended_s


@pytest.mark.parametrize("seed", range(50))
def test_faults_end_in_time_and_keep_out_of_each_others_way(seed: int) -> None:
    faults = forecast(Random(seed), HOSTS, 120)
    assert all(0 <= fault.began_s < fault.ended_s <= 120 for fault in faults)
    on_hosts = [fault for fault in faults if fault.trouble in ON_A_HOST]
    on_the_wire = [fault for fault in faults if fault.trouble not in ON_A_HOST]
    assert not any(overlap(one, other) for one, other in combinations(on_the_wire, 2))
    assert not any(overlap(one, other) for one, other in combinations(on_hosts, 2) if one.hosts == other.hosts)
    for fault in on_hosts:
        assert sum(other.began_s <= fault.began_s < other.ended_s for other in on_hosts) <= AT_ONCE


def test_everything_happens_sooner_or_later() -> None:
    faults = forecast(Random(1), HOSTS, 1800)
    assert {fault.trouble for fault in faults} == set(Trouble)
    assert {fault.hosts[0] for fault in faults if fault.trouble in ON_A_HOST} == set(HOSTS)


def test_the_same_seed_is_the_same_weather() -> None:
    assert forecast(Random(7), HOSTS, 120) == forecast(Random(7), HOSTS, 120)
