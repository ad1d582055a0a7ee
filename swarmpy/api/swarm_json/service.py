"""Service and ServiceSpec <-> JSON.

Source  Docker Engine API: ServiceSpec, Service, EndpointSpec.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarmpy.api.fields import Fields
from swarmpy.api.swarm_json.task_spec import task_spec_from_json, task_spec_to_json
from swarmpy.api.swarm_json.values import JSON, compact
from swarmpy.engine.times import format_rfc3339
from swarmpy.errors import InvalidArgument, NotSupported
from swarmpy.rpc.types_pb2 import (
    Endpoint,
    EndpointSpec,
    PortConfig,
    Service,
    ServiceSpec,
    UpdateConfig,
    UpdateStatus,
)

__all__ = ["ports_to_json", "service_spec_from_json", "service_spec_to_json", "service_to_json"]

PROTOCOLS = {"tcp": PortConfig.TCP, "udp": PortConfig.UDP, "sctp": PortConfig.SCTP}
PROTOCOL_NAMES = {value: name for name, value in PROTOCOLS.items()}
MODES = {"ingress": PortConfig.INGRESS, "host": PortConfig.HOST}
MODE_NAMES = {value: name for name, value in MODES.items()}
FAILURE_ACTIONS = {
    "pause": UpdateConfig.PAUSE, "continue": UpdateConfig.CONTINUE, "rollback": UpdateConfig.ROLLBACK,
}
FAILURE_ACTION_NAMES = {value: name for name, value in FAILURE_ACTIONS.items()}
ORDERS = {"stop-first": UpdateConfig.STOP_FIRST, "start-first": UpdateConfig.START_FIRST}
ORDER_NAMES = {value: name for name, value in ORDERS.items()}
UPDATE_STATES = {
    UpdateStatus.UPDATING: "updating",
    UpdateStatus.PAUSED: "paused",
    UpdateStatus.COMPLETED: "completed",
    UpdateStatus.ROLLBACK_STARTED: "rollback_started",
    UpdateStatus.ROLLBACK_PAUSED: "rollback_paused",
    UpdateStatus.ROLLBACK_COMPLETED: "rollback_completed",
}


def service_spec_from_json(body: object) -> ServiceSpec:
    """The body of POST /services/create and /services/{id}/update. Raises InvalidArgument and NotSupported."""
    fields = Fields(body)
    spec = ServiceSpec(task=task_spec_from_json(fields.inner("TaskTemplate")))
    spec.annotations.name = fields.text("Name")
    spec.annotations.labels.update(fields.mapping("Labels"))
    mode = fields.inner("Mode")
    for name in ("Global", "ReplicatedJob", "GlobalJob"):
        if mode.has(name):
            raise NotSupported(f"{mode.path(name)} is not supported yet; use Replicated")
    spec.mode.replicated.SetInParent()
    replicated = mode.inner("Replicated")
    if replicated.has("Replicas"):
        spec.mode.replicated.replicas = replicated.integer("Replicas", least=0)
    if fields.has("UpdateConfig"):
        spec.update.CopyFrom(update_from_json(fields.inner("UpdateConfig")))
    if fields.has("RollbackConfig"):
        spec.rollback.CopyFrom(update_from_json(fields.inner("RollbackConfig")))
    for network in fields.each("Networks"):   # the older place of TaskTemplate.Networks
        spec.task.networks.add(target=network.text("Target"), aliases=network.texts("Aliases"))
    if fields.has("EndpointSpec"):
        spec.endpoint.CopyFrom(endpoint_from_json(fields.inner("EndpointSpec")))
    fields.refuse_rest()
    return spec


def update_from_json(fields: Fields) -> UpdateConfig:
    update = UpdateConfig(
        parallelism=fields.integer("Parallelism", least=0),
        delay_ns=fields.integer("Delay"),
        failure_action=fields.choice("FailureAction", FAILURE_ACTIONS, UpdateConfig.PAUSE),
        max_failure_ratio=fields.number("MaxFailureRatio"),
        order=fields.choice("Order", ORDERS, UpdateConfig.STOP_FIRST),
    )
    if fields.integer("Monitor"):
        update.monitor_ns = fields.integer("Monitor")
    return update


def endpoint_from_json(fields: Fields) -> EndpointSpec:
    endpoint = EndpointSpec(mode=fields.text("Mode"))
    for port in fields.each("Ports"):
        if not port.has("TargetPort"):
            raise InvalidArgument(f"{port.path('TargetPort')}: the port in the container must be given")
        endpoint.ports.add(
            name=port.text("Name"),
            protocol=port.choice("Protocol", PROTOCOLS, PortConfig.TCP),
            target_port=port.integer("TargetPort", least=1, most=65535),
            published_port=port.integer("PublishedPort", least=0, most=65535),
            publish_mode=port.choice("PublishMode", MODES, PortConfig.INGRESS),
        )
    return endpoint


def service_spec_to_json(spec: ServiceSpec) -> JSON:
    replicas = spec.mode.replicated.replicas if spec.mode.replicated.HasField("replicas") else 1
    result: JSON = {
        "Name": spec.annotations.name,
        "Labels": dict(spec.annotations.labels),
        "TaskTemplate": task_spec_to_json(spec.task),
        "Mode": {"Replicated": {"Replicas": replicas}},
    }
    if spec.HasField("update"):
        result["UpdateConfig"] = update_to_json(spec.update)
    if spec.HasField("rollback"):
        result["RollbackConfig"] = update_to_json(spec.rollback)
    if spec.HasField("endpoint"):
        result["EndpointSpec"] = endpoint_spec_to_json(spec.endpoint)
    return result


def update_to_json(update: UpdateConfig) -> JSON:
    result: JSON = {"Parallelism": update.parallelism}
    if update.delay_ns:
        result["Delay"] = update.delay_ns
    result["FailureAction"] = FAILURE_ACTION_NAMES[update.failure_action]
    if update.HasField("monitor_ns"):
        result["Monitor"] = update.monitor_ns
    return result | {"MaxFailureRatio": update.max_failure_ratio, "Order": ORDER_NAMES[update.order]}


def endpoint_spec_to_json(endpoint: EndpointSpec) -> JSON:
    result: JSON = {"Mode": endpoint.mode or "vip"}
    if endpoint.ports:
        result["Ports"] = ports_to_json(endpoint.ports)
    return result


def ports_to_json(ports: Iterable[PortConfig]) -> list[JSON]:
    """EndpointPortConfig, for services and for a task's PortStatus."""
    return [
        compact({"Name": port.name})
        | {"Protocol": PROTOCOL_NAMES[port.protocol], "TargetPort": port.target_port}
        | compact({"PublishedPort": port.published_port})
        | {"PublishMode": MODE_NAMES[port.publish_mode]}
        for port in ports
    ]


def endpoint_to_json(endpoint: Endpoint) -> JSON:
    result: JSON = {"Spec": endpoint_spec_to_json(endpoint.spec) if endpoint.HasField("spec") else {}}
    if endpoint.ports:
        result["Ports"] = ports_to_json(endpoint.ports)
    if endpoint.virtual_ips:
        result["VirtualIPs"] = [{"NetworkID": vip.network_id, "Addr": vip.address} for vip in endpoint.virtual_ips]
    return result


def service_to_json(service: Service) -> JSON:
    """Service, without ServiceStatus: that is counted where the tasks are at hand."""
    result: JSON = {
        "ID": service.id,
        "Version": {"Index": service.meta.version},
        "CreatedAt": format_rfc3339(service.meta.created_ns),
        "UpdatedAt": format_rfc3339(service.meta.updated_ns),
        "Spec": service_spec_to_json(service.spec),
        "Endpoint": endpoint_to_json(service.endpoint),
    }
    if service.HasField("previous_spec"):
        result["PreviousSpec"] = service_spec_to_json(service.previous_spec)
    if service.update_status.state != UpdateStatus.UNKNOWN:
        status = service.update_status
        shown: JSON = {"State": UPDATE_STATES[status.state], "StartedAt": format_rfc3339(status.started_ns)}
        if status.completed_ns:
            shown["CompletedAt"] = format_rfc3339(status.completed_ns)
        result["UpdateStatus"] = shown | {"Message": status.message}
    return result
