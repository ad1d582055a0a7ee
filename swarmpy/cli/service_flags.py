"""The flags that describe a service, one row each: how it is typed, and what it changes in the spec.

`service create` and `service update` share them. Lists are given to `create` as `--env`, and changed by `update` with
`--env-add` and `--env-rm`.
Source  docker service create, docker service update; Docker Engine API: ServiceSpec.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from swarmpy.cli import values
from swarmpy.cli.environment_flags import env_files, environment, variable
from swarmpy.cli.failures import WrongFlag
from swarmpy.cli.flags import Edit, Flag, absent, drops, extends, forgets, into, merges, sets
from swarmpy.cli.health_flags import health_flags

__all__ = ["CREATE", "UPDATE"]

JSON = dict[str, Any]


def all_ports(items: list[str]) -> list[JSON]:
    return [port for item in items for port in values.ports(item)]


def preferences(items: list[str]) -> list[JSON]:
    result = []
    for item in items:
        strategy, _, descriptor = item.partition("=")
        if strategy != "spread" or not descriptor:
            raise WrongFlag(f"--placement-pref: {item!r} is not spread=node.labels.NAME")
        result.append({"Spread": {"SpreadDescriptor": descriptor}})
    return result


def host_entries(items: list[str]) -> list[str]:
    """`name:ip` of the flag -> `ip name` of the API."""
    return [" ".join(reversed(item.split(":", 1))) for item in items]


def replicas(spec: JSON, count: int) -> None:
    spec["Mode"] = {"Replicated": {"Replicas": count}}


def mode(spec: JSON, text: str) -> None:
    names = {
        "replicated": "Replicated",
        "global": "Global",
        "replicated-job": "ReplicatedJob",
        "global-job": "GlobalJob",
    }
    if text not in names:
        raise WrongFlag(f"--mode: {text!r} is not one of {', '.join(names)}")
    spec.setdefault("Mode", {}).setdefault(names[text], {})


def duration(flag: str) -> Callable[[str], int]:
    return lambda text: values.duration_ns(flag, text)


def size(flag: str) -> Callable[[str], int]:
    return lambda text: values.size_bytes(flag, text)


def cpus(flag: str) -> Callable[[str], int]:
    return lambda text: values.nano_cpus(flag, text)


def words(text: str) -> list[str]:
    import shlex

    return shlex.split(text)


def unchanged(spec: JSON, value: Any) -> None:
    """A flag that asks for what is so anyhow."""


C = ("TaskTemplate", "ContainerSpec")
R = ("TaskTemplate", "Resources")
P = ("TaskTemplate", "Placement")


def update_flags(prefix: str, place: str) -> tuple[Flag, ...]:
    """How a change is rolled out. Whoever sets one of these for the first time keeps one task at a time."""

    def rollout(field: str, as_: Callable[[Any], Any] = lambda value: value) -> Edit:
        def edit(spec: JSON, value: Any) -> None:
            into(spec, place).setdefault("Parallelism", 1)
            into(spec, place)[field] = as_(value)

        return edit

    seconds = duration(f"{prefix}-delay"), duration(f"{prefix}-monitor")
    return (
        Flag(f"{prefix}-parallelism", int, "Tasks changed at a time (0: all)", rollout("Parallelism")),
        Flag(f"{prefix}-delay", str, "Pause between them", rollout("Delay", seconds[0])),
        Flag(f"{prefix}-failure-action", str, "pause, continue or rollback", rollout("FailureAction")),
        Flag(f"{prefix}-monitor", str, "How long a new task is watched", rollout("Monitor", seconds[1])),
        Flag(f"{prefix}-max-failure-ratio", float, "Failures tolerated, 0 to 1", rollout("MaxFailureRatio")),
        Flag(f"{prefix}-order", str, "stop-first or start-first", rollout("Order")),
    )


SHARED: tuple[Flag, ...] = (
    Flag("replicas", int, "Number of tasks", replicas),
    Flag("workdir", str, "Working directory", sets(*C, "Dir"), "w"),
    Flag("user", str, "User and group (name or id)", sets(*C, "User"), "u"),
    Flag("hostname", str, "Host name of the containers", sets(*C, "Hostname")),
    Flag("entrypoint", str, "Replaces the image's entrypoint", sets(*C, "Command", as_=words)),
    Flag("tty", bool, "With a terminal", sets(*C, "TTY"), "t"),
    Flag("read-only", bool, "The root file system cannot be written", sets(*C, "ReadOnly")),
    Flag("init", bool, "An init in the container forwards signals and reaps", sets(*C, "Init")),
    Flag("stop-signal", str, "Signal that ends a task", sets(*C, "StopSignal")),
    Flag(
        "stop-grace-period",
        str,
        "Until a task that does not end is killed",
        sets(*C, "StopGracePeriod", as_=duration("stop-grace-period")),
    ),
    Flag("limit-cpu", str, "CPUs at most", sets(*R, "Limits", "NanoCPUs", as_=cpus("limit-cpu"))),
    Flag("limit-memory", str, "Memory at most", sets(*R, "Limits", "MemoryBytes", as_=size("limit-memory"))),
    Flag("limit-pids", int, "Processes at most", sets(*R, "Limits", "Pids")),
    Flag(
        "reserve-cpu", str, "CPUs kept free for a task", sets(*R, "Reservations", "NanoCPUs", as_=cpus("reserve-cpu"))
    ),
    Flag(
        "reserve-memory",
        str,
        "Memory kept free for a task",
        sets(*R, "Reservations", "MemoryBytes", as_=size("reserve-memory")),
    ),
    Flag("restart-condition", str, "none, on-failure or any", sets("TaskTemplate", "RestartPolicy", "Condition")),
    Flag(
        "restart-delay",
        str,
        "Pause before a restart",
        sets("TaskTemplate", "RestartPolicy", "Delay", as_=duration("restart-delay")),
    ),
    Flag("restart-max-attempts", int, "Restarts at most", sets("TaskTemplate", "RestartPolicy", "MaxAttempts")),
    Flag(
        "restart-window",
        str,
        "Time in which attempts are counted",
        sets("TaskTemplate", "RestartPolicy", "Window", as_=duration("restart-window")),
    ),
    Flag("replicas-max-per-node", int, "Tasks per node at most (0: any)", sets(*P, "MaxReplicas")),
    Flag("endpoint-mode", str, "vip or dnsrr", sets("EndpointSpec", "Mode")),
    Flag("log-driver", str, "Log driver", sets("TaskTemplate", "LogDriver", "Name")),
    Flag("log-opt", list[str], "Option of the log driver", merges("log-opt", "TaskTemplate", "LogDriver", "Options")),
    *health_flags(*C, "Healthcheck"),
    Flag("isolation", str, "Between containers on Windows; default here", sets(*C, "Isolation")),
    Flag("oom-score-adj", int, "How soon it is killed for want of memory", sets(*C, "OomScoreAdj")),
    Flag("no-resolve-image", bool, "Nothing to change: images are never resolved to digests here", unchanged),
    *update_flags("update", "UpdateConfig"),
    *update_flags("rollback", "RollbackConfig"),
)


class ListFlag(NamedTuple):
    """A list: `--name` for create, `--name-add` and `--name-rm` for update."""

    name: str
    help: str
    add: Edit
    remove: Edit
    short: str = ""


LISTS: tuple[ListFlag, ...] = (
    ListFlag(
        "env",
        "Environment variable",
        extends(*C, "Env", as_=environment, key=variable),
        drops(*C, "Env", key=variable),
        "e",
    ),
    ListFlag("label", "Label of the service", merges("label", "Labels"), forgets("Labels"), "l"),
    ListFlag(
        "container-label", "Label of the containers", merges("container-label", *C, "Labels"), forgets(*C, "Labels")
    ),
    ListFlag("constraint", "Placement constraint", extends(*P, "Constraints"), drops(*P, "Constraints")),
    ListFlag(
        "placement-pref",
        "Placement preference, spread=node.labels.NAME",
        extends(*P, "Preferences", as_=preferences, key=lambda item: item["Spread"]["SpreadDescriptor"]),
        drops(
            *P,
            "Preferences",
            key=lambda item: item["Spread"]["SpreadDescriptor"],
            as_=lambda item: item.partition("=")[2] or item,
        ),
    ),
    ListFlag(
        "publish",
        "Port, [PUBLISHED:]TARGET[/PROTOCOL]",
        extends(
            "EndpointSpec",
            "Ports",
            as_=all_ports,
            key=lambda item: (item["TargetPort"], item["Protocol"], item.get("PublishedPort")),
        ),
        drops(
            "EndpointSpec",
            "Ports",
            key=lambda item: item["TargetPort"],
            as_=lambda item: values.ports(item)[0]["TargetPort"],
        ),
        "p",
    ),
    ListFlag(
        "mount",
        "Mount, type=…,source=…,target=…",
        extends(
            *C, "Mounts", as_=lambda items: [values.mount(item) for item in items], key=lambda item: item["Target"]
        ),
        drops(*C, "Mounts", key=lambda item: item["Target"]),
    ),
    ListFlag(
        "host",
        "Line of /etc/hosts, NAME:IP",
        extends(*C, "Hosts", as_=host_entries),
        drops(*C, "Hosts", as_=lambda item: " ".join(reversed(item.split(":", 1)))),
    ),
    ListFlag("group", "Additional group", extends(*C, "Groups"), drops(*C, "Groups")),
    ListFlag("dns", "Name server", extends(*C, "DNSConfig", "Nameservers"), drops(*C, "DNSConfig", "Nameservers")),
    ListFlag("dns-search", "Search domain", extends(*C, "DNSConfig", "Search"), drops(*C, "DNSConfig", "Search")),
    ListFlag("dns-option", "Resolver option", extends(*C, "DNSConfig", "Options"), drops(*C, "DNSConfig", "Options")),
    ListFlag("sysctl", "Kernel parameter", merges("sysctl", *C, "Sysctls"), forgets(*C, "Sysctls")),
    ListFlag(
        "ulimit",
        "Resource limit, NAME=SOFT[:HARD]",
        extends(
            *C, "Ulimits", as_=lambda items: [values.ulimit(item) for item in items], key=lambda item: item["Name"]
        ),
        drops(*C, "Ulimits", key=lambda item: item["Name"]),
    ),
)

CAPABILITIES = (
    Flag("cap-add", list[str], "Add a capability", extends(*C, "CapabilityAdd")),
    Flag("cap-drop", list[str], "Take a capability away", extends(*C, "CapabilityDrop")),
)

ABSENT_LISTS = ("config", "generic-resource", "network", "secret")

CREATE: tuple[Flag, ...] = (
    Flag("mode", str, "replicated (default)", mode),
    *SHARED,
    *CAPABILITIES,
    Flag("env-file", list[str], "File of environment variables", extends(*C, "Env", as_=env_files, key=variable)),
    *(Flag(item.name, list[str], item.help, item.add, item.short) for item in LISTS),
    *absent("credential-spec", "max-concurrent", *ABSENT_LISTS),
)

UPDATE: tuple[Flag, ...] = (
    Flag("image", str, "New image", sets(*C, "Image")),
    Flag("args", str, "New arguments", sets(*C, "Args", as_=words)),
    *SHARED,
    *CAPABILITIES,
    *(Flag(f"{item.name}-rm", list[str], f"Remove: {item.help}", item.remove) for item in LISTS),
    *(Flag(f"{item.name}-add", list[str], f"Add: {item.help}", item.add) for item in LISTS),
    *absent("credential-spec", "max-concurrent"),
    *absent(*(f"{name}-{verb}" for name in ABSENT_LISTS for verb in ("add", "rm"))),
)
