"""Real daemons on the hosts of a lab, with real containers: what a swarm lives through without losing anything."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from swarmpy.lab import Lab
from swarmpy.lab.cluster import down_all
from swarmpy.lab.web_image import CHANGES, web_root

pytestmark = [pytest.mark.root, pytest.mark.cluster]

IMAGE = "web:test"
SERVICE = "web"
MANAGERS = ("manager1", "manager2", "manager3")
HOSTS = (*MANAGERS, "worker1")
PATIENCE_S = 30.0


class Swarm:
    """A lab whose hosts have the image, through the docker SDK."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._clients: dict[str, Any] = {}

    def at(self, host: str) -> Any:
        if host not in self._clients:
            self._clients[host] = docker.DockerClient(base_url=self.lab.docker_host(host), version="1.50", timeout=20)
        return self._clients[host]

    def load_image(self) -> None:
        root = web_root()

        def load(host: str) -> None:
            self.at(host).api.import_image_from_data(root, repository="web", tag="test", changes=list(CHANGES))

        with ThreadPoolExecutor() as pool:
            list(pool.map(load, HOSTS))

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    # ---------------------------------------------------------------------------------------- what it sees

    def nodes(self, via: str) -> dict[str, dict[str, Any]]:
        """By host name."""
        return {node.attrs["Description"]["Hostname"]: node.attrs for node in self.at(via).nodes.list()}

    def managers(self, via: str) -> set[str]:
        return {name for name, node in self.nodes(via).items() if "ManagerStatus" in node}

    def leader(self, among: tuple[str, ...] = MANAGERS) -> str:
        """The leader, as any of `among` that answers names it; waits for one."""

        def named() -> str:
            for host in among:
                try:
                    nodes = self.nodes(host)
                except (docker.errors.APIError, OSError):
                    continue
                for name, node in nodes.items():
                    if node.get("ManagerStatus", {}).get("Leader"):
                        return str(name)
            return ""

        return str(until(named, f"a leader among {among}"))

    def running(self, via: str) -> dict[str, str]:
        """Id of every running task of the service, with its container's id."""
        tasks = self.at(via).services.get(SERVICE).tasks(filters={"desired-state": "running"})
        return {
            task["ID"]: task["Status"]["ContainerStatus"]["ContainerID"]
            for task in tasks
            if task["Status"]["State"] == "running"
        }

    def pids(self) -> dict[str, int]:
        """The process of every running container, by container id."""
        found: dict[str, int] = {}
        for host in HOSTS:
            for container in self.at(host).containers.list():
                found[container.id] = container.attrs["State"]["Pid"]
        return found

    # ---------------------------------------------------------------------------------------- what it does

    def label(self, via: str, value: str) -> None:
        """One write: a label on the worker's node."""
        node = self.at(via).nodes.get(self.nodes(via)["worker1"]["ID"])
        node.update({**node.attrs["Spec"], "Labels": {"mark": value}})

    def written(self, via: str) -> str:
        return str(self.nodes(via)["worker1"]["Spec"].get("Labels", {}).get("mark"))

    def set_role(self, via: str, host: str, role: str) -> None:
        def done() -> bool:
            node = self.at(via).nodes.get(self.nodes(via)[host]["ID"])
            try:
                node.update({**node.attrs["Spec"], "Role": role})
            except docker.errors.APIError as refusal:
                if "out of sequence" not in str(refusal):
                    raise
                return False
            return True

        until(done, f"{host} is to be a {role}")

    def write_soon(self, via: str, value: str) -> float:
        """Seconds until a write is accepted at `via`."""
        began = time.monotonic()

        def accepted() -> bool:
            try:
                self.label(via, value)
            except (docker.errors.APIError, OSError):
                return False
            return True

        until(accepted, f"a write is accepted at {via}")
        return time.monotonic() - began


def until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Poll until the condition holds and return what it returned."""
    deadline = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {patience_s:.0f} s: {what}"
        time.sleep(0.05)
    return value


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    base = Path(tempfile.mkdtemp(prefix="swd"))
    run_root, data_root = base / "run", base / "data"
    try:
        name = f"d{base.name[-4:].lower().replace('_', 'x')}"
        made = Swarm(Lab.up(name, 3, 1, run_root=run_root, data_root=data_root))
        made.load_image()
        made.at("manager1").services.create(IMAGE, name=SERVICE, mode={"Replicated": {"Replicas": 4}})
        until(lambda: len(made.running("manager1")) == 4, "four replicas run")
        yield made
        made.close()
    finally:
        down_all(run_root, data_root)
        shutil.rmtree(base)


@pytest.fixture
def whole(swarm: Swarm) -> Swarm:
    """Three managers with a leader, a worker, all replicas running, and what they took the place of gone.

    A host that was cut off for long still has containers of tasks that were replaced when it comes back.
    """

    def healthy() -> bool:
        nodes = swarm.nodes(swarm.leader())
        ready = all(node["Status"]["State"] == "ready" for node in nodes.values())
        tasks = swarm.running("manager1")
        return ready and set(nodes) == set(HOSTS) and len(tasks) == 4 and set(tasks.values()) == set(swarm.pids())

    until(healthy, "the swarm is whole")
    until(lambda: all(swarm.managers(host) == set(MANAGERS) for host in MANAGERS), "all managers agree")
    return swarm


def test_info_tells_what_a_host_is(whole: Swarm) -> None:
    manager, worker = (whole.at(host).info()["Swarm"] for host in ("manager1", "worker1"))
    assert (manager["LocalNodeState"], manager["ControlAvailable"]) == ("active", True)
    assert (manager["Managers"], manager["Nodes"]) == (3, 4)
    assert (worker["LocalNodeState"], worker["ControlAvailable"]) == ("active", False)
    assert {remote["Addr"] for remote in worker["RemoteManagers"]} == {
        f"{whole.lab.plan.host(host).address}:2377" for host in MANAGERS
    }
    with pytest.raises(docker.errors.APIError, match="not a swarm manager"):
        whole.at("worker1").nodes.list()


def test_the_leader_stops_and_nothing_else_does(whole: Swarm) -> None:
    """SIGTERM hands over; writes are accepted again within a second of it, and every container is the same."""
    leader = whole.leader()
    other = next(host for host in MANAGERS if host != leader)
    tasks, pids = whole.running(other), whole.pids()
    whole.lab.stop(leader)
    assert whole.write_soon(other, "stopped") < 3.0
    whole.lab.start(leader)
    until(lambda: whole.at(leader).info()["Swarm"]["LocalNodeState"] == "active", "the old leader is back")
    assert whole.written(leader) == "stopped"
    assert (whole.running(other), whole.pids()) == (tasks, pids)


def test_the_leader_is_killed_and_writes_go_on_within_three_seconds(whole: Swarm) -> None:
    leader = whole.leader()
    other = next(host for host in MANAGERS if host != leader)
    tasks, pids = whole.running(other), whole.pids()
    whole.lab.kill(leader)
    assert whole.write_soon(other, "killed") < 3.0
    whole.lab.start(leader)
    until(lambda: whole.at(leader).info()["Swarm"]["LocalNodeState"] == "active", "the killed leader is back")
    assert (whole.running(other), whole.pids()) == (tasks, pids)


def test_all_managers_are_killed_and_no_write_is_lost(whole: Swarm) -> None:
    whole.label("manager2", "before")
    tasks, pids = whole.running("manager1"), whole.pids()
    for host in MANAGERS:
        whole.lab.kill(host)
    for host in MANAGERS:
        whole.lab.start(host)
    leader = whole.leader()
    assert whole.written(leader) == "before"
    until(lambda: whole.running(leader) == tasks, "the same tasks run")
    assert whole.pids() == pids


def test_a_minority_accepts_no_write(whole: Swarm) -> None:
    leader = whole.leader()
    others = tuple(host for host in MANAGERS if host != leader)
    whole.label(leader, "together")
    whole.lab.partition(leader)
    try:
        assert whole.write_soon(others[0], "apart") < 10.0
        with pytest.raises(docker.errors.APIError, match=r"leader|majority"):
            whole.at(leader).nodes.list()
    finally:
        whole.lab.heal()
    until(lambda: reads(whole, leader) == "apart", "the old leader caught up")


def reads(swarm: Swarm, host: str) -> str:
    try:
        return swarm.written(host)
    except docker.errors.APIError:
        return ""


def test_promote_and_demote_by_the_api(whole: Swarm) -> None:
    pids = whole.pids()
    whole.set_role("manager1", "worker1", "manager")
    until(lambda: whole.at("worker1").info()["Swarm"]["ControlAvailable"], "worker1 manages")
    until(lambda: "worker1" in whole.managers("manager1"), "worker1 votes")
    assert set(whole.nodes("worker1")) == set(HOSTS)
    whole.set_role("worker1", "worker1", "worker")
    until(lambda: not whole.at("worker1").info()["Swarm"]["ControlAvailable"], "worker1 works only")
    until(lambda: whole.managers("manager1") == set(MANAGERS), "worker1 has no vote")
    until(lambda: whole.nodes("manager1")["worker1"]["Status"]["State"] == "ready", "worker1 is heard")
    assert whole.pids() == pids


def test_a_worker_leaves_and_joins_again(whole: Swarm) -> None:
    old = whole.nodes("manager1")["worker1"]["ID"]
    whole.at("worker1").swarm.leave()
    assert whole.at("worker1").containers.list(all=True) == []
    assert whole.at("worker1").info()["Swarm"]["LocalNodeState"] == "inactive"
    until(lambda: whole.nodes("manager1")["worker1"]["Status"]["State"] == "down", "the node that left is down")
    whole.at("manager1").api.remove_node(old)
    address = str(whole.lab.plan.host("worker1").address)
    token = whole.at("manager1").swarm.attrs["JoinTokens"]["Worker"]
    remotes = [str(whole.lab.plan.host(host).address) for host in MANAGERS]
    whole.at("worker1").swarm.join(remotes, token, listen_addr=f"{address}:2377", advertise_addr=address)
    nodes = whole.nodes("manager1")
    assert set(nodes) == set(HOSTS)
    assert nodes["worker1"]["ID"] != old


def test_force_new_cluster_after_quorum_loss(whole: Swarm) -> None:
    """Last of this file: two managers are gone for good."""
    tasks = whole.running("manager1")
    kept = {c.id for host in ("manager1", "worker1") for c in whole.at(host).containers.list()}
    for host in ("manager2", "manager3"):
        whole.lab.kill(host, with_containers=True)
    with pytest.raises(docker.errors.APIError, match=r"leader|majority"):
        whole.at("manager1").nodes.list()
    address = str(whole.lab.plan.host("manager1").address)
    whole.at("manager1").swarm.init(advertise_addr=address, listen_addr=f"{address}:2377", force_new_cluster=True)
    assert whole.managers("manager1") == {"manager1"}
    until(lambda: len(whole.running("manager1")) == 4, "four replicas run on what is left", 40.0)
    now = whole.running("manager1")
    assert {tasks[task] for task in tasks if tasks[task] in kept} <= set(now.values())


