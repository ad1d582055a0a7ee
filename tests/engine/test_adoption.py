"""The daemon is killed with -9 and started again: containers never notice, and nothing is forgotten."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.host import Host, until

pytestmark = [pytest.mark.root, pytest.mark.cluster]


@pytest.fixture
def own_host() -> Iterator[Host]:
    daemon = Host()
    try:
        daemon.start()
        daemon.import_busybox()
        yield daemon
    finally:
        daemon.close()


def test_a_life_through_a_killed_daemon(own_host: Host) -> None:
    host = own_host
    host.docker("create", "--name", "life", "-p", "127.0.0.1:0:80", "busybox", "sh", "-c",
                "httpd -h /var/www; n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done")  # fmt: skip
    host.docker("start", "life")
    before = host.inspect("life")
    host.kill()
    host.start()
    after = host.inspect("life")
    assert after["State"] == before["State"], "the container has not noticed"
    assert after["NetworkSettings"]["Networks"] == before["NetworkSettings"]["Networks"]
    assert host.out("port", "life") == host.out("port", "life")
    assert host.out("exec", "life", "echo", "hello") == "hello"
    lines = [int(word) for word in host.out("logs", "life").split()]
    assert lines == list(range(1, len(lines) + 1)), "not a line is missing"
    host.docker("stop", "-t", "0", "life")
    assert host.inspect("life")["State"]["ExitCode"] == 137
    host.docker("start", "life")
    host.docker("rm", "-f", "life")
    assert host.out("ps", "-aq") == ""


def test_what_ends_while_no_daemon_runs(own_host: Host) -> None:
    host = own_host
    run = ["run", "-d", "-v", f"{host.root}/gate:/gate"]
    gate = host.root / "gate"
    gate.mkdir()
    waits = "while ! [ -e /gate/open ]; do sleep 0.02; done; echo done; exit 7"
    host.docker(*run, "--name", "ends", "busybox", "sh", "-c", waits)
    host.docker(*run, "--rm", "--name", "vanishes", "busybox", "sh", "-c", waits)
    host.docker(*run, "--restart", "on-failure", "--name", "returns", "busybox", "sh", "-c",
                "[ -e /gate/open ] && exec sleep 99; " + waits)  # fmt: skip
    pid = host.inspect("ends")["State"]["Pid"]
    host.kill()
    (gate / "open").touch()
    until("it has ended", lambda: not Path(f"/proc/{pid}/root").exists())
    host.start()
    until("its end is recorded", lambda: host.inspect("ends")["State"]["Status"] == "exited")
    state = host.inspect("ends")["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (7, False)
    assert host.out("logs", "ends") == "done"
    until("--rm was honoured", lambda: "vanishes" not in host.out("ps", "-a"))
    until("its policy was honoured", lambda: host.inspect("returns")["RestartCount"] == 1)
    until("it runs", lambda: host.inspect("returns")["State"]["Status"] == "running")


def test_policies_when_the_daemon_starts(own_host: Host) -> None:
    host = own_host
    for policy in ("always", "unless-stopped", "no"):
        host.docker("run", "-d", "--name", policy, "--restart", policy, "busybox", "sleep", "99")
        host.docker("stop", "-t", "0", policy)
    host.kill()
    host.start()
    running = until("always is back", lambda: host.out("ps", "--format", "{{.Names}}"))
    assert running.split() == ["always"]


def test_a_container_that_cannot_be_read_is_left_alone(own_host: Host) -> None:
    host = own_host
    container = host.out("run", "-d", "--name", "odd", "busybox", "sleep", "99")
    pid = host.inspect("odd")["State"]["Pid"]
    host.kill()
    config = host.root / "data/containers" / container / "config.json"
    written = config.read_text()
    config.write_text(written.replace('"Hostname"', '"FromTheFuture": "x", "Hostname"'))
    host.start()
    assert host.out("ps", "-aq") == ""
    assert Path(f"/proc/{pid}").exists()
    assert "is left alone" in host.log.read_text()
    host.kill()
    config.write_text(written)
    host.start()
    assert host.inspect("odd")["State"]["Pid"] == pid


def test_an_orderly_end_leaves_containers_alone(own_host: Host) -> None:
    host = own_host
    host.docker("run", "-d", "--name", "stays", "busybox", "sleep", "99")
    pid = host.inspect("stays")["State"]["Pid"]
    host.terminate()
    assert Path(f"/proc/{pid}").exists()
    host.start()
    assert host.inspect("stays")["State"]["Pid"] == pid


def killed_during(host: Host, client: list[str], delay_s: float) -> None:
    """The daemon is killed that long after a client began, most often in the middle of what it asked for; it is up."""
    process = subprocess.Popen(client, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(delay_s)
    except subprocess.TimeoutExpired:
        pass  # it is in the middle
    host.kill()
    process.wait(10)
    host.start()


def test_killed_at_any_moment_of_a_creation_or_removal_nothing_is_left_behind(own_host: Host) -> None:
    """Whatever the daemon was doing, a container is afterwards either known and can be removed, or wholly gone."""
    host = own_host
    containers, snapshots = host.root / "data/containers", host.root / "data/images/snapshots"
    for delay in range(8):
        name = f"c{delay}"
        host.docker("run", "--name", f"old-{name}", "busybox", "touch", "/written")
        steps = f"{host.docker_binary} -H {host.address} rm old-{name}; "
        steps += f"{host.docker_binary} -H {host.address} create --name {name} busybox touch /written"
        killed_during(host, ["sh", "-c", steps], 0.02 * delay + 0.02)
        known = host.out("ps", "-a", "--no-trunc", "--format", "{{.ID}}").split()
        assert {path.name for path in containers.iterdir()} == set(known)
        assert {path.name for path in snapshots.iterdir()} <= set(known)
        for container in known:
            host.docker("start", container)
            host.docker("wait", container)
            host.docker("rm", container)
    until("all files are cleared away", lambda: not [*containers.iterdir(), *snapshots.iterdir()])


def test_killed_at_any_moment_of_a_start_nothing_is_left_behind(own_host: Host) -> None:
    """Whatever the daemon was doing, a container is afterwards either running and known, or not running."""
    host = own_host
    for delay in range(6):
        name = f"c{delay}"
        host.docker("create", "--name", name, "busybox", "sleep", "99")
        killed_during(host, [host.docker_binary, "-H", host.address, "start", name], 0.015 * delay + 0.001)
        state = host.inspect(name)["State"]
        assert state["Running"] == bool(state["Pid"])
        if not state["Running"]:
            host.docker("start", name)
        assert host.out("exec", name, "echo", "ok") == "ok"
        host.docker("rm", "-f", name)
