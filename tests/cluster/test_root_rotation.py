"""A new root for a swarm that serves, through the docker client, docker-py and the swarmpy command."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from swarmpy.identity import create_root
from swarmpy.identity.certificates import key_pem, pem
from tests.cluster.swarm import Swarm, docker_clients, until

pytestmark = [pytest.mark.root, pytest.mark.cluster]

SHAPE = (3, 2)


def root_of(swarm: Swarm, on: str = "") -> str:
    return swarm.docker("swarm", "ca", on=on).ok()


def tls_of_nodes(swarm: Swarm) -> list[dict[str, Any]]:
    return [node["Description"]["TLSInfo"] for node in swarm.api().api.nodes()]


def rotates(swarm: Swarm) -> bool:
    return bool(swarm.api().api.inspect_swarm()["RootRotationInProgress"])


def test_the_root_is_rotated_while_all_goes_on(swarm: Swarm) -> None:
    swarm.docker("service", "create", "-q", "--name", "web", "--replicas", "5", "-p", "8080:80", "web:1").ok()
    swarm.seen("manager1", 8080, 5)
    pids = swarm.container_pids("web")
    token = swarm.docker("swarm", "join-token", "-q", "worker").ok()
    with swarm.watched(8080) as prober:
        for client in docker_clients():
            before = root_of(swarm)
            said = swarm.docker("swarm", "ca", "--rotate", client=client, on=swarm.managers[1]).ok()
            after = root_of(swarm)
            assert after != before
            assert after in said
            assert {info["TrustRoot"].strip() for info in tls_of_nodes(swarm)} == {after}
            assert not rotates(swarm)
        assert swarm.swarmpy("swarm", "ca", "--rotate", "--quiet").ok() == ""
        assert root_of(swarm) != after
    prober.assert_unbroken(at_least=50)
    assert swarm.container_pids("web") == pids, "no container was touched"
    until(lambda: all(swarm.ready(host) for host in swarm.hosts), "all nodes to be ready")

    # Whoever joins needs a token of the new root.
    new = swarm.docker("swarm", "join-token", "-q", "worker").ok()
    assert new.split("-")[2] != token.split("-")[2], "another root, another digest"
    gone = swarm.node("worker2")["ID"]
    swarm.docker("swarm", "leave", on="worker2").ok()
    address = swarm.address("worker2")
    listen = ("--advertise-addr", address, "--listen-addr", f"{address}:2377")
    door = f"{swarm.address('manager2')}:2377"
    swarm.docker("swarm", "join", *listen, "--token", token, door, on="worker2").refused("another swarm")
    swarm.docker("swarm", "join", *listen, "--token", new, door, on="worker2").ok()
    until(lambda: swarm.docker("node", "rm", "--force", gone).code == 0, "the node of before to be removed")
    swarm.converged("web", 5)


def test_it_waits_for_a_node_that_is_away(swarm: Swarm) -> None:
    before = root_of(swarm)
    swarm.lab.kill("worker1")
    swarm.docker("swarm", "ca", "--rotate", "--detach").ok()
    assert rotates(swarm)
    present = len(swarm.hosts) - 1
    until(lambda: sum(info["TrustRoot"].count("BEGIN") == 2 for info in tls_of_nodes(swarm)) == present, "both roots")
    swarm.docker("swarm", "ca", "--rotate", "--detach").refused("being rotated")
    swarm.lab.start("worker1")
    until(lambda: not rotates(swarm), "the rotation to end")
    assert root_of(swarm) != before
    until(lambda: all(swarm.ready(host) for host in swarm.hosts), "all nodes to be ready")


def test_a_root_of_ones_own_is_taken(swarm: Swarm, tmp_path: Path) -> None:
    for name in ("mine", "other"):
        root = create_root(name, time.time_ns())
        (tmp_path / f"{name}.pem").write_bytes(pem(root.certificate))
        (tmp_path / f"{name}.key").write_bytes(key_pem(root.key))
    rotate, certificate = ("swarm", "ca", "--rotate"), ("--ca-cert", str(tmp_path / "mine.pem"))
    before = root_of(swarm)
    swarm.swarmpy(*rotate, *certificate).refused("SigningCAKey", "not supported")
    swarm.docker(*rotate, *certificate, "--ca-key", str(tmp_path / "other.key")).refused("SigningCACert")
    openssl = ("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    made = ("-keyout", str(tmp_path / "web.key"), "-out", str(tmp_path / "web.pem"), "-subj", "/CN=web")
    subprocess.run((*openssl, *made, "-addext", "extendedKeyUsage=serverAuth"), check=True, capture_output=True)
    web = ("--ca-cert", str(tmp_path / "web.pem"), "--ca-key", str(tmp_path / "web.key"))
    swarm.docker(*rotate, *web).refused("SigningCACert", "would not accept")
    assert root_of(swarm) == before
    assert not rotates(swarm)
    swarm.docker(*rotate, *certificate, "--ca-key", str(tmp_path / "mine.key")).ok()
    assert root_of(swarm) == (tmp_path / "mine.pem").read_text().strip()
    swarm.docker("swarm", "update", "--cert-expiry", "720h").ok()
    assert not rotates(swarm), "an update that says nothing of a root rotates none"
    for text in (str(swarm.api().api.inspect_swarm()), swarm.docker("info", "--format", "{{json .}}").ok()):
        assert "PRIVATE KEY" not in text
    for host in swarm.hosts:
        assert "PRIVATE KEY" not in swarm.lab.log(host).read_text()
