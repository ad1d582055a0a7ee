"""Every limit as the kernel of pure cgroup v2 keeps it, asked for through the docker client over TLS.

One machine for the whole module, which swarmpy is taken off in the end.
"""

from __future__ import annotations

import pytest

from tests.vm.door import Door
from tests.vm.machine import Machine

pytestmark = [pytest.mark.root, pytest.mark.cluster, pytest.mark.vm]

MIB = 1 << 20
FILES = (
    "memory.max", "memory.swap.max", "memory.low", "cpu.weight", "cpu.max", "cpuset.cpus", "pids.max", "io.max",
    "io.weight",
)  # fmt: skip


def test_limits_stand_in_the_kernels_files(door: Door) -> None:
    limits = [
        "--memory=64m", "--memory-swap=96m", "--memory-reservation=32m", "--cpu-shares=2048", "--cpus=0.5",
        "--cpuset-cpus=1", "--pids-limit=20", "--device-write-bps=/dev/vda:1mb", "--blkio-weight=500",
    ]  # fmt: skip
    script = f"cd /sys/fs/cgroup; for f in {' '.join(FILES)}; do echo $f $(cat $f); done; cat /proc/self/status"
    said = door.docker("run", "--rm", *limits, "busybox", "sh", "-c", script).ok()
    shown = dict(line.split(" ", 1) for line in said.splitlines() if line.split(" ")[0] in FILES)
    assert shown == {
        "memory.max": str(64 * MIB), "memory.swap.max": str(32 * MIB), "memory.low": str(32 * MIB), "cpu.weight": "79",
        "cpu.max": "50000 100000", "cpuset.cpus": "1", "pids.max": "20", "io.weight": "default 4950",
        "io.max": f"254:0 rbps=max wbps={MIB} riops=max wiops=max",
    }  # fmt: skip
    assert "Cpus_allowed_list:\t1\n" in said


def test_an_update_reaches_a_running_container(box: Machine, door: Door) -> None:
    name = door.docker("run", "--detach", "busybox", "sleep", "1000").ok()
    door.docker("update", "--memory=48m", "--memory-swap=48m", "--cpuset-cpus=0", "--pids-limit=9", name).ok()
    files = "memory.max memory.swap.max cpuset.cpus pids.max cpuset.cpus.effective"
    values = box.run(f"cd /sys/fs/cgroup/swarmpy/{name}; cat {files}").ok()
    assert values.split() == [str(48 * MIB), "0", "0", "9", "0"]
    door.docker("rm", "--force", name).ok()


def test_memory_beyond_the_limit_is_swap_and_beyond_that_the_end(box: Machine, door: Door) -> None:
    box.run("dd if=/dev/zero of=/swap bs=1M count=96 && chmod 600 /swap && mkswap /swap && swapon /swap").ok()
    grow = "busybox head -c 40m /dev/zero | busybox tail | busybox wc -c"
    with_swap = ["--memory=16m", "--memory-swap=96m"]
    assert door.docker("run", "--rm", *with_swap, "busybox", "sh", "-c", grow).ok() == str(40 * MIB)
    without = ["--memory=16m", "--memory-swap=16m", "--name=greedy"]
    assert door.docker("run", *without, "busybox", "busybox", "tail", "/dev/zero").code == 137
    assert door.docker("inspect", "--format", "{{.State.OOMKilled}}", "greedy").ok() == "true"
    door.docker("rm", "greedy").ok()


def test_processors_are_taken_away_when_the_quota_is_used(door: Door) -> None:
    script = """
        while :; do :; done & while ! busybox grep -q 'nr_throttled [1-9]' /sys/fs/cgroup/cpu.stat; do :; done
        kill $!; echo throttled"""
    assert door.docker("run", "--rm", "--cpus=0.2", "busybox", "sh", "-c", script).ok() == "throttled"


def test_a_fork_beyond_the_limit_fails(door: Door) -> None:
    outcome = door.docker("run", "--rm", "--pids-limit=3", "busybox", "sh", "-c", "sleep 9 & sleep 9 & sleep 9 & wait")
    assert "can't fork" in outcome.err


def test_devices_are_judged_by_the_program(door: Door) -> None:
    """One given for reading, one made by hand, and one that all have."""
    script = """
        busybox dd if=/dev/vda of=/dev/null count=1 2>&1 | busybox head -n 1
        busybox dd if=/dev/null of=/dev/vda conv=notrunc 2>&1
        busybox mknod /kmsg c 1 11; busybox dd if=/kmsg of=/dev/null count=1 2>&1; echo > /dev/null && echo null"""
    said = door.docker("run", "--rm", "--device=/dev/vda:/dev/vda:r", "busybox", "sh", "-c", script).ok()
    assert said.splitlines() == [
        "1+0 records in", "dd: can't open '/dev/vda': Operation not permitted",
        "dd: can't open '/kmsg': Operation not permitted", "null",
    ]  # fmt: skip


def test_a_pause_freezes_and_a_kill_ends_what_is_frozen(box: Machine, door: Door) -> None:
    name = door.docker("run", "--detach", "busybox", "sh", "-c", "while :; do :; done").ok()
    events = f"cat /sys/fs/cgroup/swarmpy/{name}/cgroup.events"
    door.docker("pause", name).ok()
    assert "frozen 1" in box.run(events).ok()
    door.docker("unpause", name).ok()
    assert "frozen 0" in box.run(events).ok()
    door.docker("pause", name).ok()
    door.docker("rm", "--force", name).ok()
    assert box.run(events).code != 0


def test_containers_outlive_a_restart_and_keep_their_limits(box: Machine, door: Door) -> None:
    """Of the service, and of systemd's own view of the cgroups."""
    name = door.docker("run", "--detach", "--memory=64m", "--cpu-shares=2048", "busybox", "sleep", "1000").ok()
    pid = door.docker("inspect", "--format", "{{.State.Pid}}", name).ok()
    assert box.run(f"cat /proc/{pid}/oom_score_adj").ok() == "0"        # the daemon's own is -500
    box.run("systemctl daemon-reload && systemctl restart swarmpyd", timeout_s=900).ok()
    door.until("inspect", "--format", "{{.State.Status}} {{.State.Pid}}", name, shows=f"running {pid}", timeout_s=900)
    values = box.run(f"cd /sys/fs/cgroup/swarmpy/{name}; cat memory.max cpu.weight; cat /proc/{pid}/cgroup").ok()
    assert values.split() == [str(64 * MIB), "79", f"0::/swarmpy/{name}"]
    assert door.docker("exec", name, "cat", "/proc/self/oom_score_adj").ok() == "0"
    door.docker("rm", "--force", name).ok()


def test_it_is_taken_off_the_machine(box: Machine, door: Door) -> None:
    """Last: nothing is left, but first it refuses to end what still runs."""
    door.docker("run", "--detach", "--name=last", "--publish=8080:80", "busybox", "sleep", "1000").ok()
    # A copy, since the script takes its own release away.
    box.run("cp /opt/swarmpy/current/share/swarmpy/uninstall.sh /root/").ok()
    refused = box.run("sh /root/uninstall.sh --purge")
    assert refused.code == 1 and "1 containers still run" in refused.err
    box.run("sh /root/uninstall.sh --purge --force", timeout_s=900).ok()
    assert box.run("ip -brief link").ok().split()[::4][:2] == ["lo", "eth0"]
    left = "ls -d /opt/swarmpy /var/lib/swarmpy /run/swarmpy* /etc/systemd/system/swarmpy* /sys/fs/cgroup/swarmpy"
    assert box.run(left).out == ""
    assert box.run("pgrep -f swarmpy").out == ""
