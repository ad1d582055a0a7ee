"""A machine of pure cgroup v2 with systemd: the daemon as its service, and every limit as the kernel keeps it.

One machine for the whole module: what is asked goes through the docker client over TLS, and in the end swarmpy is
taken off it.
"""

from __future__ import annotations

from base64 import b64encode

import pytest

from tests.vm.agent import Outcome
from tests.vm.door import Door
from tests.vm.machine import Machine
from tests.vm.release import wheel

pytestmark = [pytest.mark.root, pytest.mark.cluster, pytest.mark.vm]

MIB = 1 << 20
FILES = (
    "memory.max", "memory.swap.max", "memory.low", "cpu.weight", "cpu.max", "cpuset.cpus", "pids.max", "io.max",
    "io.weight",
)  # fmt: skip
CURRENT = "readlink /opt/swarmpy/current"


def install(box: Machine, version: str, main: str, modules: str = "") -> Outcome:
    """deploy/install.sh with a later release (see release.py)."""
    path = f"/root/swarmpy-{version}-py3-none-any.whl"
    box.run(f"echo {b64encode(wheel(version, main, modules)).decode()} | base64 -d > {path}").ok()
    return box.run(f"sh /opt/tests/deploy/install.sh {path}", timeout_s=900)


def same_code(release: str) -> str:
    """The module of a release that runs the commands of another."""
    return f"""import os, sys
def main():
    command = "{release}/bin/" + os.path.basename(sys.argv[0])
    os.execv(command, [command, *sys.argv[1:]])
"""


def test_the_daemon_is_a_service_of_a_host_with_cgroup_v2_alone(box: Machine, door: Door) -> None:
    assert box.run("stat -fc %T /sys/fs/cgroup").ok() == "cgroup2fs"
    assert door.docker("info", "--format", "{{.CgroupVersion}}").ok() == "2"
    shown = box.run("systemctl show swarmpyd --property ActiveState,Type,Delegate,KillMode,OOMPolicy").ok()
    assert sorted(shown.split()) == [
        "ActiveState=active", "Delegate=yes", "KillMode=process", "OOMPolicy=continue", "Type=notify",
    ]  # fmt: skip


def test_the_runtimes_own_tests_pass_here(box: Machine) -> None:
    command = "cd /opt/tests && PYTHONPATH=. /opt/swarmpy/current/bin/python -m pytest -q tests/runtime/test_limits.py"
    outcome = box.run(f"{command} -p no:cacheprovider", timeout_s=900)
    assert outcome.code == 0, outcome.out + outcome.err


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


def test_containers_outlive_an_upgrade_and_keep_their_limits(box: Machine, door: Door) -> None:
    """The installer restarts the service and reloads systemd's view of the cgroups. The later release has the code of
    the one before, for what an emulated processor installs in a minute is small."""
    name = door.docker("run", "--detach", "--memory=64m", "--cpu-shares=2048", "busybox", "sleep", "1000").ok()
    pid = door.docker("inspect", "--format", "{{.State.Pid}}", name).ok()
    assert box.run(f"cat /proc/{pid}/oom_score_adj").ok() == "0"        # the daemon's own is -500
    first = box.run(CURRENT).ok()
    modules = box.run(f"ls -d {first}/lib/python3*/site-packages").ok()
    assert install(box, "9.1", same_code(first), modules).ok() == "swarmpy 0.1.0 is in /opt/swarmpy/current"
    assert box.run(CURRENT).ok() != first
    assert f"{first}\n" in box.run("ls -d /opt/swarmpy/releases/*").out, "the shims' release is gone"
    door.until("inspect", "--format", "{{.State.Status}} {{.State.Pid}}", name, shows=f"running {pid}", timeout_s=900)
    values = box.run(f"cd /sys/fs/cgroup/swarmpy/{name}; cat memory.max cpu.weight; cat /proc/{pid}/cgroup").ok()
    assert values.split() == [str(64 * MIB), "79", f"0::/swarmpy/{name}"]
    assert door.docker("exec", name, "cat", "/proc/self/oom_score_adj").ok() == "0"
    door.docker("rm", "--force", name).ok()


def test_a_release_that_does_not_start_is_taken_back(box: Machine, door: Door) -> None:
    name = door.docker("run", "--detach", "busybox", "sleep", "1000").ok()
    before = box.run(f"{CURRENT}; ls /opt/swarmpy/releases").ok()
    refused = install(box, "9.2", 'def main():\n    raise SystemExit("the new one is broken")\n')
    assert refused.code == 1 and "the new one is broken" in refused.err
    assert "the new release does not start; the one before it is in use again" in refused.err
    assert box.run(f"{CURRENT}; ls /opt/swarmpy/releases").ok() == before
    door.until("inspect", "--format", "{{.State.Status}}", name, shows="running", timeout_s=900)
    door.docker("rm", "--force", name).ok()


def test_it_is_taken_off_the_machine(box: Machine, door: Door) -> None:
    """Last: nothing is left, but first it refuses to end what still runs."""
    door.docker("run", "--detach", "--name=last", "--publish=8080:80", "busybox", "sleep", "1000").ok()
    # A copy, since the script takes its own release away.
    box.run("cp /opt/swarmpy/current/share/swarmpy/uninstall.sh /root/").ok()
    refused = box.run("sh /root/uninstall.sh --purge")
    assert refused.code == 1 and "1 containers still run" in refused.err
    taken_off = box.run("sh /root/uninstall.sh --purge --force", timeout_s=900)
    assert (taken_off.code, taken_off.err) == (0, "")
    assert box.run("ip -brief link").ok().split()[::4][:2] == ["lo", "eth0"]
    left = "ls -d /opt/swarmpy /var/lib/swarmpy /run/swarmpy* /etc/systemd/system/swarmpy* /sys/fs/cgroup/swarmpy"
    assert box.run(left).out == ""
    assert box.run("pgrep -af '[s]warmpy'").out == ""     # the brackets: not the shell that looks
