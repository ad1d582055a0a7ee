"""Task -> JSON.

Source  Docker Engine API: Task, TaskStatus.
"""

from __future__ import annotations

import json

from swarmpy.api.swarm_json.network import network_to_json
from swarmpy.api.swarm_json.service import ports_to_json
from swarmpy.api.swarm_json.task_spec import task_spec_to_json
from swarmpy.api.swarm_json.values import JSON, compact
from swarmpy.engine.times import format_rfc3339
from swarmpy.manager.store import Store
from swarmpy.rpc.types_pb2 import Task, TaskState, TaskStatus, TaskTemplate

__all__ = ["spec_to_text", "state_name", "task_to_json", "task_to_text"]

_STATE_NAMES = {number: name.lower() for name, number in TaskState.items()}


def state_name(state: TaskState) -> str:
    """`running`, as `docker service ps` shows it."""
    return _STATE_NAMES[state]


def task_to_json(task: Task, store: Store) -> JSON:
    """The task with its spec, which it shares with its siblings, and its networks filled in."""
    template = store.templates.get(task.template_id)
    spec = task_spec_to_json(template.spec) if template is not None else {}
    return _before_spec(task) | {"Spec": spec} | _after_spec(task, store)


def task_to_text(task: Task, spec: str, store: Store) -> str:
    """The same as text, with the text of its spec: many tasks share one, and it is the larger part."""
    before, after = json.dumps(_before_spec(task)), json.dumps(_after_spec(task, store))
    return f'{before[:-1]}, "Spec": {spec}, {after[1:]}'


def spec_to_text(template: TaskTemplate) -> str:
    """The spec of the tasks made from a template."""
    return json.dumps(task_spec_to_json(template.spec))


def _before_spec(task: Task) -> JSON:
    return {
        "ID": task.id,
        "Version": {"Index": task.meta.version},
        "CreatedAt": format_rfc3339(task.meta.created_ns),
        "UpdatedAt": format_rfc3339(task.meta.updated_ns),
        "Labels": {},
    }


def _after_spec(task: Task, store: Store) -> JSON:
    result: JSON = {"ServiceID": task.service_id, "Slot": task.slot}
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
