"""Routes under /networks: this host's own networks, and the swarm's.

Source  Docker Engine API, tag Network.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from swarmpy.api.requests import read_json
from swarmpy.api.swarm_json.network import network_resource_to_json
from swarmpy.api.swarm_node import SwarmNode
from swarmpy.engine import Engine, Filters, endpoint_id, network_id
from swarmpy.engine.times import format_rfc3339
from swarmpy.errors import Conflict, Forbidden, InvalidArgument, NotFound, NotSupported

__all__ = ["routes"]

_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
_DRIVERS = {"bridge": "bridge", "host": "host", "none": "null"}


def routes(engine: Engine, swarm: SwarmNode) -> list[web.RouteDef]:
    noun = NetworkRoutes(engine, swarm)
    return [
        web.get("/networks", noun.list),
        web.post("/networks/create", noun.create),
        web.post("/networks/prune", noun.prune),
        web.get("/networks/{id}", noun.inspect),
        web.delete("/networks/{id}", noun.remove),
        web.post("/networks/{id}/connect", noun.connect),
        web.post("/networks/{id}/disconnect", noun.disconnect),
    ]


class NetworkRoutes:
    def __init__(self, engine: Engine, swarm: SwarmNode) -> None:
        self._engine = engine
        self._swarm = swarm

    def _all(self) -> list[dict[str, Any]]:
        manager = self._swarm.manager
        own = [self._own(name) for name in _DRIVERS]
        if manager is None:
            return own
        return [*own, *(network_resource_to_json(network) for network in manager.store.networks.values())]

    def _own(self, name: str) -> dict[str, Any]:
        config: list[dict[str, str]] = []
        if name == "bridge":
            subnet, gateway = self._engine.bridge_addresses()
            config = [{"Subnet": subnet, "Gateway": gateway}]
        return {
            "Name": name, "Id": network_id(name), "Created": format_rfc3339(self._engine.started_ns), "Scope": "local",
            "Driver": _DRIVERS[name], "EnableIPv4": True, "EnableIPv6": False,
            "IPAM": {"Driver": "default", "Options": None, "Config": config}, "Internal": False, "Attachable": False,
            "Ingress": False, "ConfigFrom": {"Network": ""}, "ConfigOnly": False, "Containers": {}, "Options": {},
            "Labels": {},
        }  # fmt: skip

    def _find(self, reference: str) -> dict[str, Any]:
        networks = self._all()
        exact = [item for item in networks if reference in (item["Id"], item["Name"])]
        found = exact or [item for item in networks if item["Id"].startswith(reference)]
        if not found:
            raise NotFound(f"network {reference} not found")
        if len(found) > 1:
            raise Conflict(f"network {reference} is ambiguous ({len(found)} matches found)")
        return found[0]

    async def list(self, request: web.Request) -> web.Response:
        filters = Filters.parse(request.query.get("filters"), _FILTERS)
        return web.json_response([item for item in self._all() if _matches(item, filters)])

    async def inspect(self, request: web.Request) -> web.Response:
        found = self._find(request.match_info["id"])
        containers = {}
        for record in self._engine.containers.records():
            for endpoint in record.endpoints:
                if endpoint.network == found["Name"]:
                    containers[record.id] = {
                        "Name": record.name,
                        "EndpointID": endpoint_id(record.id, endpoint.network),
                        "MacAddress": endpoint.mac,
                        "IPv4Address": f"{endpoint.ip}/{endpoint.prefix}",
                        "IPv6Address": "",
                    }
        return web.json_response(found | {"Containers": containers})

    async def create(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        if not isinstance(body, dict) or not body.get("Name"):
            raise InvalidArgument("Name: the network must have a name")
        driver = body.get("Driver") or "bridge"
        raise NotSupported(f"creating networks (Driver {driver}) is not supported; bridge, host and none exist")

    async def remove(self, request: web.Request) -> web.Response:
        found = self._find(request.match_info["id"])
        if found["Name"] in _DRIVERS:
            raise Forbidden(f"{found['Name']} is a pre-defined network and cannot be removed")
        raise NotSupported(f"removing network {found['Name']} is not supported")

    async def connect(self, request: web.Request) -> web.Response:
        found = self._find(request.match_info["id"])
        raise NotSupported(f"connecting a container to network {found['Name']} after its creation is not supported")

    async def disconnect(self, request: web.Request) -> web.Response:
        found = self._find(request.match_info["id"])
        raise NotSupported(f"disconnecting a container from network {found['Name']} is not supported")

    async def prune(self, request: web.Request) -> web.Response:
        return web.json_response({"NetworksDeleted": None})


def _matches(item: dict[str, Any], filters: Filters) -> bool:
    kind = "builtin" if item["Name"] in _DRIVERS else "custom"
    dangling = filters.flag("dangling")
    return (
        filters.any("name", lambda part: part in item["Name"])
        and filters.any("id", item["Id"].startswith)
        and filters.any("driver", lambda driver: driver == item["Driver"])
        and filters.any("scope", lambda scope: scope == item["Scope"])
        and filters.any("type", lambda wanted: wanted == kind)
        and filters.labels_match("label", item["Labels"])
        and (dangling is None or dangling == (kind == "custom"))
    )
