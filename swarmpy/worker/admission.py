"""Whether nodes can run a service, asked before it is stored.

Owns    what every node would refuse: each option of the task is judged by the engine's own rules, and then the whole
        task is made as a node makes it, all but the image. A service whose tasks could only be rejected, one after
        the other, is not accepted.
In      a ServiceSpec.
Out     nothing, or InvalidArgument and NotSupported with the field's path in the Engine API. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from swarmpy.engine.checks import (
    check_container,
    check_health,
    check_hostname,
    check_isolation,
    check_name_servers,
    check_resources,
    check_sysctls,
    check_ulimits,
    check_working_dir,
)
from swarmpy.engine.config import ContainerConfig, HostConfig
from swarmpy.engine.hosts import check_extra_hosts
from swarmpy.engine.log_options import check_log_options
from swarmpy.engine.mounts import parse_mounts, wanted_mounts
from swarmpy.engine.privileges import capability_set, seccomp_option
from swarmpy.engine.signals import parse_signal
from swarmpy.errors import naming
from swarmpy.rpc.types_pb2 import ServiceSpec, Task, TaskSpec
from swarmpy.worker.container_spec import TaskContainer, container_for
from swarmpy.worker.executor import Order

__all__ = ["check_runnable"]

_ID = "0" * 25
_MOST_CPUS = 1 << 20


def check_runnable(spec: ServiceSpec) -> None:
    """Raise InvalidArgument or NotSupported, naming the field, for what no node would run."""
    for field, check in _BEFORE.items():
        with naming(f"TaskTemplate.{field}"):
            check(spec.task)
    made = container_for(_order(spec), hostname="node", architecture="x86_64", cpus=_MOST_CPUS)
    for field, check_made in _MADE.items():
        with naming(f"TaskTemplate.{field}"):
            check_made(made.config, made.host)
    with naming("TaskTemplate"):
        _check_whole(made)


def _order(spec: ServiceSpec) -> Order:
    """A task of the service, as a node would hold it."""
    annotations = spec.annotations
    task = Task(
        id=_ID, service_id=_ID, service_name=annotations.name, service_labels=annotations.labels, slot=1, node_id=_ID
    )
    return Order(task, spec.task)


def _check_capabilities(names: list[str]) -> None:
    capability_set(names, (), privileged=False, available=())


def _check_seccomp(task: TaskSpec) -> None:
    privileges = task.container.privileges
    if privileges.seccomp_mode == "custom":
        seccomp_option(privileges.seccomp_profile.decode(errors="replace"))


_BEFORE: Mapping[str, Callable[[TaskSpec], object]] = {
    "ContainerSpec.StopSignal": lambda task: parse_signal(task.container.stop_signal, 15),
    "ContainerSpec.CapabilityAdd": lambda task: _check_capabilities(list(task.container.capability_add)),
    "ContainerSpec.CapabilityDrop": lambda task: _check_capabilities(list(task.container.capability_drop)),
    "ContainerSpec.Isolation": lambda task: check_isolation(task.container.isolation),
    "ContainerSpec.Privileges.Seccomp.Profile": _check_seccomp,
}
"""Of what only the spec still shows by its name."""

_MADE: Mapping[str, Callable[[ContainerConfig, HostConfig], object]] = {
    "ContainerSpec.Hostname": lambda config, _: check_hostname(config.hostname),
    "ContainerSpec.Dir": lambda config, _: check_working_dir(config.working_dir),
    "ContainerSpec.Healthcheck": lambda config, _: check_health(config.healthcheck),
    "ContainerSpec.Hosts": lambda _, host: check_extra_hosts(host.extra_hosts),
    "ContainerSpec.DNSConfig.Nameservers": lambda _, host: check_name_servers(host.dns),
    "ContainerSpec.Sysctls": lambda _, host: check_sysctls(host.sysctls),
    "ContainerSpec.Ulimits": lambda _, host: check_ulimits(host.ulimits),
    "ContainerSpec.Mounts": lambda _, host: parse_mounts(host.mounts),
    "LogDriver": lambda _, host: check_log_options(host.log_config),
    "Resources": lambda _, host: check_resources(host, _MOST_CPUS),
}
"""Of the container, by the field of the spec that asks for it."""


def _check_whole(made: TaskContainer) -> None:
    """What the engine says of it as it would on a node; the image may bring a command where the service names none."""
    config = replace(made.config, cmd=made.config.cmd or ("the image's",))
    check_container(config, made.host, made.networking, _MOST_CPUS)
    wanted_mounts(config, made.host)
