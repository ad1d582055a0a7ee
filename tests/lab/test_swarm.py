"""A lab of real daemons becomes a swarm, and the swarm notices what the lab does to its hosts."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from swarmpy.errors import SwarmpyError
from swarmpy.lab import Lab
from swarmpy.lab.host import poll_until

pytestmark = [pytest.mark.root, pytest.mark.cluster]

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab.up(f"swarm-{os.getpid()}", 3, 1)
    yield made
    made.down()


def states(lab: Lab, seen_by: str) -> dict[str, str]:
    """Host name to node state, as one manager says; empty while it cannot."""
    try:
        nodes = lab.api(seen_by).nodes()
    except SwarmpyError:
        return {}
    return {node["Description"]["Hostname"]: node["Status"]["State"] for node in nodes}


def wait_for(lab: Lab, seen_by: str, wanted: dict[str, str]) -> None:
    poll_until(lambda: wanted.items() <= states(lab, seen_by).items(), DEADLINE_S, f"{seen_by} to see {wanted}")


def test_all_hosts_are_nodes_of_one_swarm(lab: Lab) -> None:
    ready = dict.fromkeys(("manager1", "manager2", "manager3", "worker1"), "ready")
    for manager in ("manager1", "manager2", "manager3"):
        wait_for(lab, manager, ready)


def test_a_host_without_power_is_down_until_it_boots(lab: Lab) -> None:
    lab.kill("worker1", with_containers=True)
    wait_for(lab, "manager1", {"worker1": "down"})
    lab.start("worker1")
    wait_for(lab, "manager1", {"worker1": "ready"})


def test_a_killed_leader_comes_back_to_the_swarm_of_the_others(lab: Lab) -> None:
    lab.kill("manager1")
    wait_for(lab, "manager2", {"manager1": "down", "manager2": "ready"})
    lab.start("manager1")
    wait_for(lab, "manager1", {"manager1": "ready", "worker1": "ready"})
