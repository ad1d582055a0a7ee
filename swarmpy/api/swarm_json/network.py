"""A swarm's networks -> JSON, in the two shapes of the API.

Source  Docker Engine API: Network (GET /networks), Task.NetworksAttachments.
"""

from __future__ import annotations

from swarmpy.api.swarm_json.values import JSON, compact
from swarmpy.engine.times import format_rfc3339
from swarmpy.rpc.types_pb2 import Network

__all__ = ["network_resource_to_json", "network_to_json"]

DRIVER_OPTION = "com.docker.network.driver.overlay.vxlanid_list"


def network_to_json(network: Network) -> JSON:
    """As a swarm object."""
    spec = network.spec
    return {
        "ID": network.id,
        "Version": {"Index": network.meta.version},
        "CreatedAt": format_rfc3339(network.meta.created_ns),
        "UpdatedAt": format_rfc3339(network.meta.updated_ns),
        "Spec": {
            "Name": spec.annotations.name,
            "Labels": dict(spec.annotations.labels),
            "DriverConfiguration": {},
            "Ingress": spec.ingress,
            "IPAMOptions": {"Driver": {}},
            "Scope": "swarm",
        },
        "DriverState": {"Name": spec.driver or "overlay", "Options": {DRIVER_OPTION: str(network.vni)}},
        "IPAMOptions": {"Driver": {"Name": "default"}, "Configs": configs(network)},
    }


def network_resource_to_json(network: Network) -> JSON:
    """As GET /networks shows it beside the networks of the host."""
    spec = network.spec
    return {
        "Name": spec.annotations.name,
        "Id": network.id,
        "Created": format_rfc3339(network.meta.created_ns),
        "Scope": "swarm",
        "Driver": spec.driver or "overlay",
        "EnableIPv4": True,
        "EnableIPv6": spec.ipv6,
        "IPAM": {"Driver": "default", "Options": None, "Config": configs(network)},
        "Internal": spec.internal,
        "Attachable": spec.attachable,
        "Ingress": spec.ingress,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": {DRIVER_OPTION: str(network.vni)},
        "Labels": dict(spec.annotations.labels),
    }


def configs(network: Network) -> list[JSON]:
    return [
        compact({"Subnet": item.subnet, "IPRange": item.range, "Gateway": item.gateway})
        for item in network.ipam or network.spec.ipam
    ]
