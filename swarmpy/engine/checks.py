"""Whether a container can be what was asked, before anything of it is made.

Owns    the rules between fields of ContainerConfig and HostConfig, and the options that are not there yet. Every
        refusal names the field. Pure: the number of CPUs is passed in.
Source  Docker Engine API, `POST /containers/create`, 400.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable

from swarmpy.engine.config import ContainerConfig, HealthConfig, HostConfig, NetworkingConfig, Ulimit
from swarmpy.engine.hosts import check_extra_hosts
from swarmpy.engine.image_config import arguments
from swarmpy.engine.log_options import check_log_options
from swarmpy.engine.mounts import tmpfs_mounts
from swarmpy.engine.privileges import capability_set, confinement
from swarmpy.engine.resources import RLIMITS
from swarmpy.engine.signals import parse_signal
from swarmpy.errors import InvalidArgument, NotSupported, naming
from swarmpy.runtime.bundle import sysctl_namespace

__all__ = [
    "check_container", "check_health", "check_hostname", "check_isolation", "check_name_servers", "check_resources",
    "check_restart_policy", "check_sysctls", "check_ulimits", "check_working_dir", "parse_port",
]  # fmt: skip

_LEAST_MEMORY = 6 << 20
_PORT = re.compile(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?")
_CPUSET = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
_HOSTNAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_LONGEST_DOMAIN = 64        # setdomainname(2)
_MILLISECOND = 1_000_000


def check_container(config: ContainerConfig, host: HostConfig, networking: NetworkingConfig, cpus: int) -> None:
    """`InvalidArgument` or `NotSupported` for what cannot be. `config` is merged with the image's."""
    arguments(config)
    with naming("StopSignal"):
        parse_signal(config.stop_signal, 15)
    with naming("WorkingDir"):
        check_working_dir(config.working_dir)
    with naming("Hostname"):
        check_hostname(config.hostname)
    if len(config.domainname.encode()) > _LONGEST_DOMAIN:
        raise InvalidArgument(f"Domainname: '{config.domainname}' is longer than {_LONGEST_DOMAIN} bytes")
    for address in (config.mac_address, *(endpoint.mac_address for endpoint in networking.endpoints.values())):
        _check_mac(address)
    with naming("Env"):
        _check_env(config.env)
    for port in (*config.exposed_ports, *host.port_bindings):
        parse_port(port)
    check_health(config.healthcheck)
    _check_host(host, cpus)
    _check_modes(config, host, networking)


def _check_host(host: HostConfig, cpus: int) -> None:
    """Fields of HostConfig, each by itself."""
    check_resources(host, cpus)
    check_restart_policy(host)
    with naming("HostConfig.LogConfig"):
        check_log_options(host.log_config)
    with naming("HostConfig.Isolation"):
        check_isolation(host.isolation)
    modes = {"network": host.network_mode, "ipc": host.ipc_mode, "uts": host.uts_mode}
    with naming("HostConfig.Sysctls"):
        check_sysctls(host.sysctls, [kind for kind, mode in modes.items() if mode == "host"])
    with naming("HostConfig.Dns"):
        check_name_servers(host.dns)
    for field, names in (("CapAdd", host.cap_add), ("CapDrop", host.cap_drop)):
        with naming(f"HostConfig.{field}"):
            capability_set(names, (), privileged=False, available=())
    confinement(host.security_opt)
    with naming("HostConfig.ExtraHosts"):
        check_extra_hosts(host.extra_hosts)
    with naming("HostConfig.Tmpfs"):
        tmpfs_mounts(host)


def _check_env(entries: Iterable[str]) -> None:
    for entry in entries:
        if not entry or entry.startswith("="):
            raise InvalidArgument(f"invalid environment variable: '{entry}'")


def _check_mac(address: str) -> None:
    """Six octets, and of one interface: the lowest bit of the first says that it is of many (IEEE 802)."""
    if address and (not _MAC.fullmatch(address) or int(address[1], 16) & 1):
        raise InvalidArgument(f"MacAddress: '{address}' is not the address of an interface, such as 02:42:ac:11:00:02")


def check_working_dir(path: str) -> None:
    if path and not path.startswith("/"):
        raise InvalidArgument(f"the working directory '{path}' needs to be an absolute path")


def check_hostname(name: str) -> None:
    if name and not _HOSTNAME.fullmatch(name):
        raise InvalidArgument(f"invalid hostname format: {name}")


def check_isolation(isolation: str) -> None:
    """Only Windows knows others than the default."""
    if isolation in ("process", "hyperv"):
        raise NotSupported(f"'{isolation}' is for Windows and not supported; leave it out or use default")
    if isolation not in ("", "default"):
        raise InvalidArgument(f"'{isolation}' is not one of default, process, hyperv")


def check_name_servers(addresses: Iterable[str]) -> None:
    for address in addresses:
        try:
            ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            raise InvalidArgument(f"bad nameserver address '{address}'; give an IP address") from None


def check_sysctls(names: Iterable[str], shared: Collection[str] = ()) -> None:
    """Only what belongs to a namespace, and to none that is shared with the host: the rest would change the host."""
    for name in names:
        owner = sysctl_namespace(name)
        if owner is None:
            raise InvalidArgument(f"sysctl '{name}' is not in a namespace: it would change the whole host")
        if owner in shared:
            raise InvalidArgument(f"sysctl '{name}' is not allowed with the host's {owner} namespace")


def check_ulimits(limits: Iterable[Ulimit]) -> None:
    for limit in limits:
        if limit.name not in RLIMITS:
            raise InvalidArgument(f"invalid ulimit type: {limit.name}; there are {', '.join(sorted(RLIMITS))}")
        if limit.hard >= 0 and (limit.soft > limit.hard or limit.soft < 0):
            raise InvalidArgument(f"ulimit {limit.name}: the soft limit must not exceed the hard limit {limit.hard}")


def check_resources(host: HostConfig, cpus: int) -> None:
    """Limits that contradict each other or this host."""
    for name, value in (
        ("Memory", host.memory), ("NanoCpus", host.nano_cpus), ("CpuShares", host.cpu_shares),
        ("CpuPeriod", host.cpu_period), ("ShmSize", host.shm_size), ("MemoryReservation", host.memory_reservation),
    ):  # fmt: skip
        if value < 0:
            raise InvalidArgument(f"HostConfig.{name} must not be negative")
    if 0 < host.memory < _LEAST_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if host.memory_swap > 0 and not host.memory:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit")
    if 0 < host.memory_swap < host.memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit")
    if host.memory and host.memory_reservation > host.memory:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit")
    if host.nano_cpus and (host.cpu_period or host.cpu_quota):
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set")
    if host.nano_cpus and not 10_000_000 <= host.nano_cpus <= cpus * 1_000_000_000:
        raise InvalidArgument(
            f"Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.cpu_quota < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    check_ulimits(host.ulimits)
    _check_cpuset("CpusetCpus", host.cpuset_cpus, cpus)
    _check_cpuset("CpusetMems", host.cpuset_mems, None)
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidArgument(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")


def _check_cpuset(field: str, text: str, available: int | None) -> None:
    """A list such as "0-3,7" (cpuset(7), List format) of what this host has, as far as that is known."""
    if not text:
        return
    if not _CPUSET.fullmatch(text):
        raise InvalidArgument(f"HostConfig.{field}: '{text}' is not a list such as 0-3 or 0,1")
    if available is not None and max(map(int, re.findall(r"\d+", text))) >= available:
        raise InvalidArgument(f"HostConfig.{field}: '{text}' is not available; this host has 0-{available - 1}")


def check_restart_policy(host: HostConfig) -> None:
    """Of `docker run --restart` and `docker update --restart`."""
    policy = host.restart_policy
    if policy.name not in ("", "no", "always", "on-failure", "unless-stopped"):
        raise InvalidArgument(f"invalid restart policy: unknown policy '{policy.name}'")
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise InvalidArgument("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if policy.maximum_retry_count < 0:
        raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
    if host.auto_remove and policy.name not in ("", "no"):
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")


def parse_port(text: str) -> tuple[int, str]:
    """Number and protocol of "80/tcp"; the protocol is tcp when it is not said."""
    found = _PORT.fullmatch(text)
    if found is None or found[2] or not 0 < int(found[1]) < 65536:
        raise InvalidArgument(f"invalid port: '{text}'; write NUMBER/PROTOCOL with a number from 1 to 65535")
    if found[3] == "sctp":
        raise NotSupported(f"port {text}: sctp is not supported; use tcp or udp")
    return int(found[1]), found[3] or "tcp"


def check_health(health: HealthConfig | None) -> None:
    if health is None:
        return
    if health.test and health.test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise InvalidArgument(f"Healthcheck.Test: unknown type '{health.test[0]}', use NONE, CMD or CMD-SHELL")
    for name, value in (
        ("Interval", health.interval), ("Timeout", health.timeout), ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ):  # fmt: skip
        if value != 0 and value < _MILLISECOND:
            raise InvalidArgument(f"{name} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        raise InvalidArgument("Retries in Healthcheck cannot be negative")


def _check_modes(config: ContainerConfig, host: HostConfig, networking: NetworkingConfig) -> None:
    for name, value, allowed in (
        ("CgroupnsMode", host.cgroupns_mode, ("", "private", "host")),
        ("IpcMode", host.ipc_mode, ("", "private", "shareable", "none", "host")),
        ("PidMode", host.pid_mode, ("", "host")),
        ("UTSMode", host.uts_mode, ("", "host")),
    ):
        joins = name in ("IpcMode", "PidMode") and value.startswith("container:")
        if value not in allowed and not joins:
            raise InvalidArgument(f"HostConfig.{name} '{value}' is invalid")
    mode = host.network_mode
    shared = mode == "host" or mode.startswith("container:")
    if mode.startswith("container:") and (host.port_bindings or host.publish_all_ports):
        raise InvalidArgument("conflicting options: port publishing and the container type network mode")
    if mode.startswith("container:") and (config.hostname or host.dns or host.extra_hosts):
        raise InvalidArgument("conflicting options: hostname, dns or add-host and the container type network mode")
    if shared and (set(networking.endpoints) - {mode, "host"}):
        raise InvalidArgument(f"a container with network mode {mode} cannot be on further networks")
    if host.uts_mode == "host" and config.hostname:
        raise InvalidArgument("conflicting options: hostname and the UTS mode")
    if host.cgroup_parent and ".." in host.cgroup_parent.split("/"):
        raise InvalidArgument(f"HostConfig.CgroupParent '{host.cgroup_parent}' must not contain '..'")
