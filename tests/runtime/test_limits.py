"""Limits at work: containers in the real hierarchies of this machine, whatever their layout."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmpy.runtime import ExecProcess, RuntimeFailure
from swarmpy.runtime.cgroups import HostFiles, device_program
from swarmpy.runtime.cgroups.devices import parse_rules
from swarmpy.runtime.reader import Fields
from tests.runtime.conftest import CGROUP_PREFIX, Host

pytestmark = pytest.mark.root

WithHost = Callable[[Callable[[Host], Awaitable[None]]], None]


@pytest.fixture
def unified_cgroup() -> Iterator[Path]:
    """A cgroup of the machine's v2 hierarchy, wherever that is mounted."""
    mounts = [line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    unified = [fields.split()[4] for fields, tail in mounts if tail.startswith("cgroup2 ")]
    if not unified:
        pytest.skip("no cgroup v2 hierarchy is mounted")
    directory = Path(unified[0]) / f"{CGROUP_PREFIX}bpf"
    directory.mkdir()
    yield directory
    directory.rmdir()


def test_the_device_program_at_work(unified_cgroup: Path) -> None:
    """The real kernel asks the program: a process in the cgroup opens what the rules allow, and nothing else."""
    zero = {"allow": False, "type": "c", "major": 1, "minor": 5}
    rules = parse_rules(Fields({"devices": [{"allow": False}, zero]}, "r"))
    os.close(HostFiles().attach(str(unified_cgroup), device_program.assemble(rules), None))
    pid = os.fork()
    if pid == 0:
        (unified_cgroup / "cgroup.procs").write_text("0")
        code = 0
        for bit, path in enumerate(("/dev/null", "/dev/zero", "/dev/kmsg")):
            try:
                os.close(os.open(path, os.O_RDONLY))
            except PermissionError:
                code |= 1 << bit
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0b110


def test_limits_at_work(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        config = host.config("sh", "-c", "(sleep 0 & sleep 0 & sleep 0 & wait) 2>&1; echo x")
        config["linux"]["resources"]["pids"] = {"limit": 2}
        _, output = await host.run(config)
        assert "can't fork" in output
        container = await host.create(host.config("sleep", "100"))
        await container.start()
        await container.update({"memory": {"limit": 32 << 20, "swap": 64 << 20}, "cpu": {"shares": 512, "cpus": "0"}})
        stats: dict[str, Any] = await container.stats()
        assert stats["memory"]["limit"] == 32 << 20
        assert stats["memory"]["usage"] > 0 and stats["cpu"]["usage_ns"] > 0
        with pytest.raises(RuntimeFailure, match=r"linux.resources.cpu.cpus: write '4096' to .*cpuset.cpus: "):
            await container.update({"cpu": {"cpus": "4096"}})

    with_host(test)


def test_out_of_memory_is_told_apart(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        config = host.config("sh", "-c", "head -c 200m /dev/zero | tail")
        config["linux"]["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
        status, _ = await host.run(config)
        assert status.oom_killed and status.exit_code == 137
        config["process"]["args"] = ["tail", "/dev/zero"]
        status, _ = await host.run(config)
        assert (status.oom_killed, status.signal, status.exit_code) == (True, 9, 137)
        config["process"]["args"] = ["sleep", "1000"]
        container = await host.create(config)
        await container.start()
        await container.kill(9)
        status = await container.wait()
        assert (status.oom_killed, status.signal) == (False, 9)

    with_host(test)


def test_it_sees_its_own_cgroups_alone(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        _, output = await host.sh("cat /proc/self/cgroup; ls /sys/fs/cgroup; touch /sys/fs/cgroup/x")
        assert host.cgroup_parent not in output
        assert "Read-only file system" in output

    with_host(test)


@pytest.mark.parametrize("birth", ["moved", "born inside"])
def test_a_unified_hierarchy_at_work(with_host: WithHost, unified_cgroup: Path, birth: str) -> None:
    """An init that was ready moves into the v2 cgroup; one with unusual namespaces is born there."""

    async def test(host: Host) -> None:
        config = host.config("sleep", "1000")
        config["linux"]["resources"]["unified"] = {"cgroup.max.depth": "7"}
        if birth == "born inside":
            config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "ipc"]
        container = await host.create(config)
        await container.start()
        process = await container.exec(ExecProcess(["sleep", "1000"], env=["PATH=/bin"]))
        directory = Path(f"{unified_cgroup.parent}{host.cgroup_parent}/{container.id}")
        assert (directory / "cgroup.max.depth").read_text() == "7\n"
        members = {int(line) for line in (directory / "cgroup.procs").read_text().split()}
        assert members == {container.pid, process.pid}

    with_host(test)
