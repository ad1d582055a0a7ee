"""The swarm's objects in JSON: what is read is what is shown again, and what is not there yet is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swarmpy.api.fields import Fields
from swarmpy.api.swarm_events import swarm_events
from swarmpy.api.swarm_json.cluster import swarm_spec_from_json, swarm_to_json
from swarmpy.api.swarm_json.node import node_spec_from_json, node_to_json
from swarmpy.api.swarm_json.service import service_spec_from_json, service_spec_to_json
from swarmpy.engine.times import format_rfc3339
from swarmpy.errors import InvalidArgument, NotSupported
from swarmpy.manager.replicated_log import LogMember
from swarmpy.manager.store import Event, EventKind
from swarmpy.rpc.types_pb2 import Cluster, Node, Service

SECOND = 1_000_000_000
WEB: dict[str, Any] = {
    "Name": "web",
    "Labels": {"tier": "front"},
    "TaskTemplate": {
        "ContainerSpec": {
            "Image": "web:1", "Labels": {"a": "b"}, "Command": ["/bin/httpd"], "Args": ["-f"],
            "Hostname": "web-{{.Task.Slot}}", "Env": ["A=1"], "Dir": "/srv", "User": "1000:1000", "Groups": ["5"],
            "TTY": True, "ReadOnly": True, "StopSignal": "SIGTERM", "StopGracePeriod": 3 * SECOND, "Init": False,
            "Mounts": [
                {"Type": "bind", "Source": "/srv", "Target": "/data", "ReadOnly": True,
                 "BindOptions": {"Propagation": "rprivate", "NonRecursive": True, "CreateMountpoint": True,
                                 "ReadOnlyNonRecursive": True, "ReadOnlyForceRecursive": True}},
                {"Type": "volume", "Source": "v", "Target": "/v", "Consistency": "cached",
                 "VolumeOptions": {"NoCopy": True, "Labels": {"a": "b"}, "Subpath": "s",
                                   "DriverConfig": {"Name": "local", "Options": {"o": "bind"}}}},
                {"Type": "tmpfs", "Target": "/tmp", "TmpfsOptions": {"SizeBytes": 65536, "Mode": 448}},
            ],
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": SECOND, "Retries": 3},
            "Hosts": ["10.1.1.1 db"], "DNSConfig": {"Nameservers": ["10.0.0.53"], "Search": ["example"]},
            "Sysctls": {"net.core.somaxconn": "1024"}, "CapabilityAdd": ["CAP_NET_RAW"],
            "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}],
            "Privileges": {"CredentialSpec": None, "SELinuxContext": None, "NoNewPrivileges": True},
            "Isolation": "default",
        },
        "Resources": {"Limits": {"NanoCPUs": SECOND // 2, "MemoryBytes": 1 << 26, "Pids": 50},
                      "Reservations": {"MemoryBytes": 1 << 25}},
        "RestartPolicy": {"Condition": "on-failure", "Delay": SECOND, "MaxAttempts": 3, "Window": 60 * SECOND},
        "Placement": {"Constraints": ["node.role == worker"], "MaxReplicas": 2,
                      "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.rack"}}],
                      "Platforms": [{"Architecture": "amd64", "OS": "linux"}]},
        "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
        "ForceUpdate": 1,
        "Runtime": "container",
    },
    "Mode": {"Replicated": {"Replicas": 3}},
    "UpdateConfig": {"Parallelism": 2, "Delay": SECOND, "FailureAction": "rollback", "Monitor": 5 * SECOND,
                     "MaxFailureRatio": 0.1, "Order": "start-first"},
    "RollbackConfig": {"Parallelism": 1, "FailureAction": "pause", "MaxFailureRatio": 0, "Order": "stop-first"},
    "EndpointSpec": {"Mode": "vip", "Ports": [
        {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"},
        {"Protocol": "udp", "TargetPort": 53, "PublishMode": "host"},
    ]},
}
CONTAINER = ("TaskTemplate", "ContainerSpec")


def changed(path: tuple[str, ...], value: object) -> Any:
    spec: Any = json.loads(json.dumps(WEB))
    place = spec
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return spec


def test_a_service_spec_survives_the_round_trip() -> None:
    assert json.loads(json.dumps(service_spec_to_json(service_spec_from_json(WEB)))) == WEB


def test_credentials_are_never_shown() -> None:
    spec = service_spec_from_json(WEB)
    spec.task.container.registry_auth = "c2VjcmV0"
    assert "c2VjcmV0" not in json.dumps(service_spec_to_json(spec))


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        (("Mode",), {"Global": {}}, "Mode.Global"),
        ((*CONTAINER, "Secrets"), [{"SecretID": "x"}], "TaskTemplate.ContainerSpec.Secrets"),
        (("TaskTemplate", "Runtime"), "plugin", "TaskTemplate.Runtime"),
        (("TaskTemplate", "Resources", "Limits", "GenericResources"), [{}], "TaskTemplate.Resources.Limits"),
    ],
)
def test_what_is_not_there_yet_is_named(path: tuple[str, ...], value: object, name: str) -> None:
    with pytest.raises(NotSupported) as refusal:
        service_spec_from_json(changed(path, value))
    assert str(refusal.value).startswith(name)


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ((*CONTAINER, "Env"), "A=1", "TaskTemplate.ContainerSpec.Env: expected a list"),
        ((*CONTAINER, "Env"), [1], r"Env\[0\]: expected a string, found a number"),
        (("Mode", "Replicated", "Replicas"), -1, "Mode.Replicated.Replicas: -1 is out of range"),
        (("EndpointSpec", "Ports"), [{"TargetPort": 99999}], r"EndpointSpec.Ports\[0\].TargetPort: 99999"),
        (("UpdateConfig", "Order"), "sideways", "UpdateConfig.Order: 'sideways' is not one of"),
        (("Labels",), {"a": 1}, "Labels.a: expected a string"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(path: tuple[str, ...], value: object, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        service_spec_from_json(changed(path, value))


def test_a_node_shows_its_place_among_the_managers() -> None:
    node = Node(id="n1", spec=node_spec_from_json({"Role": "manager", "Availability": "drain", "Labels": {"a": "b"}}))
    member = LogMember(raft_id=1, node_id="n1", addr="10.0.0.1:2377", voter=True, reachable=True, leader=True)
    shown = node_to_json(node, member)
    assert shown["Spec"] == {"Labels": {"a": "b"}, "Role": "manager", "Availability": "drain"}
    assert shown["ManagerStatus"] == {"Leader": True, "Reachability": "reachable", "Addr": "10.0.0.1:2377"}
    assert "ManagerStatus" not in node_to_json(node, None)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ({"CAConfig": {"ExternalCAs": [{"URL": "x"}]}}, "CAConfig.ExternalCAs"),
        ({"TaskDefaults": {"LogDriver": {"Name": "syslog"}}}, "TaskDefaults.LogDriver"),
        ({"Raft": {"FromTheFuture": 1}}, "Raft.FromTheFuture"),
    ],
)
def test_what_swarms_do_not_have_yet_is_named(spec: dict[str, Any], name: str) -> None:
    with pytest.raises(NotSupported, match=name):
        swarm_spec_from_json(Fields(spec))


def test_what_a_swarm_shows_can_be_sent_back() -> None:
    spec = swarm_spec_from_json(Fields({"Labels": {"a": "b"}, "Orchestration": {"TaskHistoryRetentionLimit": -1}}))
    assert spec.task_history_limit == -1
    shown = swarm_to_json(Cluster(spec=spec))["Spec"]
    assert swarm_spec_from_json(Fields(shown)).annotations.labels == {"a": "b"}


@pytest.mark.parametrize(
    ("body", "kind", "name"),
    [
        ({"Availability": "active"}, InvalidArgument, "Role: must be given"),
        ({"Role": "worker"}, InvalidArgument, "Availability: must be given"),
        ({"Role": "chief", "Availability": "active"}, InvalidArgument, "Role: 'chief' is not one of"),
        ({"Role": "worker", "Availability": "asleep"}, InvalidArgument, "Availability: 'asleep'"),
        ({"Role": "worker", "Availability": "active", "Labels": {"a": 1}}, InvalidArgument, "Labels.a"),
        ({"Role": "worker", "Availability": "active", "Taints": ["x"]}, NotSupported, "Taints"),
    ],
)
def test_a_node_spec_is_read_strictly(body: object, kind: type[Exception], name: str) -> None:
    with pytest.raises(kind, match=name):
        node_spec_from_json(body)


def test_times_keep_their_nanoseconds() -> None:
    assert format_rfc3339(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456789Z"
    assert format_rfc3339(0) == "0001-01-01T00:00:00Z"


def test_a_scaled_service_is_an_event_and_its_bookkeeping_is_not() -> None:
    old = Service(id="s", spec=service_spec_from_json(WEB))
    new = Service(id="s", spec=service_spec_from_json(WEB))
    assert list(swarm_events(Event(EventKind.UPDATE, "services", new.id, new, old, 9))) == []
    new.spec.mode.replicated.replicas = 10
    (event,) = swarm_events(Event(EventKind.UPDATE, "services", new.id, new, old, 9))
    assert event.attributes == {"name": "web", "replicas.old": "3", "replicas.new": "10"}


def test_what_a_service_shows_reads_back_to_the_same_tasks() -> None:
    """`docker service scale` sends back what it was shown; tasks must not be replaced for that."""
    sent = {
        "Name": "web",
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "busybox", "Init": False, "DNSConfig": {}, "Healthcheck": {"Test": ["CMD", "x"]},
            },
            "Resources": {"Limits": {}, "Reservations": {}}, "Placement": {}, "ForceUpdate": 0,
        },
        "Mode": {"Replicated": {"Replicas": 3}},
    }  # fmt: skip
    spec = service_spec_from_json(sent)
    assert list(spec.task.container.healthcheck.test) == ["CMD", "x"]
    again = service_spec_from_json(service_spec_to_json(spec))
    assert again.task.SerializeToString(deterministic=True) == spec.task.SerializeToString(deterministic=True)
