"""Names, numbers and addresses of a lab: no kernel needed."""

from __future__ import annotations

import pytest

from swarmpy.errors import InvalidArgument, NotFound, Unavailable
from swarmpy.lab.plan import LabPlan, choose_number
from swarmpy.lab.wire import Impairment


def test_a_plan_gives_every_host_its_own_address_and_survives_its_file() -> None:
    plan = LabPlan.make("demo", 7, 3, 2)
    assert [(host.name, host.address) for host in plan.hosts] == [
        ("manager1", "10.77.7.11"),
        ("manager2", "10.77.7.12"),
        ("manager3", "10.77.7.13"),
        ("worker1", "10.77.7.101"),
        ("worker2", "10.77.7.102"),
    ]
    assert plan.hosts[0].swarm_address == "10.77.7.11:2377"
    assert LabPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(("managers", "workers"), [(0, 1), (91, 0), (1, 151), (1, -1)])
def test_sizes_out_of_range_are_refused(managers: int, workers: int) -> None:
    with pytest.raises(InvalidArgument):
        LabPlan.make("demo", 1, managers, workers)


@pytest.mark.parametrize("name", ["", "Demo", "1st", "a" * 21, "a/b", ".."])
def test_names_that_could_not_be_paths_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        LabPlan.make(name, 1, 1, 0)


def test_largest_lab_has_no_address_twice() -> None:
    plan = LabPlan.make("big", 1, 90, 150)
    assert len({host.address for host in plan.hosts}) == 240


def test_groups_are_read_from_commas() -> None:
    plan = LabPlan.make("demo", 1, 2, 1)
    assert [host.name for host in plan.group("manager2, worker1")] == ["manager2", "worker1"]
    with pytest.raises(NotFound, match="manager1, manager2, worker1"):
        plan.group("manager3")
    with pytest.raises(InvalidArgument):
        plan.group(",")


def test_the_lowest_free_number_is_chosen() -> None:
    assert choose_number([1, 2, 4]) == 3
    with pytest.raises(Unavailable):
        choose_number(range(1, 255))


def test_impairments_out_of_range_are_refused() -> None:
    for delay_s, jitter_s, loss in ((-1, 0, 0), (0.1, 0.2, 0), (0, 0, 1.5)):
        with pytest.raises(InvalidArgument):
            Impairment(delay_s, jitter_s, loss)
