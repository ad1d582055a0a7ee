"""Nodes and the swarm itself through the docker client: draining, roles, tokens, leaving, certificates, events."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.cluster.swarm import Swarm, docker_clients, rows, until

pytestmark = [pytest.mark.root, pytest.mark.cluster]


def test_a_drained_node_gives_its_tasks_away(swarm: Swarm) -> None:
    swarm.docker("service", "create", "-d", "--name", "web", "--replicas", "6", "-p", "8080:80", "web:1").ok()
    assert set(swarm.converged("web", 6).values()) == set(swarm.hosts)
    with swarm.watched(8080) as prober:
        assert swarm.docker("node", "update", "--availability", "drain", "worker1").ok() == "worker1"
        until(lambda: "worker1" not in swarm.converged("web", 6).values(), "all tasks to run elsewhere")
        until(lambda: not swarm.docker("ps", "-q", on="worker1").ok(), "the drained node to be empty")
    prober.assert_unbroken(at_least=10)
    assert swarm.node("worker1")["Spec"]["Availability"] == "drain"
    swarm.docker("node", "update", "--availability", "active", "worker1").ok()
    swarm.docker("node", "update", "--availability", "pause", "worker2").ok()
    kept = list(swarm.running("web").values()).count("worker2")
    swarm.docker("service", "scale", "web=11").ok()
    placed = list(swarm.converged("web", 11).values())
    assert placed.count("worker1") >= 1
    assert placed.count("worker2") == kept, "a paused node keeps what it has and gets nothing more"
    assert swarm.docker("node", "ps", "worker1", "--format", "{{.Name}}").ok().startswith("web.")
    swarm.docker("node", "update", "--availability", "active", "worker2").ok()


def test_nodes_are_listed_and_inspected(swarm: Swarm) -> None:
    listed = rows(swarm.docker("node", "ls", "--format", "{{json .}}").ok())
    assert {row["Hostname"] for row in listed} == set(swarm.hosts)
    assert all(row["Status"] == "Ready" and row["Availability"] == "Active" for row in listed)
    for own in swarm.managers:  # each knows itself and sees the others
        seen = rows(swarm.docker("node", "ls", "--format", "{{json .}}", on=own).ok())
        assert [row["Hostname"] for row in seen if row["Self"]] == [own]
        assert sorted(row["ManagerStatus"] for row in seen) == ["", "", "", "Leader", "Reachable", "Reachable"], own
    (node,) = json.loads(swarm.docker("node", "inspect", "worker1").ok())
    assert node["Status"]["Addr"] == swarm.address("worker1")
    assert node["Description"]["Resources"]["MemoryBytes"] > 0
    assert "Manager Status:" in swarm.docker("node", "inspect", "--pretty", "self").ok()
    for verb in (("node", "ls"), ("service", "ls"), ("node", "promote", "worker1")):
        swarm.docker(*verb, on="worker1").refused("not a swarm manager")


def test_a_worker_is_promoted_and_demoted(swarm: Swarm) -> None:
    assert "promoted" in swarm.docker("node", "promote", "worker1").ok()
    until(lambda: swarm.node("worker1").get("ManagerStatus", {}).get("Reachability") == "reachable", "the new manager")
    until(lambda: swarm.docker("node", "ls", on="worker1").code == 0, "the new manager to answer for the swarm")
    assert "demoted" in swarm.docker("node", "demote", "worker1").ok()
    until(lambda: "ManagerStatus" not in swarm.node("worker1"), "the manager to go")
    until(lambda: swarm.docker("node", "ls", on="worker1").code != 0, "the node to be a worker")
    until(lambda: swarm.ready("worker1"), "the worker to be ready")


def test_the_leader_is_demoted_and_promoted_again(swarm: Swarm) -> None:
    leader = swarm.leader()
    other = next(name for name in swarm.managers if name != leader)
    swarm.docker("node", "demote", leader, on=other).ok()
    until(lambda: swarm.leader([other]) != leader, "another leader")
    until(lambda: "ManagerStatus" not in swarm.node(leader, other), "the old leader to be a worker")
    until(lambda: swarm.ready(leader, other), "the old leader to be ready")
    swarm.docker("node", "promote", leader, on=other).ok()
    until(lambda: swarm.node(leader, other).get("ManagerStatus", {}).get("Reachability") == "reachable", "it is back")
    until(lambda: swarm.docker("node", "ls", on=leader).code == 0, "it to answer for the swarm")


def test_a_node_leaves_and_comes_back_with_a_new_token(swarm: Swarm) -> None:
    assert "SWMTKN-1-" in swarm.docker("swarm", "join-token", "worker").ok()
    old = swarm.docker("swarm", "join-token", "-q", "worker").ok()
    manager_token = swarm.docker("swarm", "join-token", "-q", "manager").ok()
    swarm.docker("swarm", "leave", on="manager2").refused("--force")
    assert "left the swarm" in swarm.docker("swarm", "leave", on="worker3").ok()
    gone = swarm.node("worker3")["ID"]
    swarm.docker("node", "rm", "worker2").refused("not down")
    until(lambda: swarm.node("worker3")["Status"]["State"] == "down", "the node that left to be down")
    assert swarm.docker("node", "rm", gone).ok() == gone

    new = swarm.docker("swarm", "join-token", "--rotate", "-q", "worker").ok()
    assert new != old and new.rpartition("-")[0] == old.rpartition("-")[0], "another secret, the same root"
    assert swarm.docker("swarm", "join-token", "-q", "manager").ok() == manager_token
    door = f"{swarm.address(swarm.managers[1])}:2377"
    address = ("--advertise-addr", swarm.address("worker3"), "--listen-addr", f"{swarm.address('worker3')}:2377")
    swarm.docker("swarm", "join", *address, "--token", old, door, on="worker3").refused("token")
    swarm.docker("swarm", "join", *address, "--token", "SWMTKN-1-short", door, on="worker3").refused("token")
    joined = swarm.docker("swarm", "join", *address, "--token", new, door, on="worker3").ok()
    assert "joined a swarm as a worker" in joined
    until(lambda: swarm.ready("worker3"), "the node to be ready")
    assert swarm.node("worker3")["ID"] != gone
    swarm.docker("swarm", "join", "--token", new, door, on="worker3").refused("already part of a swarm")
    swarm.docker("swarm", "init", on="manager1").refused("already part of a swarm")


def test_the_swarm_is_shown_and_changed(swarm: Swarm) -> None:
    assert swarm.docker("swarm", "ca").ok().startswith("-----BEGIN CERTIFICATE-----")
    swarm.docker("swarm", "update", "--task-history-limit", "3").ok()
    info = json.loads(swarm.docker("info", "--format", "{{json .}}").ok())
    assert info["Swarm"]["LocalNodeState"] == "active" and info["Swarm"]["ControlAvailable"]
    assert (info["Swarm"]["Managers"], info["Swarm"]["Nodes"]) == (3, 6)
    assert info["Swarm"]["Cluster"]["Spec"]["Orchestration"]["TaskHistoryRetentionLimit"] == 3
    swarm.docker("swarm", "update", "--task-history-limit", "5").ok()
    text = swarm.docker("info").ok()
    assert "Swarm: active" in text and "Is Manager: true" in text
    assert "Is Manager: false" in swarm.docker("info", on="worker1").ok()
    version = json.loads(swarm.docker("version", "--format", "{{json .}}").ok())
    assert version["Server"]["Os"] == "linux" and version["Server"]["ApiVersion"]


def test_events_tell_of_services_and_containers(swarm: Swarm) -> None:
    argv = ["timeout", "30", str(docker_clients()[0]), "events", "--format", "{{json .}}", "--filter", "type=service"]
    with subprocess.Popen(argv, env=swarm.environment(), stdout=subprocess.PIPE, text=True) as listener:
        try:
            assert listener.stdout is not None
            begun = swarm.docker("info", "--format", "{{.SystemTime}}").ok()
            swarm.docker("service", "create", "-q", "--name", "web", "--constraint", "node.hostname==worker1", "web:1")
            swarm.docker("service", "update", "-q", "--label-add", "a=b", "web").ok()
            swarm.docker("service", "rm", "web").ok()
            actions = []
            while "remove" not in actions:
                line = listener.stdout.readline()
                assert line, "the stream ended"
                actions.append(json.loads(line)["Action"])
            assert actions[0] == "create" and "update" in actions
        finally:
            listener.kill()
    until(lambda: not swarm.docker("ps", "-aq", on="worker1").ok(), "the container to go")
    ended = swarm.docker("info", "--format", "{{.SystemTime}}").ok()
    window = ("--since", begun, "--until", ended, "--filter", "type=container")
    past = rows(swarm.docker("events", *window, "--format", "{{json .}}", on="worker1").ok())
    assert [event["Action"] for event in past][:2] == ["create", "start"]
    assert {"die", "destroy"} <= {event["Action"] for event in past}
