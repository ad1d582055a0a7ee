"""A service's ContainerSpec as the container of one task.

Owns    the translation into the Engine API's ContainerConfig, HostConfig and NetworkingConfig. Pure.
Source  Docker Engine API, definitions TaskSpec and ContainerConfig; the labels are those of Docker's swarm.

What no node can do is refused before a service is stored (`admission.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    TmpfsOptions,
    Ulimit,
    VolumeDriver,
    VolumeOptions,
)
from swarmpy.errors import InvalidArgument, NotSupported
from swarmpy.rpc.types_pb2 import ContainerSpec, PortConfig, Privileges, TaskSpec
from swarmpy.rpc.types_pb2 import Mount as MountSpec
from swarmpy.worker.executor import Order, task_name
from swarmpy.worker.placeholders import expand, values_of

__all__ = ["TASK_ID_LABEL", "TaskContainer", "container_for"]

TASK_ID_LABEL = "com.docker.swarm.task.id"


@dataclass(frozen=True, slots=True)
class TaskContainer:
    """Everything `Containers.create` wants."""

    name: str
    config: ContainerConfig
    host: HostConfig
    networking: NetworkingConfig


def container_for(order: Order, *, hostname: str, architecture: str, cpus: int) -> TaskContainer:
    """The container of a task on a host with that name and so many CPUs.

    Raises InvalidArgument and NotSupported, naming the field.
    """
    task, spec = order.task, order.spec
    name = task_name(task)
    values = values_of(task, name, hostname=hostname, architecture=architecture, os="linux")
    _refuse(spec)
    container = spec.container
    config = ContainerConfig(
        hostname=expand(container.hostname, values, "TaskTemplate.ContainerSpec.Hostname"),
        user=container.user,
        tty=container.tty,
        open_stdin=container.open_stdin,
        env=tuple(_variable(entry, values) for entry in container.env),
        cmd=tuple(container.args) if container.args or container.command else None,
        entrypoint=tuple(container.command) if container.command else None,
        healthcheck=_healthcheck(container),
        image=container.image,
        working_dir=container.dir,
        labels={**container.labels, **_labels(order, name)},
        stop_signal=container.stop_signal,
        stop_timeout=max(0, order.grace_ns) // 1_000_000_000,
    )
    return TaskContainer(name, config, _host(order, values, cpus), _networking(order))


def _refuse(spec: TaskSpec) -> None:
    if spec.networks:
        raise NotSupported(f"TaskTemplate.Networks: network {spec.networks[0].target} cannot be joined by tasks yet")
    if spec.container.isolation not in ("", "default"):
        raise NotSupported(f"TaskTemplate.ContainerSpec.Isolation: '{spec.container.isolation}' is for Windows")


def _variable(entry: str, values: Mapping[str, str]) -> str:
    """Placeholders are for the value; a name is what it is."""
    name, equals, value = entry.partition("=")
    return f"{name}{equals}{expand(value, values, f'TaskTemplate.ContainerSpec.Env: {name}')}"


def _labels(order: Order, name: str) -> dict[str, str]:
    task = order.task
    return {
        "com.docker.swarm.node.id": task.node_id,
        "com.docker.swarm.service.id": task.service_id,
        "com.docker.swarm.service.name": task.service_name,
        "com.docker.swarm.task": "",
        TASK_ID_LABEL: task.id,
        "com.docker.swarm.task.name": name,
    }


def _healthcheck(container: ContainerSpec) -> HealthConfig | None:
    if not container.HasField("healthcheck"):
        return None
    check = container.healthcheck
    return HealthConfig(
        tuple(check.test), check.interval_ns, check.timeout_ns, check.start_period_ns, check.start_interval_ns,
        check.retries,
    )


def _host(order: Order, values: Mapping[str, str], cpus: int) -> HostConfig:
    """A limit of more CPUs than the host has limits nothing there, and is no reason not to run."""
    container, limits = order.spec.container, order.spec.resources.limits
    return HostConfig(
        memory=limits.memory_bytes,
        memory_reservation=order.spec.resources.reservations.memory_bytes,
        nano_cpus=min(limits.nano_cpus, cpus * 1_000_000_000),
        pids_limit=limits.pids or None,
        ulimits=tuple(Ulimit(limit.name, limit.hard, limit.soft) for limit in container.ulimits),
        log_config=LogConfig(order.spec.log_driver.name, dict(order.spec.log_driver.options)),
        port_bindings=_host_ports(order),
        mounts=tuple(_mount(mount, values) for mount in container.mounts),
        cap_add=tuple(container.capability_add),
        cap_drop=tuple(container.capability_drop),
        dns=tuple(container.dns.nameservers),
        dns_search=tuple(container.dns.search),
        dns_options=tuple(container.dns.options),
        extra_hosts=tuple(entry for line in container.hosts for entry in _hosts(line)),
        group_add=tuple(container.groups),
        oom_score_adj=container.oom_score_adj,
        readonly_rootfs=container.read_only,
        security_opt=_security(container.privileges),
        sysctls=dict(container.sysctls),
        init=container.init if container.HasField("init") else None,
    )


def _security(privileges: Privileges) -> tuple[str, ...]:
    options = ["no-new-privileges"] if privileges.no_new_privileges else []
    if privileges.seccomp_mode == "unconfined":
        options.append("seccomp=unconfined")
    elif privileges.seccomp_mode == "custom":
        options.append(f"seccomp={privileges.seccomp_profile.decode()}")
    elif privileges.seccomp_mode not in ("", "default"):
        raise InvalidArgument(
            f"TaskTemplate.ContainerSpec.Privileges.Seccomp.Mode: '{privileges.seccomp_mode}' is not one of default, "
            "unconfined, custom"
        )
    return tuple(options)


def _hosts(line: str) -> list[str]:
    """"IP name [alias …]" (hosts(5)) as "name:IP" for each name."""
    address, *names = line.split()
    if not names:
        raise InvalidArgument(f"TaskTemplate.ContainerSpec.Hosts: '{line}' is not 'ADDRESS NAME'")
    return [f"{name}:{address}" for name in names]


def _host_ports(order: Order) -> dict[str, tuple[PortBinding, ...]]:
    """mode=host: published on this host alone; port 0 asks for a free one."""
    bindings: dict[str, tuple[PortBinding, ...]] = {}
    for port in order.task.ports:
        if port.publish_mode == PortConfig.HOST:
            key = f"{port.target_port}/{PortConfig.Protocol.Name(port.protocol).lower()}"
            bindings[key] = (*bindings.get(key, ()), PortBinding("", str(port.published_port or "")))
    return bindings


def _mount(mount: MountSpec, values: Mapping[str, str]) -> Mount:
    path = "TaskTemplate.ContainerSpec.Mounts"
    driver = mount.volume_driver
    bind = BindOptions(
        mount.bind_propagation, mount.bind_non_recursive, mount.bind_create_mountpoint,
        mount.bind_read_only_non_recursive, mount.bind_read_only_force_recursive,
    )  # fmt: skip
    volume = VolumeOptions(
        no_copy=mount.volume_no_copy,
        labels={name: expand(value, values, path) for name, value in mount.volume_labels.items()},
        driver_config=VolumeDriver(driver.name, dict(driver.options)) if driver.name or driver.options else None,
        subpath=mount.volume_subpath,
    )
    tmpfs = TmpfsOptions(mount.tmpfs_size_bytes, mount.tmpfs_mode)
    return Mount(
        type=mount.type or "volume",
        source=expand(mount.source, values, path),
        target=expand(mount.target, values, path),
        read_only=mount.read_only,
        bind=bind if bind != BindOptions() else None,
        volume=volume if volume != VolumeOptions() else None,
        tmpfs=tmpfs if tmpfs != TmpfsOptions() else None,
    )


def _networking(order: Order) -> NetworkingConfig:
    """The default bridge, to reach the world; and the ingress network, where the task has an address in it."""
    for attachment in order.task.networks:
        if attachment.addresses:
            return NetworkingConfig({"ingress": EndpointConfig(ipam=IPAMConfig(attachment.addresses[0]))})
    return NetworkingConfig()
