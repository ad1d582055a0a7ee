"""Services through the docker client: created, scaled, updated, rolled back, looked at, while their ports answer."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from functools import partial

import pytest

from tests.cluster.swarm import Swarm, column, docker_clients, get, requests_in, rows, until

pytestmark = [pytest.mark.root, pytest.mark.cluster]

ECHO = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("0.0.0.0", 9))
while True:
    data, sender = server.recvfrom(100)
    server.sendto(data, sender)
"""


def test_a_service_answers_on_every_node_from_all_replicas(swarm: Swarm) -> None:
    created = swarm.docker("service", "create", "--name", "web", "--replicas", "3", "-p", "8080:80", "web:1").ok()
    assert "converged" in created
    everyone = swarm.seen(swarm.hosts[0], 8080, 3)
    for host in swarm.hosts:
        assert swarm.seen(host, 8080, 3) == everyone
    for host in swarm.hosts:  # from the node itself
        answers = set(swarm.inside(host, "curl", "-sSf", "-m", "5", *["http://127.0.0.1:8080/"] * 6).ok().splitlines())
        assert answers <= everyone and answers, host

    (listed,) = rows(swarm.docker("service", "ls", "--format", "{{json .}}").ok())
    assert (listed["Name"], listed["Mode"], listed["Replicas"], listed["Image"], listed["Ports"]) == (
        "web", "replicated", "3/3", "web:1", "*:8080->80/tcp",
    )  # fmt: skip
    tasks = rows(swarm.docker("service", "ps", "web", "--format", "{{json .}}").ok())
    assert sorted(column(tasks, "Name")) == ["web.1", "web.2", "web.3"]
    assert all(state.startswith("Running") for state in column(tasks, "CurrentState"))
    assert len(set(column(tasks, "Node"))) == 3, "replicas are spread"
    (inspected,) = json.loads(swarm.docker("service", "inspect", "web").ok())
    assert inspected["Spec"]["Mode"] == {"Replicated": {"Replicas": 3}}
    assert inspected["Endpoint"]["Ports"][0]["PublishedPort"] == 8080
    assert "Replicated" in swarm.docker("service", "inspect", "--pretty", "web").ok()
    until(lambda: requests_in(swarm.docker("service", "logs", "web").err) >= 6, "the replicas' log lines")
    shown = swarm.docker("service", "logs", "--timestamps", "--tail", "1", "web").err.splitlines()
    assert len(shown) == 3 and all(" | " in line and "@" in line for line in shown), shown

    assert swarm.docker("service", "rm", "web").ok() == "web"
    assert "web" in swarm.docker("service", "inspect", "web").refused("no such service")
    until(lambda: not answers_at(swarm, swarm.hosts[0], 8080), "the port to close")


def test_scale_update_and_roll_back_while_the_port_answers(swarm: Swarm) -> None:
    swarm.docker("service", "create", "-d", "--name", "web", "--replicas", "3", "-p", "8080:80", "web:1").ok()
    assert "converged" in swarm.docker("service", "scale", "web=10").ok()
    assert len(swarm.converged("web", 10)) == 10
    swarm.seen(swarm.workers[0], 8080, 10)
    before = set(swarm.running("web"))
    with swarm.watched(8080) as prober:
        assert "converged" in swarm.docker("service", "update", "--env-add", "A=1", "web").ok()
    prober.assert_unbroken(at_least=100)
    updated = set(swarm.converged("web", 10))
    assert not before & updated, "every task was replaced"
    (container, (host, _)), *_ = swarm.container_pids("web").items()
    assert "A=1" in swarm.docker("inspect", "--format", "{{.Config.Env}}", container, on=host).ok()
    assert update_state(swarm) == "completed"

    with swarm.watched(8080) as prober:
        assert "converged" in swarm.docker("service", "rollback", "web").ok()
    prober.assert_unbroken(at_least=100)
    assert not updated & set(swarm.converged("web", 10))
    assert "A=1" not in swarm.docker("service", "inspect", "web").ok().partition("PreviousSpec")[0]
    assert swarm.docker("service", "scale", "--detach", "web=1").ok()
    swarm.converged("web", 1)


def test_an_image_is_rolled_out_in_parallel_with_start_first(swarm: Swarm) -> None:
    swarm.docker("service", "create", "-d", "--name", "web", "--replicas", "4", "-p", "8081:80", "web:1").ok()
    swarm.converged("web", 4)
    options = ("--update-parallelism", "2", "--update-order", "start-first", "--update-monitor", "500ms")
    with swarm.watched(8081) as prober:
        swarm.docker("service", "update", *options, "--image", "web:2", "web").ok()
    prober.assert_unbroken(at_least=20)
    assert {answer.partition(" ")[0] for answer in swarm.seen(swarm.hosts[-1], 8081, 4)} == {"second"}


def test_a_failing_update_pauses_or_rolls_back(swarm: Swarm) -> None:
    restart = ("--restart-condition", "none")
    create = ("service", "create", "-q", *restart, "--update-monitor", "1s", "--update-delay", "1s")
    swarm.docker(*create, "--replicas", "2", "-p", "8082:80", "--name", "web", "web:1").ok()
    failed = swarm.docker("service", "update", "--image", "web:bad", "web")
    assert "paused" in failed.err + failed.out
    assert update_state(swarm) == "paused"
    assert get(swarm.address(swarm.hosts[0]), 8082), "the replica that was not updated still answers"
    tasks = rows(swarm.docker("service", "ps", "--no-trunc", "--format", "{{json .}}", "web").ok())
    assert any("exit" in task["Error"] and "3" in task["Error"] for task in tasks), tasks

    swarm.docker("service", "update", "--update-failure-action", "rollback", "--image", "web:1", "web").ok()
    swarm.converged("web", 2)
    with swarm.watched(8082) as prober:
        failed = swarm.docker("service", "update", "--image", "web:bad", "web")
    assert "rollback" in failed.err + failed.out
    until(lambda: update_state(swarm) == "rollback_completed", "the rollback to end")
    assert prober.answers
    swarm.converged("web", 2)
    assert swarm.docker("service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}", "web").ok() == (
        "web:1"
    )


def test_ports_in_host_mode_and_udp(swarm: Swarm) -> None:
    swarm.docker(
        "service", "create", "-d", "--name", "local", "--constraint", "node.hostname==worker2",
        "--publish", "mode=host,published=8083,target=80", "web:1",
    ).ok()  # fmt: skip
    until(lambda: answers_at(swarm, "worker2", 8083), "the port to answer on its node")
    assert not answers_at(swarm, "worker1", 8083)
    # busybox has no UDP server: Python of the machine serves.
    machine = ("--mount", "type=bind,source=/,target=/machine,readonly")
    serve = ("busybox", "chroot", "/machine", sys.executable, "-I", "-S", "-c", ECHO)
    create = ("service", "create", "-d", "--name", "datagrams", *machine, "--publish", "8083:9/udp")
    swarm.docker(*create, "web:1", *serve).ok()
    for host in swarm.hosts:
        until(partial(datagram_answer, swarm.address(host), 8083), f"an answer by UDP at {host}")


def test_constraints_and_labels_choose_nodes(swarm: Swarm) -> None:
    swarm.docker("node", "update", "--label-add", "disk=ssd", "worker3").ok()
    constrained = ("service", "create", "-d", "--replicas", "2")
    swarm.docker(*constrained, "--name", "fast", "--constraint", "node.labels.disk==ssd", "web:1").ok()
    swarm.docker(*constrained, "--name", "control", "--constraint", "node.role==manager", "web:1").ok()
    swarm.docker(*constrained, "--name", "nowhere", "--constraint", "node.hostname==nobody", "web:1").ok()
    assert set(swarm.converged("fast", 2).values()) == {"worker3"}
    assert set(swarm.converged("control", 2).values()) <= set(swarm.managers)
    until(lambda: "no suitable node" in swarm.docker("service", "ps", "--no-trunc", "nowhere").out, "the reason")
    swarm.docker("service", "create", "--constraint", "node.colour=red", "web:1").refused("node.colour")
    swarm.docker("node", "update", "--label-rm", "disk", "worker3").ok()


def test_the_restart_policy_decides_what_follows_an_end(swarm: Swarm) -> None:
    crash = ("web:1", "sh", "-c", "exit 3")
    policy = ("--restart-delay", "10ms", "--restart-max-attempts", "2")
    swarm.docker("service", "create", "-d", "--name", "again", *policy, *crash).ok()
    swarm.docker("service", "create", "-d", "--name", "once", "--restart-condition", "none", *crash).ok()

    def ended(service: str, count: int) -> bool:
        states = [task["Status"]["State"] for task in swarm.tasks(service)]
        return len(states) == count and set(states) == {"failed"}

    until(lambda: ended("again", 3), "one start and two more attempts")
    until(lambda: ended("once", 1), "one start and no more")
    status = swarm.tasks("once")[0]["Status"]
    assert status["ContainerStatus"]["ExitCode"] == 3


def test_logs_are_followed(swarm: Swarm) -> None:
    swarm.docker("service", "create", "-d", "--name", "web", "--replicas", "2", "-p", "8084:80", "web:1").ok()
    swarm.converged("web", 2)
    argv = ["timeout", "30", str(docker_clients()[0]), "service", "logs", "--follow", "--raw", "web"]
    with subprocess.Popen(argv, env=swarm.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as follower:
        try:
            assert follower.stderr is not None
            seen = 0
            with swarm.watched(8084):
                while seen < 5:
                    line = follower.stderr.readline()
                    assert line, "the stream ended"
                    seen += requests_in(line.decode())
        finally:
            follower.kill()


def update_state(swarm: Swarm) -> str:
    return swarm.docker("service", "inspect", "--format", "{{.UpdateStatus.State}}", "web").ok()


def answers_at(swarm: Swarm, host: str, port: int) -> bool:
    try:
        return bool(get(swarm.address(host), port))
    except OSError:
        return False


def datagram_answer(address: str, port: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.2)
        client.connect((address, port))
        try:
            client.send(b"who")
            return client.recv(100)
        except OSError:
            return b""
