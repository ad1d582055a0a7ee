"""Node and NodeSpec <-> JSON.

Source  Docker Engine API: Node, NodeSpec, ManagerStatus.
"""

from __future__ import annotations

import base64

from swarmpy.api.fields import Fields
from swarmpy.api.swarm_json.values import JSON, compact
from swarmpy.engine.times import format_rfc3339
from swarmpy.errors import InvalidArgument
from swarmpy.manager.replicated_log import LogMember
from swarmpy.rpc.types_pb2 import Node, NodeDescription, NodeRole, NodeSpec, NodeStatus

__all__ = ["AVAILABILITIES", "node_spec_from_json", "node_to_json"]

ROLES = {"worker": NodeRole.WORKER, "manager": NodeRole.MANAGER}
ROLE_NAMES = {value: name for name, value in ROLES.items()}
AVAILABILITIES = {"active": NodeSpec.ACTIVE, "pause": NodeSpec.PAUSE, "drain": NodeSpec.DRAIN}
AVAILABILITY_NAMES = {value: name for name, value in AVAILABILITIES.items()}


def node_spec_from_json(body: object) -> NodeSpec:
    """The body of POST /nodes/{id}/update."""
    fields = Fields(body)
    for name in ("Role", "Availability"):
        if not fields.text(name):
            raise InvalidArgument(f"{name}: must be given; to leave it as it is, send what the node shows")
    spec = NodeSpec(
        role=fields.choice("Role", ROLES, NodeRole.WORKER),
        availability=fields.choice("Availability", AVAILABILITIES, NodeSpec.ACTIVE),
    )
    spec.annotations.name = fields.text("Name")
    spec.annotations.labels.update(fields.mapping("Labels"))
    fields.refuse_rest()
    return spec


def node_to_json(node: Node, member: LogMember | None) -> JSON:
    """`member` is the node's place among the managers, if it is one."""
    spec = node.spec
    result: JSON = {
        "ID": node.id,
        "Version": {"Index": node.meta.version},
        "CreatedAt": format_rfc3339(node.meta.created_ns),
        "UpdatedAt": format_rfc3339(node.meta.updated_ns),
        "Spec": compact({"Name": spec.annotations.name})
        | {
            "Labels": dict(spec.annotations.labels),
            "Role": ROLE_NAMES[spec.role],
            "Availability": AVAILABILITY_NAMES[spec.availability],
        },
        "Description": description_to_json(node.description),
        "Status": {"State": NodeStatus.State.Name(node.status.state).lower()}
        | compact({"Message": node.status.message, "Addr": node.status.addr}),
    }
    if member is not None:
        result["ManagerStatus"] = compact({"Leader": member.leader}) | {
            "Reachability": "reachable" if member.reachable else "unreachable",
            "Addr": member.addr,
        }
    return result


def description_to_json(description: NodeDescription) -> JSON:
    return {
        "Hostname": description.hostname,
        "Platform": {"Architecture": description.platform.architecture, "OS": description.platform.os},
        "Resources": {
            "NanoCPUs": description.resources.nano_cpus, "MemoryBytes": description.resources.memory_bytes,
        },
        "Engine": compact(
            {
                "EngineVersion": description.engine_version,
                "Labels": dict(description.engine_labels),
                "Plugins": [{"Type": item.type, "Name": item.name} for item in description.plugins],
            }
        ),
        "TLSInfo": compact(
            {
                "TrustRoot": description.root_ca_pem,
                "CertIssuerSubject": base64.b64encode(description.cert_issuer_subject).decode(),
                "CertIssuerPublicKey": base64.b64encode(description.cert_issuer_public_key).decode(),
            }
        ),
    }
