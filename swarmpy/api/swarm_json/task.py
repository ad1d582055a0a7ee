"""Task -> JSON.

Source  Docker Engine API: Task, TaskStatus.
"""

from __future__ import annotations

from swarmpy.api.swarm_json.network import network_to_json
from swarmpy.api.swarm_json.service import ports_to_json
from swarmpy.api.swarm_json.task_spec import task_spec_to_json
from swarmpy.api.swarm_json.values import JSON, compact
from swarmpy.engine.times import format_rfc3339
from swarmpy.manager.store import Store
from swarmpy.rpc.types_pb2 import Task, TaskState, TaskStatus

__all__ = ["state_name", "task_to_json"]


def state_name(state: TaskState) -> str:
    """`running`, as `docker service ps` shows it."""
    return TaskState.Name(state).lower()


def task_to_json(task: Task, store: Store) -> JSON:
    """The task with its spec, which it shares with its siblings, and its networks filled in."""
    template = store.templates.get(task.template_id)
    result: JSON = {
        "ID": task.id,
        "Version": {"Index": task.meta.version},
        "CreatedAt": format_rfc3339(task.meta.created_ns),
        "UpdatedAt": format_rfc3339(task.meta.updated_ns),
        "Labels": {},
        "Spec": task_spec_to_json(template.spec) if template is not None else {},
        "ServiceID": task.service_id,
        "Slot": task.slot,
    }
    if task.node_id:
        result["NodeID"] = task.node_id
    result["Status"] = status_to_json(task.status)
    result["DesiredState"] = state_name(task.desired_state)
    attachments: list[JSON] = []
    for attachment in task.networks:
        network = store.networks.get(attachment.network_id)
        if network is not None:
            attachments.append({"Network": network_to_json(network), "Addresses": list(attachment.addresses)})
    if attachments:
        result["NetworksAttachments"] = attachments
    return result | {"Volumes": None}


def status_to_json(status: TaskStatus) -> JSON:
    result: JSON = {"Timestamp": format_rfc3339(status.timestamp_ns), "State": state_name(status.state)}
    result |= compact({"Message": status.message, "Err": status.error})
    if status.HasField("container"):
        result["ContainerStatus"] = {
            "ContainerID": status.container.container_id,
            "PID": status.container.pid,
            "ExitCode": status.container.exit_code,
        }
    return result | {"PortStatus": {"Ports": ports_to_json(status.host_ports)} if status.host_ports else {}}
