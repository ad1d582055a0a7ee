"""A machine of pure cgroup v2 with systemd: the daemon as its service, and the runtime's own tests of limits."""

from __future__ import annotations

import pytest

from tests.vm.door import Door
from tests.vm.machine import Machine

pytestmark = [pytest.mark.root, pytest.mark.cluster, pytest.mark.vm]


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
