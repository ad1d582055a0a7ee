"""Labs with real namespaces, links and processes; the daemon inside is a stand-in."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from swarmpy.errors import Conflict, Internal, InvalidArgument, NotFound
from swarmpy.lab import Lab
from swarmpy.lab.cluster import down_all, labs
from swarmpy.lab.host import find_hosts
from swarmpy.network.addresses import mac_for

pytestmark = pytest.mark.root

DAEMON = (sys.executable, str(Path(__file__).parent / "standin.py"))
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def roots() -> Iterator[tuple[Path, Path]]:
    """Short paths: sockets live below."""
    base = Path(tempfile.mkdtemp(prefix="swlab"))
    yield base / "run", base / "data"
    down_all(base / "run", base / "data")
    shutil.rmtree(base)


def make(roots: tuple[Path, Path], managers: int = 1, workers: int = 2, **options: Any) -> Lab:
    run_root, data_root = roots
    return Lab.up(
        f"test-{os.getpid()}-{next(NUMBERS)}", managers, workers,
        run_root=run_root, data_root=data_root, swarm=False, **{"daemon": DAEMON, **options},
    )  # fmt: skip


@pytest.fixture(scope="module")
def shared(roots: tuple[Path, Path]) -> Iterator[Lab]:
    made = make(roots)
    yield made
    made.down()


@pytest.fixture
def lab(shared: Lab) -> Iterator[Lab]:
    """The shared lab, whole again after each test."""
    yield shared
    shared.heal()
    for host in shared.plan.hosts:
        if shared.state(host.name) == "paused":
            shared.resume(host.name)
        if shared.state(host.name) != "running":
            shared.start(host.name)


def reach(lab: Lab, source: str, target: str, *, timeout_s: float = 1.0) -> str | None:
    """The name the target says, asked from inside the source host; None when no answer comes."""
    where = lab.plan.host(target).address
    script = (
        f"import socket; c = socket.create_connection(({where!r}, 8080), {timeout_s})\n"
        "name = b''\n"
        "while not name.endswith(b'\\n'): name += c.recv(1)\n"
        "print(name.decode().strip())"
    )
    done = lab.run(source, [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True)
    return done.stdout.strip() or None


def links() -> set[str]:
    handle: Any = IPRoute()
    try:
        return {link.get_attr("IFLA_IFNAME") for link in handle.get_links()}
    finally:
        handle.close()


def test_hosts_reach_each_other_and_the_machine_reaches_them(lab: Lab) -> None:
    assert reach(lab, "manager1", "worker1") == "worker1"
    assert reach(lab, "worker2", "manager1") == "manager1"
    with socket.create_connection((lab.plan.host("worker1").address, 8080), 5) as connection:
        assert connection.recv(7) == b"worker1"
    assert lab.plan.machine_link in links()
    assert [status.state for status in lab.status()] == ["running"] * 3


def test_a_command_runs_inside_its_host(lab: Lab) -> None:
    done = lab.run("worker1", ["sh", "-c", "hostname; echo $DOCKER_HOST; exit 3"], capture_output=True, text=True)
    assert done.stdout.split() == ["worker1", lab.docker_host("worker1")]
    assert done.returncode == 3
    assert lab.run("worker1", ["no-such-program"], capture_output=True).returncode == 127


def test_a_killed_daemon_starts_again_over_its_data(lab: Lab) -> None:
    lab.kill("worker1")
    assert lab.state("worker1") == "daemon ended (-9)"
    with pytest.raises(Conflict, match="already dead"):
        lab.kill("worker1")
    lab.start("worker1")
    assert lab.state("worker1") == "running"
    assert (lab.plan.data_dir / "worker1" / "starts").read_text() == "xx"
    lab.stop("worker1")
    assert lab.state("worker1") == "daemon ended (0)"


def test_processes_outlive_their_daemon_but_not_their_host(lab: Lab) -> None:
    host = lab.host("worker1")
    host.spawn("container", ["/bin/sleep", "1000"], {})
    lab.kill("worker1")
    assert host.running("container")
    with socket.create_connection((lab.plan.host("worker2").address, 8080), 5) as connection:
        connection.settimeout(0.2)
        assert connection.recv(8) == b"worker2\n"
        lab.kill("worker2", with_containers=True)
        with pytest.raises(TimeoutError):  # no farewell: neither FIN nor RST came
            connection.recv(1)
    lab.kill("worker1", with_containers=True)
    assert lab.state("worker1") == "down"
    assert {name for _, of, name, _ in find_hosts() if of == lab.plan.name} == {"wire", "manager1"}
    lab.start("worker1")
    assert not host.running("container")
    assert reach(lab, "manager1", "worker1") == "worker1"


def test_a_paused_host_stands_still(lab: Lab) -> None:
    lab.pause("worker1")
    assert lab.state("worker1") == "paused"
    assert reach(lab, "manager1", "worker1", timeout_s=0.3) is None
    lab.resume("worker1")
    assert reach(lab, "manager1", "worker1") == "worker1"


def test_a_partition_separates_groups_until_healed(lab: Lab) -> None:
    lab.partition("manager1", "worker1")
    assert reach(lab, "manager1", "worker1", timeout_s=0.3) is None
    assert reach(lab, "manager1", "worker2") == "worker2"
    lab.partition("worker2")
    assert reach(lab, "manager1", "worker1") == "worker1"
    assert reach(lab, "worker2", "worker1", timeout_s=0.3) is None
    lab.heal()
    assert reach(lab, "worker2", "worker1") == "worker1"


def test_a_one_way_partition_loses_what_the_first_group_sends(lab: Lab) -> None:
    lab.partition("manager1", "worker1", one_way=True)
    assert _datagram_arrives(lab, "worker1", "manager1")
    assert not _datagram_arrives(lab, "manager1", "worker1")


def test_a_delayed_host_is_slow_both_ways_and_data_is_whole(lab: Lab) -> None:
    lab.delay("worker1", 0.03)
    with socket.create_connection((lab.plan.host("worker1").address, 8080), 5) as connection:
        connection.recv(8)
        begun_s = time.monotonic()
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        assert 0.06 <= time.monotonic() - begun_s < 1
        block = bytes(range(256)) * 4096
        connection.setblocking(True)
        received = bytearray()
        sent = 0
        while len(received) < len(block):
            if sent < len(block):
                sent += connection.send(block[sent : sent + 65536])
            received += connection.recv(65536)
        assert received == block
    lab.partition("manager1", "worker1")
    assert reach(lab, "manager1", "worker1", timeout_s=0.3) is None
    lab.heal()
    with socket.create_connection((lab.plan.host("worker1").address, 8080), 5) as connection:
        connection.recv(8)
        begun_s = time.monotonic()
        connection.sendall(b"x")
        connection.recv(1)
        assert time.monotonic() - begun_s < 0.05


def test_a_lossy_link_loses_everything_at_loss_one(lab: Lab) -> None:
    lab.delay("worker1", 0, loss=1.0)
    assert reach(lab, "manager1", "worker1", timeout_s=0.3) is None
    lab.delay("worker1", 0, loss=0.0)
    assert reach(lab, "manager1", "worker1") == "worker1"


def test_requests_that_cannot_be_met_say_why(lab: Lab) -> None:
    with pytest.raises(NotFound, match="worker9"):
        lab.kill("worker9")
    with pytest.raises(InvalidArgument, match="one group"):
        lab.partition("worker1", "worker1,worker2")
    with pytest.raises(InvalidArgument, match="both sides"):
        lab.partition("manager1,worker1,worker2")
    with pytest.raises(InvalidArgument, match="jitter"):
        lab.delay("worker1", 0.01, jitter_s=0.02)
    with pytest.raises(NotFound, match="lab up"):
        Lab.open("nowhere", run_root=lab.plan.run_root)


def test_labs_stand_side_by_side_and_leave_nothing(roots: tuple[Path, Path], lab: Lab) -> None:
    second = make(roots, workers=0)
    assert second.plan.number != lab.plan.number
    assert {each.plan.name for each in labs(roots[0])} == {lab.plan.name, second.plan.name}
    with pytest.raises(Conflict, match="already exists"):
        Lab.up(second.plan.name, 1, 0, run_root=roots[0], data_root=roots[1], daemon=DAEMON)
    second.down()
    second.down()
    assert second.plan.machine_link not in links()
    assert not second.plan.run_dir.exists() and not second.plan.data_dir.exists()
    assert second.plan.name not in {of for _, of, _, _ in find_hosts()}
    assert reach(lab, "manager1", "worker1") == "worker1"


def test_a_lab_that_cannot_start_is_cleaned_away_and_says_why(roots: tuple[Path, Path]) -> None:
    program = "import sys; sys.exit('no such luck')"
    with pytest.raises(Internal, match="no such luck"):
        make(roots, workers=0, daemon=(sys.executable, "-c", program))
    assert len(list(roots[0].iterdir())) <= 1  # the shared lab, where it is up


def test_what_a_crashed_lab_left_is_found_by_names() -> None:
    base = Path(tempfile.mkdtemp(prefix="swlab"))
    crashed = make((base / "run", base / "data"), workers=1)
    cgroup = _a_hierarchy() / crashed.plan.cgroup.lstrip("/") / "worker1" / "container"
    cgroup.mkdir(parents=True)
    (crashed.plan.run_dir / "lab.json").unlink()
    (crashed.plan.run_dir / "worker1" / "init.pid").unlink()
    assert down_all(base / "run", base / "data") == [crashed.plan.name]
    assert crashed.plan.name not in {of for _, of, _, _ in find_hosts()}
    assert not cgroup.parent.parent.exists()
    assert list(base.iterdir()) == []
    deadline_s = time.monotonic() + 5
    while crashed.plan.machine_link in links():  # the kernel takes namespaces apart in its own time
        assert time.monotonic() < deadline_s
    base.rmdir()


def _a_hierarchy() -> Path:
    """A mounted cgroup hierarchy in which cgroups may be made without ceremony."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.split()[0] in ("cgroup", "cgroup2"):
            return Path(fields.split()[4])
    pytest.skip("no cgroup file system is mounted")


def _datagram_arrives(lab: Lab, source: str, target: str) -> bool:
    """Whether a UDP datagram sent in `source` reaches `target`."""
    where = lab.plan.host(target).address
    receive = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 7)); s.settimeout(1)\n"
        "print('bound', flush=True)\nprint(s.recv(9).decode())"
    )
    send = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'arrived', ({where!r}, 7))"
    bare = [sys.executable, "-I", "-S", "-c"]
    with subprocess.Popen(
        lab.host(target).command([*bare, receive]), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as receiver:
        assert receiver.stdout is not None and receiver.stdout.readline() == "bound\n"
        _know_each_other(lab, source, target)
        lab.run(source, [*bare, send], check=True)
        return "arrived" in receiver.stdout.read()


def _know_each_other(lab: Lab, source: str, target: str) -> None:
    """The source has the target's MAC address, whose answer a one-way partition might swallow."""
    address = lab.plan.host(target).address
    mac = mac_for(IPv4Address(address))
    lab.host(source).with_links(
        lambda handle: handle.neigh(
            "replace", dst=address, lladdr=mac, ifindex=handle.link_lookup(ifname="eth0")[0], state=0x80
        )
    )
