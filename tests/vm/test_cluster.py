"""A swarm of two machines with kernels of their own, through what can happen to machines.

The tests are one story and run in its order: each begins where the one before has ended.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Callable

import pytest

from swarmpy.lab.web_image import CHANGES, web_root
from tests.vm.door import Door, Keys
from tests.vm.machine import COMMAND_S, Machine
from tests.vm.site import NETWORK, Site

pytestmark = [pytest.mark.root, pytest.mark.cluster, pytest.mark.vm]

PORT = 8080
SLOW_S = 900.0
NODES = ("node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ManagerStatus}}")
TASKS = ("service", "ps", "web", "--filter", "desired-state=running", "--format", "{{.Node}} {{.CurrentState}}")


class Pair:
    """A manager, a worker, and the doors of both."""

    def __init__(self, site: Site, manager: Machine, worker: Machine, doors: dict[str, Door]) -> None:
        self.site, self.manager, self.worker, self.doors = site, manager, worker, doors

    def docker(self, *words: str) -> str:
        return self.doors["manager"].docker(*words).ok()

    def running(self) -> dict[str, int]:
        """Replicas that run, by node."""
        lines = [line.split() for line in self.docker(*TASKS).splitlines()]
        nodes = [line[0] for line in lines if line[1] == "Running"]
        return {node: nodes.count(node) for node in nodes}

    def until_running(self, wanted: dict[str, int]) -> None:
        self.manager.wait_for(lambda: self.running() == wanted, f"replicas {wanted}", SLOW_S)

    def answers(self, machine: Machine) -> str:
        """What the published port of a machine says to one outside."""

        def ask() -> str:
            with urllib.request.urlopen(f"http://{machine.address}:{PORT}/", timeout=30) as answer:
                return str(answer.read().decode().strip())

        return self.site.inside(ask)

    def seen(self, machine: Machine, count: int) -> None:
        """As many different replicas answer at a machine's port."""
        found: set[str] = set()

        def all_seen() -> bool:
            try:
                found.add(self.answers(machine))
            except OSError:
                return False
            return len(found) == count

        machine.wait_for(all_seen, f"{count} replicas to answer", COMMAND_S)


@pytest.fixture(scope="module")
def pair(site: Site, machine: Callable[..., Machine], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    certificates = tmp_path_factory.mktemp("certificates")
    keys = Keys([f"{NETWORK}.11", f"{NETWORK}.12"])
    keys.write_client(certificates)
    manager, worker = machine("manager", 11, seed=keys.seed), machine("worker", 12, seed=keys.seed)
    doors = {each.name: Door(site, each, certificates) for each in (manager, worker)}
    for each in (manager, worker):
        each.switch_on()
    for each in (manager, worker):
        each.wait_up()
        doors[each.name].until("version", timeout_s=SLOW_S)
        changes = [word for change in CHANGES for word in ("--change", change)]
        doors[each.name].docker("import", *changes, "-", "web", stdin=web_root()).ok()
    return Pair(site, manager, worker, doors)


def test_they_join(pair: Pair) -> None:
    """By the commands of the guide; heartbeats are given the time that emulated processors need."""
    init = f"swarmpy swarm init --advertise-addr {pair.manager.address} --dispatcher-heartbeat 20s"
    pair.manager.run(init).ok()
    token = pair.manager.run("swarmpy swarm join-token --quiet worker").ok()
    pair.worker.run(f"swarmpy swarm join --token {token} {pair.manager.address}:2377").ok()
    pair.doors["manager"].until(*NODES, shows="worker Ready", timeout_s=SLOW_S)
    assert sorted(pair.docker(*NODES).splitlines()) == ["manager Ready Leader", "worker Ready"]


def test_a_published_port_answers_on_both_for_all_replicas(pair: Pair) -> None:
    pair.docker("service", "create", "--detach", "--quiet", "--name=web", "--replicas=4", f"--publish={PORT}:80", "web")
    pair.until_running({"manager": 2, "worker": 2})
    for each in (pair.manager, pair.worker):
        pair.seen(each, 4)


@pytest.mark.parametrize("name", ["worker", "manager"])
def test_containers_outlive_a_restart_of_the_service(pair: Pair, name: str) -> None:
    machine = pair.manager if name == "manager" else pair.worker
    processes = "cat /sys/fs/cgroup/swarmpy/*/cgroup.procs | sort"
    before = machine.run(processes).ok()
    assert len(before.split()) == 2
    machine.run("systemctl stop swarmpyd").ok()
    assert pair.answers(machine)                        # the mesh is the kernel's
    machine.run("systemctl start swarmpyd", SLOW_S).ok()
    pair.doors["manager"].until(*NODES, shows=f"{name} Ready", timeout_s=SLOW_S)
    pair.until_running({"manager": 2, "worker": 2})
    assert machine.run(processes).ok() == before


def test_a_machine_that_loses_power_is_replaced_and_comes_back(pair: Pair) -> None:
    pair.worker.lose_power()
    pair.doors["manager"].until(*NODES, shows="worker Down", timeout_s=SLOW_S)
    pair.until_running({"manager": 4})
    pair.seen(pair.manager, 4)
    pair.worker.switch_on()
    pair.doors["manager"].until(*NODES, shows="worker Ready", timeout_s=SLOW_S)
    pair.seen(pair.worker, 4)


def test_a_manager_that_reboots_goes_on(pair: Pair) -> None:
    """At once: nothing waits out systemd's time for what ignores SIGTERM, and the swarm is what it was."""
    said = len(pair.manager.console)
    pair.manager.reboot()
    assert "Waiting for process" not in pair.manager.console[said:]
    pair.doors["manager"].until(*NODES, shows="manager Ready Leader", timeout_s=SLOW_S)
    pair.doors["manager"].until(*NODES, shows="worker Ready", timeout_s=SLOW_S)
    pair.manager.wait_for(lambda: sum(pair.running().values()) == 4, "four replicas", SLOW_S)
    pair.seen(pair.manager, 4)
