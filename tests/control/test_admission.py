"""What a service may ask: every field of ServiceSpec is taken, or refused by its path before anything is stored.

Each row is a change to a body that is accepted. It goes the whole way: the JSON of the API, and the leader's control.
"""

from __future__ import annotations

import asyncio
import base64
import copy
from random import Random
from typing import Any

import pytest

from swarmpy.api.swarm_json.service import service_spec_from_json
from swarmpy.errors import InvalidArgument, NotSupported
from swarmpy.manager.control import LeaderControl, NewSecrets
from swarmpy.manager.store import MemoryLog, Store, ids_from
from swarmpy.rpc.control_pb2 import CreateServiceRequest, UpdateServiceRequest
from swarmpy.rpc.types_pb2 import RootRotation
from swarmpy.worker.admission import check_runnable

NOW = 1_700_000_000_000_000_000
NEW = NewSecrets(lambda _: "token", lambda: "key", lambda *_: RootRotation(cert_pem="new"))
WEB: dict[str, Any] = {
    "Name": "web",
    "Labels": {"tier": "front", "com.example/owner": "ada"},
    "TaskTemplate": {"ContainerSpec": {"Image": "web:1"}},
    "Mode": {"Replicated": {"Replicas": 1}},
}
new_id = ids_from(Random(3))


def mounted(**mount: Any) -> list[dict[str, Any]]:
    return [{"Type": "volume", "Source": "v", "Target": "/x", **mount}]


NOT_THERE = [
    ("Mode", {"Global": {}}, "Mode.Global"),
    ("Mode", {"ReplicatedJob": {"MaxConcurrent": 1}}, "Mode.ReplicatedJob"),
    ("Mode", {"GlobalJob": {}}, "Mode.GlobalJob"),
    ("Networks", [{"Target": "n"}], "TaskTemplate.Networks"),
    ("EndpointSpec.Ports", [{"TargetPort": 80, "Protocol": "sctp"}], "EndpointSpec.Ports: protocol sctp"),
    ("FromTheFuture", 1, "FromTheFuture"),
    ("TaskTemplate.PluginSpec", {"Name": "x"}, "TaskTemplate.PluginSpec"),
    ("TaskTemplate.NetworkAttachmentSpec", {"ContainerID": "x"}, "TaskTemplate.NetworkAttachmentSpec"),
    ("TaskTemplate.Runtime", "plugin", "TaskTemplate.Runtime"),
    ("TaskTemplate.Networks", [{"Target": "n"}], "TaskTemplate.Networks"),
    ("TaskTemplate.LogDriver", {"Name": "syslog"}, "TaskTemplate.LogDriver: the log driver 'syslog'"),
    ("TaskTemplate.LogDriver", {"Name": "json-file", "Options": {"mode": "x"}}, "TaskTemplate.LogDriver: the log"),
    ("TaskTemplate.Resources.Reservations", {"GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu"}}]},
     "TaskTemplate.Resources.Reservations.GenericResources"),
    ("TaskTemplate.Resources.Reservations", {"Pids": 1}, "TaskTemplate.Resources.Reservations.Pids"),
    ("TaskTemplate.Resources.SwapBytes", 1, "TaskTemplate.Resources.SwapBytes"),
    ("ContainerSpec.Secrets", [{"SecretID": "x"}], "ContainerSpec.Secrets"),
    ("ContainerSpec.Configs", [{"ConfigID": "x"}], "ContainerSpec.Configs"),
    ("ContainerSpec.Isolation", "hyperv", "ContainerSpec.Isolation: 'hyperv'"),
    ("ContainerSpec.Privileges", {"CredentialSpec": {"File": "x"}}, "ContainerSpec.Privileges.CredentialSpec"),
    ("ContainerSpec.Privileges", {"SELinuxContext": {"Disable": True}}, "ContainerSpec.Privileges.SELinuxContext"),
    ("ContainerSpec.Mounts", mounted(Type="image"), "ContainerSpec.Mounts[0].Type: mounts of type image"),
    ("ContainerSpec.Mounts", mounted(Type="cluster"), "ContainerSpec.Mounts[0].Type: mounts of type cluster"),
    ("ContainerSpec.Mounts", mounted(VolumeOptions={"DriverConfig": {"Name": "nfs"}}), "volume driver 'nfs'"),
    ("ContainerSpec.Mounts", mounted(VolumeOptions={"DriverConfig": {"Options": {"o": "bind"}}}), "options o"),
    ("ContainerSpec.Mounts", mounted(Type="tmpfs", Source="", TmpfsOptions={"Options": [["exec"]]}),
     "ContainerSpec.Mounts[0].TmpfsOptions.Options"),
    ("ContainerSpec.Mounts", mounted(ImageOptions={"Subpath": "a"}), "ContainerSpec.Mounts[0].ImageOptions"),
]  # fmt: skip
WRONG = [
    ("Name", "-web", "Name: '-web'"),
    ("Mode.Replicated.Replicas", -1, "Mode.Replicated.Replicas"),
    ("Mode.Replicated.Replicas", 1 << 40, "Mode.Replicated.Replicas"),
    ("UpdateConfig", {"Parallelism": -1}, "UpdateConfig.Parallelism"),
    ("UpdateConfig", {"Delay": -1}, "UpdateConfig.Delay"),
    ("UpdateConfig", {"FailureAction": "cry"}, "UpdateConfig.FailureAction"),
    ("UpdateConfig", {"Monitor": -1}, "UpdateConfig.Monitor"),
    ("UpdateConfig", {"MaxFailureRatio": 2}, "UpdateConfig.MaxFailureRatio"),
    ("UpdateConfig", {"Order": "sideways"}, "UpdateConfig.Order"),
    ("RollbackConfig", {"FailureAction": "rollback"}, "RollbackConfig.FailureAction"),
    ("EndpointSpec.Mode", "anycast", "EndpointSpec.Mode"),
    ("EndpointSpec.Ports", [{"TargetPort": 0}], "EndpointSpec.Ports[0].TargetPort"),
    ("EndpointSpec.Ports", [{"TargetPort": 80, "PublishMode": "odd"}], "EndpointSpec.Ports[0].PublishMode"),
    ("TaskTemplate.ForceUpdate", -1, "TaskTemplate.ForceUpdate"),
    ("TaskTemplate.RestartPolicy", {"Condition": "odd"}, "TaskTemplate.RestartPolicy.Condition"),
    ("TaskTemplate.RestartPolicy", {"Delay": -1}, "TaskTemplate.RestartPolicy.Delay"),
    ("TaskTemplate.RestartPolicy", {"MaxAttempts": -1}, "TaskTemplate.RestartPolicy.MaxAttempts"),
    ("TaskTemplate.RestartPolicy", {"Window": -1}, "TaskTemplate.RestartPolicy.Window"),
    ("TaskTemplate.Placement", {"Constraints": ["node.colour == red"]}, "Placement.Constraints: constraint"),
    ("TaskTemplate.Placement", {"Preferences": [{"Spread": {"SpreadDescriptor": "rack"}}]}, "Placement.Preferences: "),
    ("TaskTemplate.Placement", {"MaxReplicas": -1}, "TaskTemplate.Placement.MaxReplicas"),
    ("TaskTemplate.LogDriver", {"Name": "json-file", "Options": {"max-size": "big"}}, "LogDriver: max-size: 'big'"),
    ("TaskTemplate.LogDriver", {"Name": "json-file", "Options": {"odd": "1"}}, "LogDriver: unknown log option 'odd'"),
    ("TaskTemplate.Resources.Limits", {"NanoCPUs": 1_000_000}, "TaskTemplate.Resources.Limits.NanoCPUs"),
    ("TaskTemplate.Resources.Limits", {"MemoryBytes": 5 << 20}, "TaskTemplate.Resources.Limits.MemoryBytes"),
    ("TaskTemplate.Resources.Limits", {"Pids": -1}, "TaskTemplate.Resources.Limits.Pids"),
    ("TaskTemplate.Resources.Reservations", {"NanoCPUs": -1}, "TaskTemplate.Resources.Reservations.NanoCPUs"),
    ("ContainerSpec.Image", "", "ContainerSpec.Image"),
    ("ContainerSpec.Image", "web 1", "ContainerSpec.Image"),
    ("ContainerSpec.Hostname", "bad host", "ContainerSpec.Hostname: invalid hostname format"),
    ("ContainerSpec.Hostname", "{{.Nope}}", "ContainerSpec.Hostname: {{.Nope}} is not a placeholder"),
    ("ContainerSpec.Env", ["=x"], "ContainerSpec.Env"),
    ("ContainerSpec.Env", ["A={{.Service.Nope}}"], "ContainerSpec.Env: A: {{.Service.Nope}} is not a placeholder"),
    ("ContainerSpec.Env", ["A={{.Service.Labels.nope}}"], "Env: A: {{.Service.Labels.nope}} asks for a label"),
    ("ContainerSpec.Env", ["A={{.Task.Slot"], "ContainerSpec.Env: A: a '{{' is not closed"),
    ("ContainerSpec.Dir", "relative", "ContainerSpec.Dir"),
    ("ContainerSpec.Privileges", {"Seccomp": {"Mode": "odd"}}, "ContainerSpec.Privileges.Seccomp.Mode"),
    ("ContainerSpec.Privileges", {"Seccomp": {"Mode": "custom"}}, "ContainerSpec.Privileges.Seccomp.Profile"),
    ("ContainerSpec.Privileges", {"Seccomp": {"Mode": "custom", "Profile": "%"}},
     "ContainerSpec.Privileges.Seccomp.Profile: is not base64"),
    ("ContainerSpec.Privileges", {"Seccomp": {"Mode": "custom", "Profile": base64.b64encode(b"{").decode()}},
     "ContainerSpec.Privileges.Seccomp.Profile: the seccomp profile is not JSON"),
    ("ContainerSpec.Privileges", {"AppArmor": {"Mode": "odd"}}, "ContainerSpec.Privileges.AppArmor.Mode"),
    ("ContainerSpec.Mounts", mounted(Type="floppy"), "ContainerSpec.Mounts[0].Type"),
    ("ContainerSpec.Mounts", mounted(Target="x"), "ContainerSpec.Mounts: "),
    ("ContainerSpec.Mounts", mounted(Source="a/b"), "ContainerSpec.Mounts: "),
    ("ContainerSpec.Mounts", mounted() * 2, "ContainerSpec.Mounts: two mounts"),
    ("ContainerSpec.Mounts", mounted(Type="bind"), "ContainerSpec.Mounts: "),
    ("ContainerSpec.Mounts", mounted(Type="tmpfs"), "ContainerSpec.Mounts: "),
    ("ContainerSpec.Mounts", mounted(Consistency="odd"), "ContainerSpec.Mounts[0].Consistency"),
    ("ContainerSpec.Mounts", mounted(Type="bind", Source="/a", BindOptions={"Propagation": "odd"}),
     "invalid propagation 'odd'"),
    ("ContainerSpec.Mounts", mounted(VolumeOptions={"Subpath": "../a"}), "Subpath '../a'"),
    ("ContainerSpec.Mounts", mounted(BindOptions={"Propagation": "shared"}), "BindOptions must not be specified"),
    ("ContainerSpec.StopSignal", "NOPE", "ContainerSpec.StopSignal: invalid signal: NOPE"),
    ("ContainerSpec.StopGracePeriod", -1, "ContainerSpec.StopGracePeriod"),
    ("ContainerSpec.Healthcheck", {"Test": ["ODD"]}, "ContainerSpec.Healthcheck: "),
    ("ContainerSpec.Healthcheck", {"Interval": 5}, "ContainerSpec.Healthcheck: Interval"),
    ("ContainerSpec.Hosts", ["nonsense"], "ContainerSpec.Hosts: 'nonsense'"),
    ("ContainerSpec.Hosts", ["x db"], "ContainerSpec.Hosts: "),
    ("ContainerSpec.DNSConfig", {"Nameservers": ["ns"]}, "ContainerSpec.DNSConfig.Nameservers: bad nameserver"),
    ("ContainerSpec.OomScoreAdj", 5000, "ContainerSpec.OomScoreAdj"),
    ("ContainerSpec.Isolation", "strict", "ContainerSpec.Isolation: 'strict' is not one of"),
    ("ContainerSpec.Sysctls", {"vm.swappiness": "1"}, "ContainerSpec.Sysctls: sysctl 'vm.swappiness'"),
    ("ContainerSpec.CapabilityAdd", ["NOPE"], "ContainerSpec.CapabilityAdd: invalid capability"),
    ("ContainerSpec.CapabilityDrop", ["NOPE"], "ContainerSpec.CapabilityDrop: invalid capability"),
    ("ContainerSpec.Ulimits", [{"Name": "odd", "Soft": 1, "Hard": 1}], "ContainerSpec.Ulimits: invalid ulimit type"),
    ("ContainerSpec.Ulimits", [{"Name": "nofile", "Soft": 2, "Hard": 1}], "ContainerSpec.Ulimits: ulimit nofile"),
]  # fmt: skip
TAKEN = [
    ("ContainerSpec.Init", True),
    ("ContainerSpec.Isolation", "default"),
    ("ContainerSpec.Hostname", "{{.Node.Hostname}}-{{.Task.Slot}}"),
    ("ContainerSpec.Env", ["A={{.Service.Labels.tier}} {{index .Service.Labels \"com.example/owner\"}}", "B={x}"]),
    ("ContainerSpec.Mounts", mounted(Source="v-{{.Task.Slot}}", VolumeOptions={"Labels": {"a": "b"}, "Subpath": "s"})),
    ("ContainerSpec.Mounts", mounted(Type="bind", Source="/a", ReadOnly=True, BindOptions={"CreateMountpoint": True})),
    ("ContainerSpec.Privileges", {"CredentialSpec": None, "SELinuxContext": {"Disable": False, "User": ""}}),
    ("ContainerSpec.Secrets", []),
    ("TaskTemplate.LogDriver", {"Name": "json-file", "Options": {"max-size": "1m", "max-file": "3"}}),
    ("TaskTemplate.LogDriver", {"Name": "none"}),
    ("TaskTemplate.Resources", {"Limits": {"NanoCPUs": 64_000_000_000, "MemoryBytes": 1 << 44, "Pids": 10}}),
    ("EndpointSpec.Mode", "dnsrr"),
    ("FromTheFuture", None),
]


def changed(path: str, value: object) -> dict[str, Any]:
    """The body with one field set. A path that begins with ContainerSpec is of the task's template."""
    body = copy.deepcopy(WEB)
    names = (f"TaskTemplate.{path}" if path.startswith("ContainerSpec") else path).split(".")
    place = body
    for name in names[:-1]:
        place = place.setdefault(name, {})
    place[names[-1]] = value
    return body


def leader() -> tuple[LeaderControl, Store]:
    store = Store(lambda: NOW)
    log = MemoryLog(store)
    store.bind(log)
    return LeaderControl(store, log, lambda: NOW, NEW, check_runnable), store


@pytest.mark.parametrize(
    ("kind", "path", "value", "name"),
    [(NotSupported, *row) for row in NOT_THERE] + [(InvalidArgument, *row) for row in WRONG],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_is_refused_by_its_path_and_changes_nothing(
    kind: type[Exception], path: str, value: object, name: str
) -> None:
    async def scenario() -> None:
        control, store = leader()
        with pytest.raises(kind) as refusal:
            await control.create_service(
                CreateServiceRequest(id=new_id(), spec=service_spec_from_json(changed(path, value)))
            )
        assert name in str(refusal.value)
        assert not len(store.services) and not len(store.templates)

        made = await control.create_service(CreateServiceRequest(id=new_id(), spec=service_spec_from_json(WEB)))
        index = store.index
        with pytest.raises(kind) as refusal:
            await control.update_service(
                UpdateServiceRequest(
                    id=made.service.id, version=made.service.meta.version,
                    spec=service_spec_from_json(changed(path, value)),
                )
            )
        assert name in str(refusal.value)
        assert store.index == index

    asyncio.run(scenario())


@pytest.mark.parametrize(("path", "value"), TAKEN, ids=lambda value: value if isinstance(value, str) else "")
def test_what_can_be_is_taken(path: str, value: object) -> None:
    async def scenario() -> None:
        control, store = leader()
        spec = service_spec_from_json(changed(path, value))
        made = await control.create_service(CreateServiceRequest(id=new_id(), spec=spec))
        assert store.services[made.service.id].spec == spec

    asyncio.run(scenario())
