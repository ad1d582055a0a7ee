"""What a spec must satisfy before it enters the store. Pure: a spec in, InvalidArgument or NotSupported out.

Source  Docker Engine API: ServiceSpec, NodeSpec, SwarmSpec; RFC 1123 for names.
"""

from __future__ import annotations

import re

from swarmpy.errors import InvalidArgument, NotSupported, naming
from swarmpy.manager.store import validate_constraint, validate_spread_descriptor
from swarmpy.rpc.types_pb2 import (
    ClusterSpec,
    ContainerSpec,
    EndpointSpec,
    NodeSpec,
    PortConfig,
    ResourceRequirements,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)

__all__ = ["check_cluster", "check_node", "check_service", "port_label"]

NAME = re.compile(r"^[a-zA-Z0-9](?:[-_.]*[A-Za-z0-9]+)*$")
SECOND = 1_000_000_000
HOUR = 3600 * SECOND
LEAST_NANO_CPUS = 10_000_000           # the kernel's quota is at least 1 ms of the period of 100 ms
LEAST_MEMORY_BYTES = 6 << 20           # below this no process starts under a memory cgroup
MOST_REPLICAS = 10_000_000


def check_service(spec: ServiceSpec) -> None:
    """Raise InvalidArgument or NotSupported, naming the field, unless the spec can be run."""
    check_name("Name", spec.annotations.name)
    check_task(spec.task)
    if spec.mode.WhichOneof("mode") not in (None, "replicated"):
        raise NotSupported("Mode: only Replicated services are supported yet")
    if spec.mode.replicated.replicas > MOST_REPLICAS:
        raise InvalidArgument(f"Mode.Replicated.Replicas: {spec.mode.replicated.replicas} is more than {MOST_REPLICAS}")
    check_update("UpdateConfig", spec.update)
    check_update("RollbackConfig", spec.rollback)
    check_endpoint(spec.endpoint)


def check_name(field: str, name: str) -> None:
    if not name:
        raise InvalidArgument(f"{field}: a name must be given")
    if len(name) > 63 or not NAME.match(name):
        raise InvalidArgument(
            f"{field}: {name!r} is not valid; use at most 63 letters, digits, '-', '_' or '.', "
            "beginning and ending with a letter or digit"
        )


def check_task(task: TaskSpec) -> None:
    check_container(task.container)
    check_resources(task.resources)
    if task.restart.delay_ns < 0:
        raise InvalidArgument("TaskTemplate.RestartPolicy.Delay: must not be negative")
    if task.restart.window_ns < 0:
        raise InvalidArgument("TaskTemplate.RestartPolicy.Window: must not be negative")
    with naming("TaskTemplate.Placement.Constraints"):
        for constraint in task.placement.constraints:
            validate_constraint(constraint)
    with naming("TaskTemplate.Placement.Preferences"):
        for preference in task.placement.preferences:
            validate_spread_descriptor(preference.spread_descriptor)
    if task.networks:
        raise NotSupported("TaskTemplate.Networks: attaching services to networks is not supported yet")


def check_container(container: ContainerSpec) -> None:
    if not container.image:
        raise InvalidArgument("TaskTemplate.ContainerSpec.Image: an image must be given")
    if any(character.isspace() for character in container.image):
        raise InvalidArgument(f"TaskTemplate.ContainerSpec.Image: {container.image!r} is not a valid image reference")
    if container.stop_grace_period_ns < 0:
        raise InvalidArgument("TaskTemplate.ContainerSpec.StopGracePeriod: must not be negative")
    for variable in container.env:
        if not variable or variable.startswith("="):
            raise InvalidArgument(f"TaskTemplate.ContainerSpec.Env: {variable!r} has no name before the '='")
    targets = set()
    for mount in container.mounts:
        if mount.target in targets:
            raise InvalidArgument(f"TaskTemplate.ContainerSpec.Mounts: two mounts have the target {mount.target!r}")
        targets.add(mount.target)


def check_resources(resources: ResourceRequirements) -> None:
    for field, value in (("Limits", resources.limits), ("Reservations", resources.reservations)):
        path = f"TaskTemplate.Resources.{field}"
        if value.nano_cpus < 0 or 0 < value.nano_cpus < LEAST_NANO_CPUS:
            raise InvalidArgument(f"{path}.NanoCPUs: {value.nano_cpus} must be 0 or at least 10000000 (0.01 CPU)")
        if value.memory_bytes < 0 or 0 < value.memory_bytes < LEAST_MEMORY_BYTES:
            raise InvalidArgument(f"{path}.MemoryBytes: {value.memory_bytes} must be 0 or at least 6 MiB")
    if resources.limits.pids < 0:
        raise InvalidArgument("TaskTemplate.Resources.Limits.Pids: must not be negative")
    if 0 < resources.limits.memory_bytes < resources.reservations.memory_bytes:
        raise InvalidArgument("TaskTemplate.Resources: the memory reservation is larger than the memory limit")
    if 0 < resources.limits.nano_cpus < resources.reservations.nano_cpus:
        raise InvalidArgument("TaskTemplate.Resources: the CPU reservation is larger than the CPU limit")


def check_update(field: str, update: UpdateConfig) -> None:
    if update.delay_ns < 0:
        raise InvalidArgument(f"{field}.Delay: must not be negative")
    if update.monitor_ns < 0:
        raise InvalidArgument(f"{field}.Monitor: must not be negative")
    if not 0 <= update.max_failure_ratio <= 1:
        raise InvalidArgument(f"{field}.MaxFailureRatio: {update.max_failure_ratio} is not between 0 and 1")
    if field == "RollbackConfig" and update.failure_action == UpdateConfig.ROLLBACK:
        raise InvalidArgument("RollbackConfig.FailureAction: a rollback cannot be rolled back; use pause or continue")


def check_endpoint(endpoint: EndpointSpec) -> None:
    if endpoint.mode not in ("", "vip", "dnsrr"):
        raise InvalidArgument(f"EndpointSpec.Mode: {endpoint.mode!r} is not one of vip, dnsrr")
    published: set[tuple[int, int]] = set()
    for port in endpoint.ports:
        if not 1 <= port.target_port <= 65535:
            raise InvalidArgument(f"EndpointSpec.Ports: target port {port.target_port} is not between 1 and 65535")
        if port.published_port > 65535:
            raise InvalidArgument(f"EndpointSpec.Ports: published port {port.published_port} is more than 65535")
        if port.protocol == PortConfig.SCTP:
            raise NotSupported("EndpointSpec.Ports: protocol sctp is not supported yet")
        if endpoint.mode == "dnsrr" and port.publish_mode == PortConfig.INGRESS:
            raise InvalidArgument("EndpointSpec: a port published in ingress mode needs endpoint mode vip, not dnsrr")
        if port.published_port:
            key = (port.protocol, port.published_port)
            if key in published:
                raise InvalidArgument(f"EndpointSpec.Ports: {port_label(port)} is published twice")
            published.add(key)


def port_label(port: PortConfig) -> str:
    """`8080/tcp`."""
    return f"{port.published_port}/{PortConfig.Protocol.Name(port.protocol).lower()}"


def check_node(spec: NodeSpec) -> None:
    if spec.annotations.name:
        check_name("Name", spec.annotations.name)


ELECTION_TICK, HEARTBEAT_TICK = 10, 1            # of RaftConfig: what Docker's defaults are


def check_cluster(spec: ClusterSpec) -> None:
    """The name of a cluster is fixed: `default`, as with Docker."""
    if spec.annotations.name not in ("", "default"):
        raise InvalidArgument(f"Name: a swarm is named 'default', not {spec.annotations.name!r}")
    if spec.ca.HasField("node_cert_expiry_ns") and spec.ca.node_cert_expiry_ns < HOUR:
        raise InvalidArgument("CAConfig.NodeCertExpiry: must be at least 1h")
    if spec.HasField("heartbeat_period_ns") and spec.heartbeat_period_ns < SECOND // 10:
        raise InvalidArgument("Dispatcher.HeartbeatPeriod: must be at least 100ms")
    raft = spec.raft
    if raft.election_tick not in (0, ELECTION_TICK) or raft.heartbeat_tick not in (0, HEARTBEAT_TICK):
        raise NotSupported(f"Raft.ElectionTick, HeartbeatTick: {ELECTION_TICK} and {HEARTBEAT_TICK} are fixed for now")
    if raft.keep_old_snapshots:
        raise NotSupported("Raft.KeepOldSnapshots: old snapshots are not kept yet; leave it at 0")
