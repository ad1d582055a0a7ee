"""What the swarm does when hosts, daemons and wires fail. Times are those of the issue, at default settings."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from docker.errors import APIError
from requests.exceptions import RequestException

from tests.cluster.swarm import Swarm, requests_in, until

pytestmark = [pytest.mark.root, pytest.mark.cluster]

RESCHEDULED_WITHIN_S = 15.0
WRITES_AGAIN_WITHIN_S = 3.0
PORT = 8080


@pytest.fixture(autouse=True)
def web(swarm: Swarm) -> None:
    """Six replicas on a published port; all nodes answer."""
    create = ("service", "create", "-d", "--name", "web", "--replicas", "6", "-p", f"{PORT}:80", "web:1")
    swarm.docker(*create, on=swarm.leader()).ok()
    swarm.converged("web", 6)
    for host in swarm.hosts:
        swarm.seen(host, PORT, 6)


class Writer:
    """Creates services without replicas, one after the other; `acknowledged` are those the swarm said yes to."""

    def __init__(self, swarm: Swarm, managers: list[str]) -> None:
        self._swarm = swarm
        self._managers = managers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.acknowledged: list[tuple[str, float]] = []

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.acknowledged}

    def longest_gap_s(self) -> float:
        times = [at_s for _, at_s in self.acknowledged]
        return max(after - before for before, after in pairwise(times))

    def _run(self) -> None:
        count = 0
        while not self._stop.is_set():
            for manager in self._managers:
                name = f"w{count}"
                count += 1
                if written(self._swarm, name, manager):
                    self.acknowledged.append((name, time.monotonic()))
                else:
                    self._stop.wait(0.02)


def written(swarm: Swarm, name: str, on: str) -> bool:
    """Whether the swarm acknowledged a new service without replicas."""
    template = {"ContainerSpec": {"Image": "web:1"}}
    spec = {"Name": name, "TaskTemplate": template, "Mode": {"Replicated": {"Replicas": 0}}}
    api = swarm.api(on).api
    try:
        return bool(api._post_json(api._url("/services/create"), data=spec, timeout=10).status_code == 201)
    except (RequestException, APIError, OSError):
        return False


def services(swarm: Swarm, on: str = "") -> set[str]:
    return {service["Spec"]["Name"] for service in swarm.api(on).api.services()}


@pytest.fixture
def measured(record_property: pytest.FixtureRequest) -> Iterator[dict[str, float]]:
    """Figures that go into the report of the run."""
    figures: dict[str, float] = {}
    yield figures
    for name, value in figures.items():
        record_property(name, round(value, 3))  # type: ignore[operator]  # pytest types the fixture as its request
        print(f"{name}: {value:.2f} s")  # noqa: T201  # shown by pytest -s


def test_tasks_of_a_worker_that_lost_power_run_elsewhere(swarm: Swarm, measured: dict[str, float]) -> None:
    victim = next(host for host in swarm.running("web").values() if host in swarm.workers)
    rest = [host for host in swarm.hosts if host != victim]
    began_s = time.monotonic()
    swarm.lab.kill(victim, with_containers=True)

    def elsewhere() -> bool:
        placed = swarm.running("web").values()
        return len(placed) == 6 and victim not in placed

    until(elsewhere, "six replicas to run on the other nodes", RESCHEDULED_WITHIN_S)
    measured["rescheduled"] = time.monotonic() - began_s
    for host in rest:
        swarm.seen(host, PORT, 6)
    with swarm.watched(PORT, rest) as prober:
        until(lambda: prober.answers > 50, "answers")
    prober.assert_unbroken()
    assert swarm.node(victim)["Status"]["State"] == "down"
    swarm.lab.start(victim)
    until(lambda: swarm.ready(victim), "the host to be ready again")
    swarm.seen(victim, PORT, 6)
    until(lambda: not swarm.docker("ps", "-q", on=victim).ok(), "what it ran before not to come back")


def test_the_leader_is_killed(swarm: Swarm, measured: dict[str, float]) -> None:
    """Its daemon is started again as soon as another leads, as a service manager would."""
    leader = swarm.leader()
    others = [name for name in swarm.managers if name != leader]
    pids = swarm.container_pids("web")
    with swarm.watched(PORT) as prober, Writer(swarm, others) as writer:
        until(lambda: len(writer.acknowledged) > 3, "writes")
        killed_s = time.monotonic()
        swarm.lab.kill(leader)
        until(lambda: any(at_s > killed_s + 0.2 for _, at_s in writer.acknowledged), "writes again", 10)
        until(lambda: swarm.leader(others) != leader, "another leader")
        swarm.lab.start(leader)
        until(lambda: swarm.ready(leader, others[0]), "the old leader to be back")
        until(lambda: writer.acknowledged[-1][1] > killed_s + 4, "writes to go on")
    measured["writes again"] = writer.longest_gap_s()
    assert writer.longest_gap_s() < WRITES_AGAIN_WITHIN_S
    prober.assert_unbroken(at_least=50)
    assert writer.names <= services(swarm, others[0])
    assert swarm.container_pids("web") == pids, "no container was touched"
    assert len(swarm.converged("web", 6, on=others[0])) == 6


def test_the_leaders_host_loses_power(swarm: Swarm, measured: dict[str, float]) -> None:
    """Nothing tells the others: no connection is reset, they only hear no more of it."""
    leader = swarm.leader()
    others = [name for name in swarm.managers if name != leader]
    with Writer(swarm, others) as writer:
        until(lambda: len(writer.acknowledged) > 3, "writes")
        killed_s = time.monotonic()
        swarm.lab.kill(leader, with_containers=True)
        until(lambda: any(at_s > killed_s + 0.5 for _, at_s in writer.acknowledged), "writes again", 10)
    measured["writes again after a power loss"] = writer.longest_gap_s()
    assert writer.longest_gap_s() < WRITES_AGAIN_WITHIN_S
    assert writer.names <= services(swarm, others[0])


def test_a_leader_that_stops_hands_the_lead_over(swarm: Swarm, measured: dict[str, float]) -> None:
    leader = swarm.leader()
    others = [name for name in swarm.managers if name != leader]
    with swarm.watched(PORT) as prober, Writer(swarm, others) as writer:
        until(lambda: len(writer.acknowledged) > 3, "writes")
        swarm.lab.stop(leader)
        stopped_s = time.monotonic()
        until(lambda: writer.acknowledged[-1][1] > stopped_s + 1, "writes to go on")
    measured["hand-over"] = writer.longest_gap_s()
    assert writer.longest_gap_s() < 1.5
    prober.assert_unbroken(at_least=20)
    assert swarm.lab.state(leader) == "daemon ended (0)"


def test_a_minority_accepts_no_write(swarm: Swarm) -> None:
    leader = swarm.leader()
    other = next(name for name in swarm.managers if name != leader)
    swarm.lab.partition(leader)
    assert not written(swarm, "lost", leader)
    until(lambda: swarm.leader([other]) != leader, "the majority to elect another")
    assert written(swarm, "kept", other)
    refusal = swarm.docker("service", "create", "-d", "--name", "lost2", "web:1", on=leader, timeout_s=60)
    refusal.refused("leader")
    swarm.lab.heal()
    until(lambda: swarm.docker("service", "ls", on=leader).code == 0, "the old leader to be one of them again")
    found = services(swarm, leader)
    assert "kept" in found and not {"lost", "lost2"} & found


def test_all_managers_are_killed_and_started_again(swarm: Swarm) -> None:
    pids = swarm.container_pids("web")
    with swarm.watched(PORT) as prober:
        with Writer(swarm, swarm.managers) as writer:
            until(lambda: len(writer.acknowledged) > 20, "writes")
            for manager in swarm.managers:
                swarm.lab.kill(manager)
        for manager in swarm.managers:
            swarm.lab.start(manager)
        leader = swarm.leader()
        until(lambda: all(swarm.ready(host, leader) for host in swarm.hosts), "all nodes to be ready")
    prober.assert_unbroken(at_least=20)
    assert writer.names <= services(swarm, leader), "no acknowledged write is lost"
    assert swarm.container_pids("web") == pids, "running containers never stopped"
    assert set(swarm.converged("web", 6, on=leader)) == set(swarm.running("web", leader))


def test_a_worker_cut_off_keeps_its_tasks_and_reconciles(swarm: Swarm) -> None:
    cut = next(host for host in swarm.running("web").values() if host in swarm.workers)
    own = {id_: pid for id_, pid in swarm.container_pids("web").items() if pid[0] == cut}
    swarm.lab.partition(cut)
    until(lambda: swarm.node(cut)["Status"]["State"] == "down", "the node to be taken for down")
    until(lambda: cut not in swarm.converged("web", 6).values(), "its tasks to be replaced")
    assert own.items() <= swarm.container_pids("web").items(), "it keeps what it runs"
    swarm.lab.heal()
    until(lambda: swarm.ready(cut), "the node to be back")
    until(lambda: not own.keys() & swarm.container_pids("web").keys(), "what is replaced to end")
    assert len(swarm.converged("web", 6)) == 6
    swarm.seen(cut, PORT, 6)


def test_a_killed_daemon_adopts_its_containers(swarm: Swarm) -> None:
    host = next(host for host in swarm.running("web").values() if host in swarm.workers)
    pids = swarm.container_pids("web")
    script = "echo begun; while [ ! -e /tmp/enough ]; do sleep 0.05; done; echo enough; exit 7"
    swarm.docker("run", "-d", "--name", "counting", "web:1", "sh", "-c", script, on=host).ok()
    pid = swarm.docker("inspect", "-f", "{{.State.Pid}}", "counting", on=host).ok()
    with swarm.watched(PORT) as prober:
        swarm.lab.kill(host)
        swarm.inside(host, "touch", f"/proc/{pid}/root/tmp/enough").ok()
        until(lambda: swarm.inside(host, "test", "-d", f"/proc/{pid}").code != 0, "it to end while nobody looks")
        swarm.lab.start(host)
        until(lambda: swarm.ready(host), "the node to be ready")
    prober.assert_unbroken(at_least=10)
    assert swarm.docker("wait", "counting", on=host).ok() == "7"
    assert swarm.docker("logs", "counting", on=host).ok().split() == ["begun", "enough"]
    swarm.docker("rm", "counting", on=host).ok()
    assert swarm.container_pids("web") == pids
    assert requests_in(swarm.docker("service", "logs", "web").err)
