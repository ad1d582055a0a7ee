"""The flags that describe a container, shared by `create` and `run`.

Source  docker create, docker run; Docker Engine API: ContainerConfig, HostConfig.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from swarmpy.cli import values
from swarmpy.cli.environment_flags import env_files, environment, variable
from swarmpy.cli.failures import WrongFlag
from swarmpy.cli.flags import Flag, absent, extends, into, merges, sets
from swarmpy.cli.health_flags import health_flags
from swarmpy.cli.terminal import window_size

__all__ = ["CONTAINER"]

JSON = dict[str, Any]


def publish(body: JSON, items: list[str]) -> None:
    """`[[IP:]PORT:]PORT[/PROTOCOL]`."""
    bindings = into(body, "HostConfig", "PortBindings")
    for item in items:
        numbers, _, protocol = item.partition("/")
        outer, _, inner = numbers.rpartition(":")
        address, _, port = outer.rpartition(":")
        if not inner.isdigit():
            raise WrongFlag(f"--publish: {item!r}: {inner!r} is not a port from 1 to 65535")
        name = f"{inner}/{protocol or 'tcp'}"
        bindings.setdefault(name, []).append({"HostIp": address, "HostPort": port})
        into(body, "ExposedPorts")[name] = {}


def restart(body: JSON, text: str) -> None:
    """`no`, `always`, `unless-stopped` or `on-failure[:N]`."""
    policy, _, attempts = text.partition(":")
    if attempts and not attempts.isdigit():
        raise WrongFlag(f"--restart: {text!r}: {attempts!r} is not a number of restarts")
    into(body, "HostConfig")["RestartPolicy"] = {"Name": policy, "MaximumRetryCount": int(attempts or 0)}


def entrypoint(body: JSON, text: str) -> None:
    """An empty one takes the image's away."""
    body["Entrypoint"] = [text]


def terminal(body: JSON, on: bool) -> None:
    body["Tty"] = on
    if on:
        into(body, "HostConfig")["ConsoleSize"] = list(window_size())


def joins(body: JSON, streams: list[str]) -> None:
    """Which of its streams a process is joined to."""
    for stream in streams:
        if stream.lower() not in ("stdin", "stdout", "stderr"):
            raise WrongFlag(f"--attach: {stream!r} is not one of stdin, stdout, stderr")
    given = {stream.capitalize() for stream in streams}
    body.update({f"Attach{name}": name in given for name in ("Stdin", "Stdout", "Stderr")})


def distrust(body: JSON, on: bool) -> None:
    if not on:
        raise WrongFlag("--disable-content-trust: 'false' is not supported: signatures of images are not checked")


def nothing(_: JSON, text: str) -> None:
    """Of no effect any more, with docker too."""
    values.size_bytes("kernel-memory", text)


def size(flag: str) -> Callable[[str], int]:
    return lambda text: values.size_bytes(flag, text)


def memory_and_swap(text: str) -> int:
    """-1 is as much swap as there is."""
    return -1 if text == "-1" else values.size_bytes("memory-swap", text)


def expose(body: JSON, items: list[str]) -> None:
    """`PORT[-PORT][/PROTOCOL]`."""
    for item in items:
        numbers, _, protocol = item.partition("/")
        for port in values.port_range("expose", item, numbers):
            into(body, "ExposedPorts")[f"{port}/{protocol or 'tcp'}"] = {}


def label_files(body: JSON, paths: list[str]) -> None:
    into(body, "Labels").update(values.pairs("label-file", values.lines("label-file", paths)))


def tmpfs(body: JSON, items: list[str]) -> None:
    """`PATH[:OPTION,…]`."""
    for item in items:
        path, _, options = item.partition(":")
        into(body, "HostConfig", "Tmpfs")[path] = options


def security(body: JSON, items: list[str]) -> None:
    """`systempaths=unconfined` is the paths that are hidden or read-only, of which there are to be none."""
    options = values.security_options(items)
    if "systempaths=unconfined" in options:
        options.remove("systempaths=unconfined")
        into(body, "HostConfig").update(MaskedPaths=[], ReadonlyPaths=[])
    into(body, "HostConfig")["SecurityOpt"] = options


def throttles(flag: str, field: str) -> Flag:
    """A limit of one block device."""
    read = extends("HostConfig", field, as_=lambda items: [values.throttle(flag, item) for item in items])
    return Flag(flag, list[str], "Limit of a device, /dev/NAME:RATE", read)


CONTAINER: tuple[Flag, ...] = (
    Flag("interactive", bool, "Keep its input open", sets("OpenStdin"), "i"),
    Flag("tty", bool, "With a terminal", terminal, "t"),
    Flag("env-file", list[str], "File of environment variables", extends("Env", as_=env_files, key=variable)),
    Flag("env", list[str], "Environment variable", extends("Env", as_=environment, key=variable), "e"),
    Flag("volume", list[str], "SOURCE:TARGET[:ro]", extends("HostConfig", "Binds"), "v"),
    Flag("mount", list[str], "Mount, type=…,source=…,target=…",
         extends("HostConfig", "Mounts", as_=lambda items: [values.mount(item) for item in items])),
    Flag("publish", list[str], "[[IP:]PORT:]PORT[/PROTOCOL]", publish, "p"),
    Flag("label", list[str], "Label, NAME=VALUE", merges("label", "Labels"), "l"),
    Flag("network", str, "bridge, host, none or container:NAME", sets("HostConfig", "NetworkMode")),
    Flag("memory", str, "Memory at most", sets("HostConfig", "Memory", as_=size("memory")), "m"),
    Flag("cpus", str, "CPUs at most",
         sets("HostConfig", "NanoCpus", as_=lambda text: values.nano_cpus("cpus", text))),
    Flag("pids-limit", int, "Processes at most", sets("HostConfig", "PidsLimit")),
    Flag("restart", str, "no, always, unless-stopped or on-failure[:N]", restart),
    Flag("workdir", str, "Working directory", sets("WorkingDir"), "w"),
    Flag("user", str, "User and group", sets("User"), "u"),
    Flag("hostname", str, "Host name", sets("Hostname"), "h"),
    Flag("entrypoint", str, "Replaces the image's entrypoint", entrypoint),
    Flag("read-only", bool, "The root file system cannot be written", sets("HostConfig", "ReadonlyRootfs")),
    Flag("privileged", bool, "With every capability", sets("HostConfig", "Privileged")),
    Flag("cap-add", list[str], "Add a capability", extends("HostConfig", "CapAdd")),
    Flag("cap-drop", list[str], "Take a capability away", extends("HostConfig", "CapDrop")),
    Flag("log-driver", str, "Log driver", sets("HostConfig", "LogConfig", "Type")),
    Flag("log-opt", list[str], "Option of the log driver", merges("log-opt", "HostConfig", "LogConfig", "Config")),
    Flag("stop-signal", str, "Signal that stops it", sets("StopSignal")),
    Flag("attach", list[str], "Join stdin, stdout or stderr of it, and no other", joins, "a"),
    Flag("cidfile", str, "File its id is written to", sets("HostConfig", "ContainerIDFile")),
    Flag("disable-content-trust", bool, "As always: signatures are not checked", distrust),
    Flag("rm", bool, "Remove the container when it ends", sets("HostConfig", "AutoRemove")),
    # What it sees of its host and of others
    Flag("add-host", list[str], "Line of /etc/hosts, NAME:IP", extends("HostConfig", "ExtraHosts")),
    Flag("dns", list[str], "Name server", extends("HostConfig", "Dns")),
    Flag("dns-option", list[str], "Resolver option", extends("HostConfig", "DnsOptions")),
    Flag("dns-search", list[str], "Search domain", extends("HostConfig", "DnsSearch")),
    Flag("domainname", str, "Domain name", sets("Domainname")),
    Flag("expose", list[str], "Port that --publish-all publishes", expose),
    Flag("publish-all", bool, "Publish every exposed port", sets("HostConfig", "PublishAllPorts"), "P"),
    Flag("mac-address", str, "MAC address", sets("MacAddress")),
    Flag("cgroupns", str, "host or private", sets("HostConfig", "CgroupnsMode")),
    Flag("ipc", str, "none, host, private, shareable or container:NAME", sets("HostConfig", "IpcMode")),
    Flag("pid", str, "host or container:NAME", sets("HostConfig", "PidMode")),
    Flag("userns", str, "host", sets("HostConfig", "UsernsMode")),
    Flag("uts", str, "host", sets("HostConfig", "UTSMode")),
    Flag("device", list[str], "Device of the host, /dev/SOURCE[:/dev/TARGET][:rwm]",
         extends("HostConfig", "Devices", as_=lambda items: [values.device(item) for item in items])),
    Flag("device-cgroup-rule", list[str], "Devices it may use, 'c 1:3 rwm'",
         extends("HostConfig", "DeviceCgroupRules")),
    Flag("tmpfs", list[str], "File system in memory, PATH[:OPTIONS]", tmpfs),
    Flag("volumes-from", list[str], "Volumes of another container", extends("HostConfig", "VolumesFrom")),
    Flag("volume-driver", str, "local", sets("HostConfig", "VolumeDriver")),
    # What it may do, and how much
    Flag("blkio-weight", int, "Share of the disks, 10 to 1000", sets("HostConfig", "BlkioWeight")),
    Flag("cgroup-parent", str, "Control group it is put under", sets("HostConfig", "CgroupParent")),
    Flag("cpu-period", int, "Period of the CPU quota, in µs", sets("HostConfig", "CpuPeriod")),
    Flag("cpu-quota", int, "CPU time in a period, in µs", sets("HostConfig", "CpuQuota")),
    Flag("cpu-shares", int, "Share of the CPUs", sets("HostConfig", "CpuShares"), "c"),
    Flag("cpuset-cpus", str, "CPUs it may use, 0-3 or 0,1", sets("HostConfig", "CpusetCpus")),
    Flag("cpuset-mems", str, "Memory nodes it may use", sets("HostConfig", "CpusetMems")),
    throttles("device-read-bps", "BlkioDeviceReadBps"),
    throttles("device-read-iops", "BlkioDeviceReadIOps"),
    throttles("device-write-bps", "BlkioDeviceWriteBps"),
    throttles("device-write-iops", "BlkioDeviceWriteIOps"),
    Flag("memory-reservation", str, "Memory it is left with when there is little",
         sets("HostConfig", "MemoryReservation", as_=size("memory-reservation"))),
    Flag("memory-swap", str, "Memory and swap together; -1: any swap",
         sets("HostConfig", "MemorySwap", as_=memory_and_swap)),
    Flag("kernel-memory", str, "Of no effect any more", nothing),
    Flag("oom-kill-disable", bool, "Wait for memory instead of being killed", sets("HostConfig", "OomKillDisable")),
    Flag("oom-score-adj", int, "How soon it is killed for want of memory", sets("HostConfig", "OomScoreAdj")),
    Flag("group-add", list[str], "Additional group", extends("HostConfig", "GroupAdd")),
    Flag("security-opt", list[str], "no-new-privileges, seccomp=FILE or seccomp=unconfined", security),
    Flag("shm-size", str, "Size of /dev/shm", sets("HostConfig", "ShmSize", as_=size("shm-size"))),
    Flag("sysctl", list[str], "Kernel parameter, NAME=VALUE", merges("sysctl", "HostConfig", "Sysctls")),
    Flag("ulimit", list[str], "Resource limit, NAME=SOFT[:HARD]",
         extends("HostConfig", "Ulimits", as_=lambda items: [values.ulimit(item) for item in items])),
    # What it is
    Flag("annotation", list[str], "Annotation for the runtime", merges("annotation", "HostConfig", "Annotations")),
    Flag("label-file", list[str], "File of labels", label_files),
    Flag("init", bool, "An init in the container forwards signals and reaps", sets("HostConfig", "Init")),
    Flag("isolation", str, "Between containers on Windows; default here", sets("HostConfig", "Isolation")),
    Flag("runtime", str, "swarmpy, as always", sets("HostConfig", "Runtime")),
    Flag("stop-timeout", int, "Seconds until it is killed", sets("StopTimeout")),
    *health_flags("Healthcheck"),
    *absent(
        "cpu-rt-period", "cpu-rt-runtime", "blkio-weight-device", "gpus", "ip", "ip6", "link", "link-local-ip",
        "memory-swappiness", "network-alias", "storage-opt", "cpu-count", "cpu-percent", "io-maxbandwidth",
        "io-maxiops", "use-api-socket",
    ),
)
