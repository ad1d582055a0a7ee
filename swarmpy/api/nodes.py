"""Routes under /nodes.

Source  Docker Engine API: Node.
"""

from __future__ import annotations

import json

from aiohttp import web

from swarmpy.api.rendered import Rendered, json_list
from swarmpy.api.requests import query_flag, query_integer, read_json
from swarmpy.api.swarm_access import current_manager, find_node
from swarmpy.api.swarm_json.node import node_spec_from_json, node_to_json
from swarmpy.api.swarm_node import SwarmNode
from swarmpy.engine.filters import Filters
from swarmpy.manager.replicated_log import LogMember
from swarmpy.rpc.control_pb2 import RemoveNodeRequest, UpdateNodeRequest
from swarmpy.rpc.types_pb2 import Node, NodeRole

__all__ = ["routes"]

FILTERS = ("id", "label", "membership", "name", "node.label", "role")


def routes(swarm: SwarmNode) -> list[web.RouteDef]:
    noun = NodeRoutes(swarm)
    return [
        web.get("/nodes", noun.list),
        web.get("/nodes/{id}", noun.inspect),
        web.post("/nodes/{id}/update", noun.update),
        web.delete("/nodes/{id}", noun.remove),
    ]


class NodeRoutes:
    def __init__(self, swarm: SwarmNode) -> None:
        self._swarm = swarm
        self._rendered: Rendered[Node] = Rendered()

    async def list(self, request: web.Request) -> web.Response:
        filters = Filters.parse(request.query.get("filters"), FILTERS)
        manager = await current_manager(self._swarm)
        members = {member.node_id: member for member in manager.members()}
        return await json_list(
            self._text(node, members.get(node.id)) if matches(filters, node) else None
            for node in tuple(manager.store.nodes.values())
        )

    def _text(self, node: Node, member: LogMember | None) -> str:
        if member is not None:
            return json.dumps(node_to_json(node, member))
        return self._rendered.text(node, worker_to_text)

    async def inspect(self, request: web.Request) -> web.Response:
        manager = await current_manager(self._swarm)
        node = find_node(manager.store, request.match_info["id"], self._swarm.node_id)
        member = next((member for member in manager.members() if member.node_id == node.id), None)
        return web.json_response(node_to_json(node, member))

    async def update(self, request: web.Request) -> web.Response:
        version = query_integer(request, "version")
        spec = node_spec_from_json(await read_json(request))
        manager = await current_manager(self._swarm)
        node = find_node(manager.store, request.match_info["id"], self._swarm.node_id)
        await manager.control.update_node(UpdateNodeRequest(id=node.id, version=version, spec=spec))
        return web.Response()

    async def remove(self, request: web.Request) -> web.Response:
        force = query_flag(request, "force")
        manager = await current_manager(self._swarm)
        node = find_node(manager.store, request.match_info["id"], self._swarm.node_id)
        await manager.control.remove_node(RemoveNodeRequest(id=node.id, force=force))
        return web.Response()


def worker_to_text(node: Node) -> str:
    return json.dumps(node_to_json(node, None))


def matches(filters: Filters, node: Node) -> bool:
    if not filters.values:
        return True
    role = "manager" if node.spec.role == NodeRole.MANAGER else "worker"
    return (
        filters.any("id", node.id.startswith)
        and filters.any("name", lambda name: node.description.hostname.startswith(name))
        and filters.any("role", lambda wanted: wanted == role)
        and filters.any("membership", lambda wanted: wanted == "accepted")
        and filters.labels_match("label", node.description.engine_labels)
        and filters.labels_match("node.label", node.spec.annotations.labels)
    )
