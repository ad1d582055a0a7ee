"""Options of `docker create`, one row each: it has its effect, or it is refused by name and no container exists.

Networks, volumes, restarts, health, logs and limits have tests of their own in `test_lifecycle.py`.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.engine.host import Host, until

pytestmark = [pytest.mark.root, pytest.mark.cluster]

# What a shell in the container prints; {net} and its kin are the namespaces of this process, and so of the daemon.
EFFECTS = [
    ("--add-host db:192.0.2.7", "grep db /etc/hosts", "192.0.2.7\tdb"),
    ("--annotation a=b", "echo fine", "fine"),
    ("--cap-add NET_ADMIN --cap-drop ALL", "grep CapBnd /proc/self/status", "CapBnd:\t0000000000001000"),
    ("--cgroupns host", "readlink /proc/self/ns/cgroup", "{cgroup}"),
    ("--cpuset-cpus 0 --cpuset-mems 0", "grep Cpus_allowed_list /proc/self/status", "Cpus_allowed_list:\t0"),
    ("--device /dev/null:/dev/other:r", "ls /dev/other", "/dev/other"),
    ("--dns 192.0.2.53 --dns-search example --dns-option ndots:3", "cat /etc/resolv.conf",
     "nameserver 192.0.2.53\nsearch example\noptions ndots:3"),
    ("--domainname example -h box", "cat /proc/sys/kernel/domainname; grep box /etc/hosts", "box.example box"),
    ("-e A=1", "echo $A", "1"),
    ("--group-add audio", "id -G", "0 63"),
    ("-h box", "hostname", "box"),
    ("--init", "cat /proc/1/cmdline | tr '\\0' ' '", "/sbin/docker-init -- sh -c"),
    ("--init=false", "cat /proc/1/cmdline | tr '\\0' ' '", "sh -c"),
    ("--init --pid host", "readlink /proc/self/ns/pid", "{pid}"),
    ("--ipc host", "readlink /proc/self/ns/ipc; ls -d /dev/mqueue", "{ipc}\n/dev/mqueue"),
    ("--ipc none", "test -e /dev/shm || echo none", "none"),
    ("--isolation default", "echo fine", "fine"),
    ("--mac-address 92:d0:c6:0a:29:33", "cat /sys/class/net/eth0/address", "92:d0:c6:0a:29:33"),
    ("--mount type=bind,src=/dev,dst=/x,readonly", "grep ' /x/shm ' /proc/mounts", "/x/shm tmpfs ro,"),
    ("--volume /dev:/x:ro", "grep ' /x/shm ' /proc/mounts", "/x/shm tmpfs ro,"),
    ("--mount type=bind,src=/dev,dst=/x,readonly,bind-recursive=readonly,bind-propagation=rprivate",
     "grep ' /x/shm ' /proc/mounts", "/x/shm tmpfs ro,"),
    ("--mount type=bind,src=/dev,dst=/x,readonly,bind-recursive=writable",
     "grep ' /x/shm ' /proc/mounts", "/x/shm tmpfs rw,"),
    ("--mount type=bind,src=/dev,dst=/x,bind-recursive=disabled", "grep -q ' /x/shm ' /proc/mounts || echo no", "no"),
    ("--mount type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=700", "grep ' /x ' /proc/mounts", "size=1024k,mode=700"),
    ("--network host", "readlink /proc/self/ns/net", "{net}"),
    ("--oom-score-adj 500", "cat /proc/self/oom_score_adj", "500"),
    ("--pid host", "readlink /proc/self/ns/pid", "{pid}"),
    ("--privileged", "grep Seccomp: /proc/self/status", "Seccomp:\t0"),
    ("--read-only", "grep '^overlay / ' /proc/mounts", "overlay / overlay ro,"),
    ("--runtime runc", "echo fine", "fine"),
    ("--security-opt no-new-privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"),
    ("--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status", "Seccomp:\t0"),
    ("--security-opt apparmor=unconfined --security-opt label=disable", "echo fine", "fine"),
    ("--security-opt systempaths=unconfined", "grep -q kcore /proc/mounts || echo all seen", "all seen"),
    ("--shm-size 10m", "grep /dev/shm /proc/mounts", "size=10240k"),
    ("--sysctl net.core.somaxconn=77", "cat /proc/sys/net/core/somaxconn", "77"),
    ("--sysctl kernel.shmmax=100000", "cat /proc/sys/kernel/shmmax", "100000"),
    ("--tmpfs /x:size=1m,exec", "grep ' /x ' /proc/mounts", "size=1024k"),
    ("-t", "tty", "/dev/pts/0"),
    ("--ulimit nofile=10:20", "ulimit -Sn; ulimit -Hn", "10\n20"),
    ("-u web:audio", "id -u; id -g", "33\n63"),
    ("--userns host", "readlink /proc/self/ns/user", "{user}"),
    ("--uts host", "readlink /proc/self/ns/uts", "{uts}"),
    ("-w /not/there/yet", "pwd", "/not/there/yet"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "script", "shown"), EFFECTS, ids=[row[0] for row in EFFECTS])
def test_an_option_has_its_effect(host: Host, options: str, script: str, shown: str) -> None:
    said = host.out("run", "--rm", *shlex.split(options), "busybox", "sh", "-c", script).replace("\r\n", "\n")
    namespaces = {link.name: link.readlink() for link in Path("/proc/self/ns").iterdir()}
    assert shown.format(**namespaces) in said


def test_an_entrypoint_of_ones_own(host: Host) -> None:
    assert host.out("run", "--rm", "--entrypoint", "echo", "busybox", "given", "to", "it") == "given to it"


def test_an_init_reaps_and_forwards_signals(host: Host) -> None:
    script = "trap 'exit 9' TERM; sh -c 'sleep 0.1 &'; echo ready; while :; do sleep 0.1; done"
    host.docker("run", "-d", "--init", "--name", "cared", "busybox", "sh", "-c", script)
    until("the trap is set", lambda: host.out("logs", "cared") == "ready")
    until("the orphan is reaped", lambda: "defunct" not in host.out("top", "cared"))
    assert host.inspect("cared")["HostConfig"]["Init"] is True
    assert host.inspect("cared")["Path"] == "sh"
    host.docker("stop", "cared")
    assert host.inspect("cared")["State"]["ExitCode"] == 9
    host.docker("start", "cared")
    assert host.inspect("cared")["State"]["Running"]
    host.docker("rm", "-f", "cared")
    missing = host.docker("run", "--rm", "--init", "busybox", "no-such-program", check=False)
    assert missing.returncode == 127


def test_an_init_where_sbin_is_a_link_and_on_a_read_only_root(host: Host, tmp_path: Path) -> None:
    merged = "mkdir -p /usr/sbin && ln -s usr/sbin /sbin"
    host.docker("run", "--name", "merged", "busybox", "sh", "-c", merged)
    archive = tmp_path / "merged.tar"
    host.docker("export", "-o", str(archive), "merged")
    host.docker("import", str(archive), "merged")
    shown = host.out("run", "--rm", "--init", "--read-only", "merged", "sh", "-c", "cat /proc/1/cmdline; ls -l /sbin")
    assert shown.startswith("/sbin/docker-init")
    host.docker("rm", "merged")
    host.docker("rmi", "merged")


def test_what_the_client_does_with_files(host: Host, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A=1\n")
    (tmp_path / "labels").write_text("tier=front\n")
    identity = tmp_path / "cid"
    files = ("--env-file", str(tmp_path / "env"), "--label-file", str(tmp_path / "labels"), "--cidfile", str(identity))
    container = host.out("create", *files, "busybox", "true")
    made = host.inspect(container)
    assert "A=1" in made["Config"]["Env"] and made["Config"]["Labels"]["tier"] == "front"
    assert identity.read_text() == container
    host.docker("rm", container)


def test_volumes_of_a_mount_have_its_labels(host: Host) -> None:
    mount = "type=volume,src=labelled,dst=/x,volume-label=tier=front,volume-nocopy"
    host.docker("run", "--rm", "--mount", mount, "busybox", "mkdir", "/x/sub")
    assert host.inspect("labelled")["Labels"] == {"tier": "front"}
    below = "type=volume,src=labelled,dst=/x,volume-subpath=sub"
    assert host.out("run", "--rm", "--mount", below, "busybox", "ls", "/x") == ""
    host.docker("volume", "rm", "labelled")


NOT_THERE = [
    ({"Links": ["db"]}, "HostConfig.Links"),
    ({"UsernsMode": "private"}, "HostConfig.UsernsMode"),
    ({"StorageOpt": {"size": "1G"}}, "HostConfig.StorageOpt"),
    ({"DeviceRequests": [{"Count": -1}]}, "HostConfig.DeviceRequests"),
    ({"CpuRealtimeRuntime": 1000}, "HostConfig.CpuRealtimeRuntime"),
    ({"CpuCount": 1}, "HostConfig.CpuCount"),
    ({"MemorySwappiness": 10}, "HostConfig.MemorySwappiness"),
    ({"Runtime": "kata"}, "HostConfig.Runtime"),
    ({"VolumeDriver": "nfs"}, "HostConfig.VolumeDriver"),
    ({"Isolation": "hyperv"}, "HostConfig.Isolation"),
    ({"LogConfig": {"Type": "syslog"}}, "HostConfig.LogConfig: the log driver 'syslog'"),
    ({"LogConfig": {"Type": "json-file", "Config": {"compress": "true"}}}, "log option 'compress=true'"),
    ({"SecurityOpt": ["apparmor=strict"]}, "HostConfig.SecurityOpt 'apparmor=strict'"),
    ({"Mounts": [{"Type": "image", "Source": "web", "Target": "/x"}]}, "HostConfig.Mounts: mounts of type 'image'"),
    ({"Mounts": [{"Type": "volume", "Target": "/x", "VolumeOptions": {"DriverConfig": {"Options": {"o": "bind"}}}}]},
     "HostConfig.Mounts: invalid mount config for type \"volume\": options o"),
    ({"Mounts": [{"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"Options": [["exec"]]}}]},
     "HostConfig.Mounts[0].TmpfsOptions.Options"),
    ({"PortBindings": {"80/sctp": [{}]}}, "sctp"),
    ({"FromTheFuture": 1}, "HostConfig.FromTheFuture"),
]  # fmt: skip
WRONG = [
    ({"Isolation": "strict"}, "HostConfig.Isolation"),
    ({"CapAdd": ["NOPE"]}, "HostConfig.CapAdd: invalid capability: unknown capability 'NOPE'"),
    ({"CpusetCpus": "0-"}, "HostConfig.CpusetCpus"),
    ({"Dns": ["ns.example"]}, "HostConfig.Dns"),
    ({"ExtraHosts": ["db"]}, "HostConfig.ExtraHosts: bad format for add-host: 'db'"),
    ({"IpcMode": "odd"}, "HostConfig.IpcMode"),
    ({"LogConfig": {"Type": "json-file", "Config": {"max-size": "big"}}}, "HostConfig.LogConfig: max-size"),
    ({"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/x", "BindOptions": {"Propagation": "odd"}}]},
     "HostConfig.Mounts: invalid mount config for type \"bind\": invalid propagation 'odd'"),
    ({"Mounts": [{"Type": "floppy", "Target": "/x"}]}, "HostConfig.Mounts: mount type unknown: 'floppy'"),
    ({"Binds": ["a/b:/x"]}, "HostConfig.Binds"),
    ({"PidMode": "container:nobody"}, "HostConfig.PidMode: No such container: nobody"),
    ({"SecurityOpt": ["odd=1"]}, "HostConfig.SecurityOpt: invalid option 'odd=1'"),
    ({"Sysctls": {"vm.swappiness": "1"}}, "HostConfig.Sysctls"),
    ({"Tmpfs": {"relative": ""}}, "'relative' must be an absolute path"),
    ({"Ulimits": [{"Name": "odd", "Soft": 1, "Hard": 1}]}, "invalid ulimit type: odd"),
    ({"VolumesFrom": ["nobody"]}, "HostConfig.VolumesFrom: No such container: nobody"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "config", "name"),
    [(501, config, name) for config, name in NOT_THERE] + [(400, config, name) for config, name in WRONG],
    ids=lambda value: str(value) if isinstance(value, int) else None,
)
def test_what_cannot_be_is_refused_by_name(host: Host, status: int, config: dict[str, Any], name: str) -> None:
    answer = host.request("POST", "/containers/create", {"Image": "busybox", "HostConfig": config})
    assert answer[0] == status, answer
    assert name in answer[1]["message"]
    assert host.out("ps", "-aq") == ""


def test_container_options_that_are_wrong_are_named(host: Host) -> None:
    for config, name in (
        ({"StopSignal": "NOPE"}, "StopSignal: invalid signal: NOPE"),
        ({"Hostname": "bad host"}, "Hostname: invalid hostname format"),
        ({"Domainname": "a" * 65}, "Domainname: 'aaa"),
        ({"MacAddress": "01:00:00:00:00:01"}, "MacAddress: '01:00:00:00:00:01'"),
        ({"MacAddress": "nonsense"}, "MacAddress: 'nonsense'"),
        ({"HostConfig": {"Memory": -1}}, "HostConfig.Memory must not be negative"),
        ({"WorkingDir": "relative"}, "WorkingDir: the working directory 'relative'"),
        ({"Env": ["=x"]}, "Env: invalid environment variable"),
        ({"Healthcheck": {"Test": ["ODD"]}}, "Healthcheck.Test"),
        ({"ExposedPorts": {"http": {}}}, "invalid port: 'http'"),
        ({"NetworkingConfig": {"EndpointsConfig": {"bridge": {"Aliases": ["db"]}}}}, "aliases are only supported"),
    ):
        status, said = host.request("POST", "/containers/create", {"Image": "busybox", **config})
        assert (status, name in said["message"]) == (400, True), said
    status, said = host.request("POST", "/containers/create", {"Image": "busybox", "FromTheFuture": 1})
    assert (status, "FromTheFuture" in said["message"]) == (501, True), said


def test_a_health_check_uses_the_shell_of_its_image(host: Host) -> None:
    body = {
        "Image": "busybox", "Cmd": ["sleep", "99"], "Shell": ["echo", "asked of"],
        "Healthcheck": {"Test": ["CMD-SHELL", "its own shell"], "Interval": 100_000_000},
    }  # fmt: skip
    _, made = host.request("POST", "/containers/create?name=shelled", body)
    host.docker("start", "shelled")
    until("it is healthy", lambda: host.inspect("shelled")["State"]["Health"]["Status"] == "healthy")
    assert "asked of its own shell" in host.inspect("shelled")["State"]["Health"]["Log"][0]["Output"]
    host.docker("rm", "-f", made["Id"])
