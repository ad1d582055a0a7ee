"""Reading what a user asks: every field is taken, refused by name, or known to change nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swarmpy.engine.checks import check_container, parse_port
from swarmpy.engine.config import (
    BindOptions,
    ContainerConfig,
    EndpointConfig,
    HealthConfig,
    HostConfig,
    IPAMConfig,
    LogConfig,
    Mount,
    NetworkingConfig,
    PortBinding,
    RestartPolicy,
    Ulimit,
    VolumeDriver,
    VolumeOptions,
)
from swarmpy.engine.image_config import arguments, merge
from swarmpy.engine.log_options import check_log_options, log_attributes, log_limits, parse_size
from swarmpy.engine.mounts import wanted_mounts
from swarmpy.engine.record import ContainerRecord
from swarmpy.engine.schema import read, write
from swarmpy.engine.updates import read_update
from swarmpy.errors import InvalidArgument, NotSupported

# What `docker run busybox true` sends as HostConfig (client 28), all of it defaults.
CLIENT_DEFAULTS: dict[str, Any] = json.loads("""
{"Binds":null,"ContainerIDFile":"","LogConfig":{"Type":"","Config":{}},"NetworkMode":"default","PortBindings":{},
"RestartPolicy":{"Name":"no","MaximumRetryCount":0},"AutoRemove":false,"VolumeDriver":"","VolumesFrom":null,
"ConsoleSize":[0,0],"CapAdd":null,"CapDrop":null,"CgroupnsMode":"","Dns":[],"DnsOptions":[],"DnsSearch":[],
"ExtraHosts":null,"GroupAdd":null,"IpcMode":"","Cgroup":"","Links":null,"OomScoreAdj":0,"PidMode":"",
"Privileged":false,"PublishAllPorts":false,"ReadonlyRootfs":false,"SecurityOpt":null,"UTSMode":"","UsernsMode":"",
"ShmSize":0,"Isolation":"","CpuShares":0,"Memory":0,"NanoCpus":0,"CgroupParent":"","BlkioWeight":0,
"BlkioWeightDevice":[],"BlkioDeviceReadBps":[],"BlkioDeviceWriteBps":[],"BlkioDeviceReadIOps":[],
"BlkioDeviceWriteIOps":[],"CpuPeriod":0,"CpuQuota":0,"CpuRealtimePeriod":0,"CpuRealtimeRuntime":0,"CpusetCpus":"",
"CpusetMems":"","Devices":[],"DeviceCgroupRules":null,"DeviceRequests":null,"MemoryReservation":0,"MemorySwap":0,
"MemorySwappiness":-1,"OomKillDisable":false,"PidsLimit":0,"Ulimits":[],"CpuCount":0,"CpuPercent":0,
"IOMaximumIOps":0,"IOMaximumBandwidth":0,"MaskedPaths":null,"ReadonlyPaths":null}
""")


def test_the_clients_defaults_ask_for_nothing_unknown() -> None:
    host = read(HostConfig, CLIENT_DEFAULTS, "HostConfig")
    assert host.network_mode == "default"
    assert host.binds == ()


def test_everything_written_reads_back_the_same() -> None:
    host = HostConfig(
        memory=1 << 30,
        port_bindings={"80/tcp": (PortBinding("", "8080"),)},
        ulimits=(Ulimit("nofile", 10, 5),),
        restart_policy=RestartPolicy("on-failure", 3),
        tmpfs={"/run": "size=1m"},
        init=None,
    )
    health = HealthConfig(("NONE",))
    config = ContainerConfig(exposed_ports=("80/tcp",), volumes=("/data",), cmd=("a",), healthcheck=health)
    networking = NetworkingConfig({"ingress": EndpointConfig(IPAMConfig("10.0.0.7/24"))})
    assert read(HostConfig, json.loads(json.dumps(write(host)))) == host
    assert read(ContainerConfig, json.loads(json.dumps(write(config)))) == config
    assert read(NetworkingConfig, json.loads(json.dumps(write(networking)))) == networking


@pytest.mark.parametrize(
    ("field", "value"),
    [("Links", ["db:db"]), ("UsernsMode", "private"), ("StorageOpt", {"size": "1G"}), ("MemorySwappiness", 60),
     ("DeviceRequests", [{"Count": 1}]), ("Runtime", "kata"), ("FromTheFuture", "x"), ("CpuRealtimePeriod", 1)],
)  # fmt: skip
def test_an_option_that_is_not_there_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(NotSupported, match=f"HostConfig.{field}"):
        read(HostConfig, {field: value}, "HostConfig")


@pytest.mark.parametrize(
    ("body", "name"),
    [({"Memory": "1g"}, "Memory"), ({"Binds": "/a:/b"}, "Binds"), ({"Binds": [1]}, r"Binds\[0\]"),
     ({"PortBindings": {"80/tcp": [{"HostPort": 80}]}}, r"PortBindings.80/tcp\[0\].HostPort"),
     ({"Privileged": 1}, "Privileged"), ({"RestartPolicy": []}, "RestartPolicy"), ({"Memory": 1 << 70}, "Memory"),
     ({"CgroupParent": "a\0b"}, "CgroupParent"), ({"PidsLimit": True}, "PidsLimit")],
)  # fmt: skip
def test_a_wrong_type_is_refused_by_its_path(body: dict[str, object], name: str) -> None:
    with pytest.raises(InvalidArgument, match=name):
        read(HostConfig, body, "HostConfig")


def test_merging_gives_the_image_what_the_user_left_open() -> None:
    image = {
        "Cmd": ["serve"], "Entrypoint": ["/entry"], "Env": ["A=1", "B=2"], "User": "web", "WorkingDir": "/srv",
        "Labels": {"a": "image", "b": "image"}, "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}},
        "StopSignal": "SIGQUIT", "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1_000_000_000},
    }  # fmt: skip
    merged = merge(ContainerConfig(env=("B=3",), labels={"a": "user"}, healthcheck=HealthConfig(retries=7)), image)
    assert arguments(merged) == ("/entry", "serve")
    assert merged.env == ("A=1", "B=3")
    assert merged.labels == {"a": "user", "b": "image"}
    assert (merged.user, merged.working_dir, merged.stop_signal) == ("web", "/srv", "SIGQUIT")
    assert (merged.exposed_ports, merged.volumes) == (("80/tcp",), ("/data",))
    assert merged.healthcheck == HealthConfig(("CMD", "true"), 1_000_000_000, retries=7)


def test_an_own_entrypoint_does_not_take_the_images_command() -> None:
    image = {"Cmd": ["serve"], "Entrypoint": ["/entry"]}
    assert arguments(merge(ContainerConfig(entrypoint=("sh",)), image)) == ("sh",)
    assert arguments(merge(ContainerConfig(cmd=("x",)), image)) == ("/entry", "x")
    assert arguments(merge(ContainerConfig(entrypoint=("",), cmd=("x",)), image)) == ("x",)
    with pytest.raises(InvalidArgument, match="no command"):
        arguments(merge(ContainerConfig(), {}))


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (HostConfig(memory=1000), "6MB"),
        (HostConfig(memory=10 << 20, memory_swap=7 << 20), "memoryswap"),
        (HostConfig(nano_cpus=9_000_000_000), "Range of CPUs"),
        (HostConfig(nano_cpus=1_000_000_000, cpu_quota=5000), "Nano CPUs"),
        (HostConfig(auto_remove=True, restart_policy=RestartPolicy("always")), "AutoRemove"),
        (HostConfig(restart_policy=RestartPolicy("always", 3)), "retry count"),
        (HostConfig(ulimits=(Ulimit("nofile", 5, 10),)), "nofile"),
        (HostConfig(network_mode="container:x", port_bindings={"80/tcp": ()}), "port publishing"),
        (HostConfig(cap_add=("NO_SUCH",)), "NO_SUCH"),
        (HostConfig(extra_hosts=("nonsense",)), "add-host"),
        (HostConfig(ipc_mode="odd"), "IpcMode"),
        (HostConfig(oom_score_adj=2000), "oom score"),
        (HostConfig(isolation="strict"), "HostConfig.Isolation: 'strict' is not one of"),
        (HostConfig(dns=("ns.example",)), "HostConfig.Dns: bad nameserver address 'ns.example'"),
        (HostConfig(sysctls={"vm.swappiness": "1"}), "HostConfig.Sysctls: sysctl 'vm.swappiness'"),
        (HostConfig(network_mode="host", sysctls={"net.core.somaxconn": "9"}), "the host's network namespace"),
        (HostConfig(ipc_mode="host", sysctls={"kernel.shmmax": "9"}), "the host's ipc namespace"),
        (HostConfig(cpuset_cpus="0-"), "HostConfig.CpusetCpus: '0-' is not a list"),
        (HostConfig(cpuset_cpus="0,2"), "HostConfig.CpusetCpus: '0,2' is not available"),
        (HostConfig(cpuset_mems="all"), "HostConfig.CpusetMems: 'all' is not a list"),
        (HostConfig(log_config=LogConfig("json-file", {"max-sizes": "1m"})), "LogConfig: unknown log option"),
        (HostConfig(log_config=LogConfig("", {"max-size": "big"})), "LogConfig: max-size: 'big' is not a size"),
        (HostConfig(security_opt=("no-such=1",)), "HostConfig.SecurityOpt: invalid option 'no-such=1'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(host: HostConfig, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        check_container(ContainerConfig(cmd=("true",)), host, NetworkingConfig(), cpus=2)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (HostConfig(isolation="hyperv"), "HostConfig.Isolation: 'hyperv'"),
        (HostConfig(log_config=LogConfig("syslog")), "HostConfig.LogConfig: the log driver 'syslog'"),
        (HostConfig(log_config=LogConfig("json-file", {"compress": "true"})), "log option 'compress=true'"),
        (HostConfig(security_opt=("apparmor=strict",)), "HostConfig.SecurityOpt 'apparmor=strict'"),
        (HostConfig(security_opt=("systempaths=unconfined",)), "HostConfig.SecurityOpt 'systempaths=unconfined'"),
        (HostConfig(port_bindings={"80/sctp": ()}), "sctp"),
    ],
)
def test_what_is_not_there_yet_is_named(host: HostConfig, words: str) -> None:
    with pytest.raises(NotSupported, match=words):
        check_container(ContainerConfig(cmd=("true",)), host, NetworkingConfig(), cpus=2)


@pytest.mark.parametrize(
    ("mount", "kind", "words"),
    [
        (Mount("volume", "v", "/x", volume=VolumeOptions(driver_config=VolumeDriver("nfs"))), NotSupported, "'nfs'"),
        (Mount("volume", "v", "/x", volume=VolumeOptions(driver_config=VolumeDriver("", {"o": "bind"}))),
         NotSupported, "options o of the volume driver local"),
        (Mount("volume", "a/b", "/x"), InvalidArgument, "a local volume name"),
        (Mount("volume", "v", "/x", volume=VolumeOptions(subpath="../y")), InvalidArgument, "Subpath '../y'"),
        (Mount("volume", "v", "/x", bind=BindOptions("shared")), InvalidArgument, "BindOptions must not be specified"),
        (Mount("bind", "/a", "/x", bind=BindOptions("sideways")), InvalidArgument, "invalid propagation 'sideways'"),
        (Mount("bind", "/a", "/x", bind=BindOptions(read_only_force_recursive=True)), InvalidArgument, "ReadOnly"),
        (Mount("bind", "a", "/x"), InvalidArgument, "source 'a' of a bind must be an absolute path"),
        (Mount("tmpfs", "/a", "/x"), InvalidArgument, "a tmpfs has no source"),
        (Mount("tmpfs", "", "/"), InvalidArgument, "destination can't be '/'"),
        (Mount("image", "web", "/x"), NotSupported, "type 'image'"),
        (Mount("floppy", "a", "/x"), InvalidArgument, "mount type unknown: 'floppy'"),
    ],
)  # fmt: skip
def test_a_mount_that_cannot_be_is_refused_by_its_field(mount: Mount, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=rf"HostConfig\.Mounts: .*{words}"):
        wanted_mounts(ContainerConfig(), HostConfig(mounts=(mount,)))


def test_log_options() -> None:
    rotated = LogConfig("json-file", {"max-size": "10m", "max-file": "3"})
    assert log_limits(rotated) == (10 << 20, 3)
    assert log_limits(LogConfig()) == (None, 1)
    assert log_limits(LogConfig("json-file", {"max-file": "3"})) == (None, 3)
    for log, error, words in (
        (LogConfig("syslog"), NotSupported, "syslog"),
        (LogConfig("json-file", {"compress": "true"}), NotSupported, "compress"),
        (LogConfig("json-file", {"odd": "1"}), InvalidArgument, "unknown log option 'odd'"),
        (LogConfig("json-file", {"max-size": "1x"}), InvalidArgument, "max-size"),
        (LogConfig("json-file", {"max-file": "0"}), InvalidArgument, "max-file"),
        (LogConfig("json-file", {"tag": "{{.Nope}}"}), InvalidArgument, "{{.Name}}"),
        (LogConfig("json-file", {"env-regex": "("}), InvalidArgument, "env-regex"),
    ):
        with pytest.raises(error, match=words):
            check_log_options(log)


def test_what_each_entry_of_a_log_tells() -> None:
    options = {"labels": "a,none", "env-regex": "^X", "tag": "{{.Name}}/{{.ID}} {{ .ImageName }}"}
    record = ContainerRecord(
        "c" * 64, "name", 1, "sha256:0", "image:1",
        ContainerConfig(labels={"a": "1", "b": "2"}, env=("X1=x", "Y=y", "X2=")),
        HostConfig(log_config=LogConfig("json-file", options)), NetworkingConfig(),
    )  # fmt: skip
    assert log_attributes(record) == {"a": "1", "X1": "x", "X2": "", "tag": f"name/{'c' * 12} image:1"}


def test_sizes_and_ports() -> None:
    assert [parse_size(text, "x") for text in ("512", "1k", "10MB", "2g")] == [512, 1024, 10 << 20, 2 << 30]
    assert parse_port("53/udp") == (53, "udp")
    for wrong in ("0/tcp", "70000", "http", "80-90/tcp"):
        with pytest.raises(InvalidArgument):
            parse_port(wrong)


def test_an_update_takes_limits_and_nothing_else() -> None:
    assert read_update({"Memory": 1 << 28, "CpuShares": 0, "RestartPolicy": {"Name": ""}}) == {"memory": 1 << 28}
    changed = read_update({"RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}})
    assert changed == {"restart_policy": RestartPolicy()}
    with pytest.raises(NotSupported, match="Privileged"):
        read_update({"Privileged": True})
