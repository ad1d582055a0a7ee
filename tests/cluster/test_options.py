"""Options of `docker service create` and `update`, one row each: it has its effect, or the client says at once why not.

How an option of a spec is refused, field by field, is in `tests/control/test_admission.py`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cluster.swarm import Swarm, get, until

pytestmark = [pytest.mark.root, pytest.mark.cluster]

SHAPE = (1, 1)


@dataclass(frozen=True)
class Row:
    """`probe` is a script for a shell in the task's container, or a template for `docker inspect` of it.

    It shows `before` with the options of `create`, and `after` with those of `update` on top. HOST stands for the
    node's name.
    """

    create: str
    probe: str
    before: str
    update: str
    after: str
    probe_after: str = ""


ROWS = [
    Row("--cap-add NET_ADMIN", "grep CapBnd /proc/1/status", "00000000a80435fb",
        "--cap-drop NET_ADMIN --cap-drop CHOWN", "00000000a80425fa"),
    Row("--dns 192.0.2.1 --dns-search one --dns-option ndots:1", "cat /etc/resolv.conf",
        "nameserver 192.0.2.1\nsearch one\noptions ndots:1",
        "--dns-add 192.0.2.2 --dns-rm 192.0.2.1 --dns-search-add two --dns-search-rm one "
        "--dns-option-add ndots:2 --dns-option-rm ndots:1", "nameserver 192.0.2.2\nsearch two\noptions ndots:2"),
    Row("--entrypoint 'env X=1'", "cat /proc/1/environ", "X=1", "--entrypoint 'env X=2'", "X=2"),
    Row("-e A=1 -e B=1", "echo $A$B-$C", "11-", "--env-rm A --env-add C=3 --env-add B=2", "2-3"),
    Row("-e T={{.Service.Name}}/{{.Task.Slot}}/{{.Node.Platform.OS}}", "echo $T", "subject/1/linux",
        "--env-add T={{.Node.Hostname}}", "HOST"),
    Row("-l tier=front -e T={{.Service.Labels.tier}}", "echo $T", "front",
        "--label-add tier=back --env-add U=1", "back"),
    Row("-l a.b=dotted -e 'T={{index .Service.Labels \"a.b\"}}'", "echo $T", "dotted",
        "--env-rm T --label-rm a.b --env-add U=none", "none", "echo $T$U"),
    Row("--group 5 --group 7", "id -G", "0 5 7", "--group-rm 5 --group-add 9", "0 7 9"),
    Row("--host one:192.0.2.1", "cat /etc/hosts", "192.0.2.1\tone",
        "--host-rm one:192.0.2.1 --host-add two:192.0.2.2", "192.0.2.2\ttwo"),
    Row("--hostname h{{.Task.Slot}}-{{.Node.Hostname}}", "hostname", "h1-HOST", "--hostname plain", "plain"),
    Row("--init", "cat /proc/1/cmdline", "/sbin/docker-init", "--init=false", "sleep"),
    Row("--mount type=volume,source=v-{{.Task.Slot}},target=/x", "echo kept > /x/y; cat /x/y", "kept",
        "--mount-rm /x --mount-add type=bind,source=/dev,target=/z,readonly", "/z/shm tmpfs ro,",
        "grep ' /z/shm ' /proc/mounts"),
    Row("--mount type=bind,source=/dev,target=/x,bind-recursive=disabled",
        "grep -q ' /x/shm ' /proc/mounts || echo alone", "alone",
        "--mount-add type=bind,source=/dev,target=/x,readonly,bind-recursive=writable", "/x/shm tmpfs rw,",
        "grep ' /x/shm ' /proc/mounts"),
    Row("--mount type=tmpfs,target=/x,tmpfs-size=1m,tmpfs-mode=700", "grep ' /x ' /proc/mounts",
        "size=1024k,mode=700", "--mount-rm /x", "gone", "test -e /x || echo gone"),
    Row("--oom-score-adj 100", "cat /proc/1/oom_score_adj", "100", "--oom-score-adj 200", "200"),
    Row("--read-only", "grep '^overlay / ' /proc/mounts", "overlay ro,", "--read-only=false", "overlay rw,"),
    Row("--sysctl net.core.somaxconn=11 --sysctl net.ipv4.ip_default_ttl=70",
        "cat /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/ip_default_ttl", "11\n70",
        "--sysctl-add net.core.somaxconn=22 --sysctl-rm net.ipv4.ip_default_ttl", "22\n64"),
    Row("-t", "readlink /proc/1/fd/0", "/dev/pts/0", "--tty=false", "/dev/null"),
    Row("--ulimit nofile=10:20 --ulimit core=0", "ulimit -Hn -Hc", "20",
        "--ulimit-add nofile=30:40 --ulimit-rm core", "40"),
    Row("-u nobody", "grep Uid /proc/1/status", "65534", "--user 33:34", "33"),
    Row("-w /tmp", "readlink /proc/1/cwd", "/tmp", "-w /www", "/www"),
    Row("", "cat /proc/1/cmdline | tr '\\0' ' '", "sleep 1000", "--args 'sleep 2000'", "sleep 2000"),
    Row("--limit-cpu 0.5", "{{.HostConfig.NanoCpus}}", "500000000", "--limit-cpu 0.25", "250000000"),
    Row("--limit-memory 32m", "{{.HostConfig.Memory}}", "33554432", "--limit-memory 64m", "67108864"),
    Row("--limit-pids 10", "{{.HostConfig.PidsLimit}}", "10", "--limit-pids 20", "20"),
    Row("--reserve-memory 8m --reserve-cpu 0.1", "{{.HostConfig.MemoryReservation}}", "8388608",
        "--reserve-memory 16m", "16777216"),
    Row("--container-label a=1 --container-label b=1", "{{.Config.Labels.a}} {{.Config.Labels.b}}", "1 1",
        "--container-label-rm b --container-label-add a=2", "2 <no value>"),
    Row("--health-cmd true --health-interval 1s --health-retries 2 --health-timeout 4s --health-start-interval 100ms",
        "{{json .Config.Healthcheck}}",
        '"Interval":1000000000,"Timeout":4000000000,"StartInterval":100000000,"Retries":2}',
        "--health-retries 3 --health-start-period 3s",
        '"StartPeriod":3000000000,"StartInterval":100000000,"Retries":3'),
    Row("--health-cmd true --health-interval 100ms", "{{.State.Health.Status}}", "healthy",
        "--no-healthcheck", '["NONE"]', "{{json .Config.Healthcheck.Test}}"),
    Row("--log-driver none", "{{.HostConfig.LogConfig.Type}}", "none",
        "--log-driver json-file --log-opt max-size=1m", '{"Type":"json-file","Config":{"max-size":"1m"}}',
        "{{json .HostConfig.LogConfig}}"),
    Row("--stop-signal USR1 --stop-grace-period 3s", "{{.Config.StopSignal}} {{.Config.StopTimeout}}", "USR1 3",
        "--stop-signal 12 --stop-grace-period 4s", "12 4"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.create} / {row.update}" for row in ROWS])
def test_an_option_has_its_effect(swarm: Swarm, row: Row) -> None:
    quick = ("--stop-grace-period", "1s") if "grace" not in row.create else ()
    options = (*quick, *shlex.split(row.create))
    swarm.docker("service", "create", "-d", "--name", "subject", *options, "web:1", "sleep", "1000").ok()
    first = the_task(swarm)
    assert_shows(swarm, first, row.probe, row.before)
    swarm.docker("service", "update", "-d", *shlex.split(row.update), "subject").ok()
    second = the_task(swarm, after=first["ID"])
    assert_shows(swarm, second, row.probe_after or row.probe, row.after)


def the_task(swarm: Swarm, after: str = "") -> dict[str, Any]:
    """The one running task of the service, once it is another than `after`."""

    def find() -> dict[str, Any] | None:
        running = swarm.running("subject")
        found = [task for task in swarm.tasks("subject") if task["ID"] in running and task["ID"] != after]
        return found[0] if found else None

    return until(find, f"a running task: {[task['Status'] for task in swarm.tasks('subject')]}")


def assert_shows(swarm: Swarm, task: dict[str, Any], probe: str, wanted: str) -> None:
    host = swarm.names()[task["NodeID"]]
    container = task["Status"]["ContainerStatus"]["ContainerID"]
    words = ("inspect", "-f", probe) if probe.startswith("{{") else ("exec",)
    rest = () if probe.startswith("{{") else ("sh", "-c", probe)
    said = swarm.docker(*words, container, *rest, on=host).ok()
    assert wanted.replace("HOST", host) in said


def test_options_that_only_the_swarm_sees(swarm: Swarm) -> None:
    """They show in `service inspect`, and change no container."""
    create = (
        "--placement-pref", "spread=node.labels.rack", "--replicas-max-per-node", "2",
        "--restart-condition", "on-failure", "--restart-delay", "1s", "--restart-max-attempts", "3",
        "--restart-window", "1m", "--update-delay", "1s",
        "--update-failure-action", "continue", "--update-max-failure-ratio", "0.5", "--update-monitor", "2s",
        "--update-order", "start-first", "--update-parallelism", "0", "--rollback-delay", "1s",
        "--rollback-failure-action", "continue", "--rollback-max-failure-ratio", "0.5", "--rollback-monitor", "2s",
        "--rollback-order", "start-first", "--rollback-parallelism", "2", "--endpoint-mode", "dnsrr", "-l", "a=1",
        "--no-resolve-image", "--with-registry-auth",
    )  # fmt: skip
    swarm.docker("service", "create", "-d", "--name", "subject", *create, "web:1", "sleep", "1000").ok()
    first = the_task(swarm)
    spec = spec_of(swarm)
    rollout = {"Delay": 10**9, "FailureAction": "continue", "Monitor": 2 * 10**9, "MaxFailureRatio": 0.5,
               "Order": "start-first"}  # fmt: skip
    assert spec["UpdateConfig"] == {"Parallelism": 0, **rollout}
    assert spec["RollbackConfig"] == {"Parallelism": 2, **rollout}
    assert spec["TaskTemplate"]["RestartPolicy"] == {
        "Condition": "on-failure", "Delay": 10**9, "MaxAttempts": 3, "Window": 60 * 10**9,
    }  # fmt: skip
    placement = {"Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.rack"}}], "MaxReplicas": 2}
    assert {name: spec["TaskTemplate"]["Placement"][name] for name in placement} == placement
    assert (spec["EndpointSpec"]["Mode"], spec["Labels"]) == ("dnsrr", {"a": "1"})

    change = ("--label-rm", "a", "--label-add", "b=2", "--endpoint-mode", "vip", "--update-parallelism", "3",
              "--rollback-order", "stop-first", "--replicas", "2")  # fmt: skip
    swarm.docker("service", "update", "-d", *change, "subject").ok()
    swarm.converged("subject", 2)
    spec = spec_of(swarm)
    assert (spec["EndpointSpec"]["Mode"], spec["Labels"]) == ("vip", {"b": "2"})
    assert (spec["UpdateConfig"]["Parallelism"], spec["RollbackConfig"]["Order"]) == (3, "stop-first")
    assert first["ID"] in swarm.running("subject"), "a change of the service alone replaces no task"


def spec_of(swarm: Swarm) -> dict[str, Any]:
    spec: dict[str, Any] = swarm.api().services.get("subject").attrs["Spec"]
    return spec


def test_where_tasks_may_be(swarm: Swarm) -> None:
    swarm.docker("service", "create", "-d", "--name", "subject", "--constraint", "node.role==worker", "web:1").ok()
    assert set(swarm.converged("subject", 1).values()) == {"worker1"}
    move = ("--constraint-rm", "node.role==worker", "--constraint-add", "node.role==manager")
    swarm.docker("service", "update", "-d", *move, "subject").ok()
    until(lambda: set(swarm.running("subject").values()) == {"manager1"}, "the task to move")
    swarm.docker("service", "update", "-d", "--replicas", "2", "--replicas-max-per-node", "1", "subject").ok()
    until(lambda: "max replicas" in swarm.docker("service", "ps", "--no-trunc", "subject").out, "the reason")
    swarm.docker("service", "update", "-d", "--replicas-max-per-node", "0", "--reserve-cpu", "1000", "subject").ok()
    until(lambda: "insufficient resources" in swarm.docker("service", "ps", "--no-trunc", "subject").out, "the reason")


def test_ports_come_and_go(swarm: Swarm) -> None:
    def answers(port: int) -> bool:
        try:
            return bool(get(swarm.address("worker1"), port))
        except OSError:
            return False

    swarm.docker("service", "create", "-d", "--name", "subject", "-p", "8080:80", "web:1").ok()
    until(lambda: answers(8080), "the port to answer")
    swarm.docker("service", "update", "-d", "--publish-rm", "80", "--publish-add", "8081:80", "subject").ok()
    until(lambda: answers(8081) and not answers(8080), "the other port to answer in its place")
    swarm.docker("service", "update", "-d", "--publish-rm", "8081:80", "subject").ok()
    until(lambda: not answers(8081), "the port to close")


def test_more_cpus_than_a_node_has_are_no_limit_there(swarm: Swarm) -> None:
    swarm.docker("service", "create", "-d", "--name", "subject", "--limit-cpu", "1000", "web:1").ok()
    cpus = swarm.api().info()["NCPU"]
    assert_shows(swarm, the_task(swarm), "{{.HostConfig.NanoCpus}}", f"{cpus}000000000")


def test_a_task_ends_by_its_signal_within_its_grace(swarm: Swarm) -> None:
    script = "trap 'echo bye; exit 0' USR1; trap '' TERM; echo ready; while :; do sleep 0.1; done"
    options = ("--stop-signal", "USR1", "--stop-grace-period", "1m", "--init")
    swarm.docker("service", "create", "-d", "--name", "subject", *options, "web:1", "sh", "-c", script).ok()
    until(lambda: "ready" in swarm.docker("service", "logs", "subject").out, "the trap to be set")
    swarm.docker("service", "update", "-d", "--replicas", "0", "subject").ok()
    until(lambda: not swarm.running("subject"), "the task to end", 20)


REFUSED = [
    ("--cap-add NOPE", "CapabilityAdd", "CAP_NOPE"),
    ("--config c", "configs"),
    ("--constraint node.colour==red", "Placement.Constraints", "node.colour"),
    ("--credential-spec file://x", "CredentialSpec"),
    ("--endpoint-mode anycast", "EndpointSpec.Mode"),
    ("--env A={{.Task.Slott}}", "ContainerSpec.Env", "{{.Task.Slott}}"),
    ("--generic-resource gpu=1", "GenericResources"),
    ("--hostname bad_host!", "ContainerSpec.Hostname"),
    ("--isolation hyperv", "ContainerSpec.Isolation"),
    ("--limit-cpu 0.001", "Limits.NanoCPUs"),
    ("--limit-memory 1m", "Limits.MemoryBytes"),
    ("--log-driver syslog", "LogDriver", "syslog"),
    ("--mode global", "Mode.Global"),
    ("--mode replicated-job", "Mode.ReplicatedJob"),
    ("--mode global-job", "Mode.GlobalJob"),
    ("--mount type=cluster,source=a,target=/a", "Mounts[0].Type", "cluster"),
    ("--mount type=volume,source=a,target=/a,volume-driver=nfs", "volume driver 'nfs'"),
    ("--mount type=volume,source=a,target=/a,volume-opt=o=bind", "options o"),
    ("--network host", "TaskTemplate.Networks"),
    ("--oom-score-adj 5000", "OomScoreAdj"),
    ("--publish 80:80/sctp", "sctp"),
    ("--restart-condition odd", "RestartPolicy.Condition"),
    ("--secret s", "secrets"),
    ("--stop-signal NOPE", "StopSignal", "NOPE"),
    ("--sysctl vm.swappiness=1", "Sysctls", "vm.swappiness"),
    ("--update-order sideways", "UpdateConfig.Order"),
    ("--workdir relative", "ContainerSpec.Dir"),
]


def test_what_cannot_be_is_refused_at_once_and_by_name(swarm: Swarm) -> None:
    for options, *words in REFUSED:
        swarm.docker("service", "create", "--name", "subject", *shlex.split(options), "web:1").refused(*words)
    swarm.docker("network", "create", "--driver", "overlay", "net1").refused("overlay")
    assert swarm.docker("service", "ls", "-q").ok() == ""
