"""What a user asks a container to be: the Engine API's `ContainerConfig`, `HostConfig` and `NetworkingConfig`.

Owns    names, defaults and meaning of each field. Durations are nanoseconds, sizes are bytes.
Source  Docker Engine API 1.50, definitions ContainerConfig, HostConfig, Resources, EndpointSettings.

Nothing here touches the host; `spec.py` turns these into an OCI bundle and `checks.py` says whether they make sense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from swarmpy.engine.schema import api

__all__ = [
    "BindOptions",
    "ContainerConfig",
    "DeviceMapping",
    "EndpointConfig",
    "HealthConfig",
    "HostConfig",
    "IPAMConfig",
    "LogConfig",
    "Mount",
    "NetworkingConfig",
    "PortBinding",
    "RestartPolicy",
    "ThrottleDevice",
    "TmpfsOptions",
    "Ulimit",
    "VolumeDriver",
    "VolumeOptions",
    "WeightDevice",
]


@dataclass(frozen=True)
class HealthConfig:
    """How to ask a container whether it is well. Zero durations and retries inherit the image's, then the defaults."""

    test: tuple[str, ...] = api("Test", (), omit=True)
    interval: int = api("Interval", 0, omit=True)
    timeout: int = api("Timeout", 0, omit=True)
    start_period: int = api("StartPeriod", 0, omit=True)
    start_interval: int = api("StartInterval", 0, omit=True)
    retries: int = api("Retries", 0, omit=True)


@dataclass(frozen=True)
class ContainerConfig:
    """The part of a container that does not depend on the host: what runs, as whom, with which environment.

    `cmd` and `entrypoint`: `None` inherits the image's; an empty one clears it.
    """

    NEUTRAL: ClassVar[Mapping[str, tuple[object, ...]]] = {"ArgsEscaped": (True,)}
    IGNORED: ClassVar[frozenset[str]] = frozenset({"OnBuild"})  # concerns who builds on the image

    hostname: str = api("Hostname", "")
    domainname: str = api("Domainname", "")
    user: str = api("User", "")
    attach_stdin: bool = api("AttachStdin", False)
    attach_stdout: bool = api("AttachStdout", False)
    attach_stderr: bool = api("AttachStderr", False)
    exposed_ports: tuple[str, ...] = api("ExposedPorts", (), keys=True, omit=True)
    tty: bool = api("Tty", False)
    open_stdin: bool = api("OpenStdin", False)
    stdin_once: bool = api("StdinOnce", False)
    env: tuple[str, ...] = api("Env", ())
    cmd: tuple[str, ...] | None = api("Cmd", None)
    healthcheck: HealthConfig | None = api("Healthcheck", None, omit=True)
    image: str = api("Image", "")
    volumes: tuple[str, ...] | None = api("Volumes", None, keys=True)
    working_dir: str = api("WorkingDir", "")
    entrypoint: tuple[str, ...] | None = api("Entrypoint", None)
    network_disabled: bool = api("NetworkDisabled", False, omit=True)
    mac_address: str = api("MacAddress", "", omit=True)
    labels: Mapping[str, str] = api("Labels", dict)
    stop_signal: str = api("StopSignal", "", omit=True)
    stop_timeout: int | None = api("StopTimeout", None, omit=True)
    """Seconds between the stop signal and SIGKILL."""
    shell: tuple[str, ...] | None = api("Shell", None, omit=True)
    """What a health check of the kind CMD-SHELL is given to."""


@dataclass(frozen=True)
class RestartPolicy:
    """`docker run --restart`. `name` is "", "no", "always", "on-failure" or "unless-stopped"."""

    name: str = api("Name", "no")
    maximum_retry_count: int = api("MaximumRetryCount", 0)


@dataclass(frozen=True)
class LogConfig:
    """Where the output goes: "json-file" (options max-size, max-file) or "none"."""

    type: str = api("Type", "")
    config: Mapping[str, str] = api("Config", dict)


@dataclass(frozen=True)
class PortBinding:
    """One host address and port; an empty port asks for a free one, "8000-8010" for a free one of these."""

    host_ip: str = api("HostIp", "")
    host_port: str = api("HostPort", "")


@dataclass(frozen=True)
class BindOptions:
    """Of a mount with type "bind"."""

    propagation: str = api("Propagation", "", omit=True)
    non_recursive: bool = api("NonRecursive", False, omit=True)
    create_mountpoint: bool = api("CreateMountpoint", False, omit=True)
    read_only_non_recursive: bool = api("ReadOnlyNonRecursive", False, omit=True)
    read_only_force_recursive: bool = api("ReadOnlyForceRecursive", False, omit=True)


@dataclass(frozen=True)
class VolumeDriver:
    """Of a volume made by a mount: "local" or nothing, and its options."""

    name: str = api("Name", "", omit=True)
    options: Mapping[str, str] = api("Options", dict, omit=True)


@dataclass(frozen=True)
class VolumeOptions:
    """Of a mount with type "volume"."""

    no_copy: bool = api("NoCopy", False, omit=True)
    labels: Mapping[str, str] = api("Labels", dict, omit=True)
    driver_config: VolumeDriver | None = api("DriverConfig", None, omit=True)
    subpath: str = api("Subpath", "", omit=True)


@dataclass(frozen=True)
class TmpfsOptions:
    """Of a mount with type "tmpfs"."""

    size_bytes: int = api("SizeBytes", 0, omit=True)
    mode: int = api("Mode", 0, omit=True)


@dataclass(frozen=True)
class Mount:
    """`docker run --mount`: type "bind", "volume" or "tmpfs"."""

    NEUTRAL: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "Consistency": ("default", "consistent", "cached", "delegated")
    }

    type: str = api("Type", "", omit=True)
    source: str = api("Source", "", omit=True)
    target: str = api("Target", "", omit=True)
    read_only: bool = api("ReadOnly", False, omit=True)
    bind: BindOptions | None = api("BindOptions", None, omit=True)
    volume: VolumeOptions | None = api("VolumeOptions", None, omit=True)
    tmpfs: TmpfsOptions | None = api("TmpfsOptions", None, omit=True)


@dataclass(frozen=True)
class DeviceMapping:
    """A device of the host that the container sees; a directory gives all devices below it."""

    path_on_host: str = api("PathOnHost", "")
    path_in_container: str = api("PathInContainer", "")
    cgroup_permissions: str = api("CgroupPermissions", "rwm")


@dataclass(frozen=True)
class Ulimit:
    """`setrlimit(2)` by the name that `docker run --ulimit` takes ("nofile"); -1 is no limit."""

    name: str = api("Name", "")
    hard: int = api("Hard", 0)
    soft: int = api("Soft", 0)


@dataclass(frozen=True)
class WeightDevice:
    """Share of one block device."""

    path: str = api("Path", "")
    weight: int = api("Weight", 0)


@dataclass(frozen=True)
class ThrottleDevice:
    """Limit of one block device, in bytes/s or operations/s."""

    path: str = api("Path", "")
    rate: int = api("Rate", 0)


@dataclass(frozen=True)
class HostConfig:
    """The part of a container that depends on the host: limits, mounts, ports, privileges."""

    NEUTRAL: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "Cgroup": ("",),
        "UsernsMode": ("host",),
        "MemorySwappiness": (-1,),
        "KernelMemory": (-1,),
        "ConsoleSize": ([0, 0],),
        "VolumeDriver": ("local",),
        "Runtime": ("swarmpy", "runc", "io.containerd.runc.v2"),
    }
    IGNORED: ClassVar[frozenset[str]] = frozenset()

    # Resources
    cpu_shares: int = api("CpuShares", 0)
    memory: int = api("Memory", 0)
    nano_cpus: int = api("NanoCpus", 0)
    cgroup_parent: str = api("CgroupParent", "")
    blkio_weight: int = api("BlkioWeight", 0)
    blkio_weight_device: tuple[WeightDevice, ...] = api("BlkioWeightDevice", ())
    blkio_device_read_bps: tuple[ThrottleDevice, ...] = api("BlkioDeviceReadBps", ())
    blkio_device_write_bps: tuple[ThrottleDevice, ...] = api("BlkioDeviceWriteBps", ())
    blkio_device_read_iops: tuple[ThrottleDevice, ...] = api("BlkioDeviceReadIOps", ())
    blkio_device_write_iops: tuple[ThrottleDevice, ...] = api("BlkioDeviceWriteIOps", ())
    cpu_period: int = api("CpuPeriod", 0)
    cpu_quota: int = api("CpuQuota", 0)
    cpuset_cpus: str = api("CpusetCpus", "")
    cpuset_mems: str = api("CpusetMems", "")
    devices: tuple[DeviceMapping, ...] = api("Devices", ())
    device_cgroup_rules: tuple[str, ...] = api("DeviceCgroupRules", ())
    memory_reservation: int = api("MemoryReservation", 0)
    memory_swap: int = api("MemorySwap", 0)
    """Memory plus swap; -1 is unlimited swap, 0 is twice `memory`."""
    oom_kill_disable: bool | None = api("OomKillDisable", None)
    pids_limit: int | None = api("PidsLimit", None)
    ulimits: tuple[Ulimit, ...] = api("Ulimits", ())

    # The rest of HostConfig
    binds: tuple[str, ...] = api("Binds", ())
    container_id_file: str = api("ContainerIDFile", "")
    """Written by the client, kept for inspect."""
    log_config: LogConfig = api("LogConfig", LogConfig)
    network_mode: str = api("NetworkMode", "")
    port_bindings: Mapping[str, tuple[PortBinding, ...]] = api("PortBindings", dict)
    restart_policy: RestartPolicy = api("RestartPolicy", RestartPolicy)
    auto_remove: bool = api("AutoRemove", False)
    volumes_from: tuple[str, ...] = api("VolumesFrom", ())
    mounts: tuple[Mount, ...] = api("Mounts", (), omit=True)
    console_size: tuple[int, ...] = api("ConsoleSize", ())
    """Height and width of the first terminal."""
    annotations: Mapping[str, str] = api("Annotations", dict, omit=True)
    cap_add: tuple[str, ...] = api("CapAdd", ())
    cap_drop: tuple[str, ...] = api("CapDrop", ())
    cgroupns_mode: str = api("CgroupnsMode", "")
    dns: tuple[str, ...] = api("Dns", ())
    dns_options: tuple[str, ...] = api("DnsOptions", ())
    dns_search: tuple[str, ...] = api("DnsSearch", ())
    extra_hosts: tuple[str, ...] = api("ExtraHosts", ())
    group_add: tuple[str, ...] = api("GroupAdd", ())
    ipc_mode: str = api("IpcMode", "")
    oom_score_adj: int = api("OomScoreAdj", 0)
    pid_mode: str = api("PidMode", "")
    privileged: bool = api("Privileged", False)
    publish_all_ports: bool = api("PublishAllPorts", False)
    readonly_rootfs: bool = api("ReadonlyRootfs", False)
    security_opt: tuple[str, ...] = api("SecurityOpt", ())
    tmpfs: Mapping[str, str] = api("Tmpfs", dict, omit=True)
    uts_mode: str = api("UTSMode", "")
    shm_size: int = api("ShmSize", 0)
    sysctls: Mapping[str, str] = api("Sysctls", dict, omit=True)
    isolation: str = api("Isolation", "")
    """Between containers on Windows; "" or "default" here."""
    init: bool | None = api("Init", None, omit=True)
    masked_paths: tuple[str, ...] | None = api("MaskedPaths", None)
    readonly_paths: tuple[str, ...] | None = api("ReadonlyPaths", None)


@dataclass(frozen=True)
class IPAMConfig:
    """The address an endpoint asks for."""

    ipv4_address: str = api("IPv4Address", "", omit=True)


@dataclass(frozen=True)
class EndpointConfig:
    """One network a container is on. Fields that only describe (gateway, ids) are not read back."""

    IGNORED: ClassVar[frozenset[str]] = frozenset(
        {
            "NetworkID", "EndpointID", "Gateway", "IPAddress", "IPPrefixLen", "IPv6Gateway", "GlobalIPv6Address",
            "GlobalIPv6PrefixLen", "DNSNames",
        }
    )

    ipam: IPAMConfig | None = api("IPAMConfig", None)
    mac_address: str = api("MacAddress", "")
    aliases: tuple[str, ...] = api("Aliases", ())


@dataclass(frozen=True)
class NetworkingConfig:
    """Networks to join besides the one that `HostConfig.network_mode` names, and settings of that one.

    A task of the routing mesh asks for `{"ingress": EndpointConfig(ipam=IPAMConfig("10.0.0.7/24"))}`.
    """

    endpoints: Mapping[str, EndpointConfig] = api("EndpointsConfig", dict)
