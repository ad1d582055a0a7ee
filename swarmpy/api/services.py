"""Routes under /services.

Source  Docker Engine API: Service.
"""

from __future__ import annotations

import json
import secrets
from random import Random

from aiohttp import web

from swarmpy.api.rendered import Rendered, json_list
from swarmpy.api.requests import query_flag, query_integer, read_json
from swarmpy.api.swarm_access import current_manager, find_service
from swarmpy.api.swarm_json.service import service_spec_from_json, service_to_json
from swarmpy.api.swarm_json.values import JSON
from swarmpy.api.swarm_node import SwarmNode
from swarmpy.engine.filters import Filters
from swarmpy.engine.names import pick_name
from swarmpy.errors import InvalidArgument
from swarmpy.image import RegistryAuth
from swarmpy.manager.store import Store, ids_from
from swarmpy.rpc.control_pb2 import CreateServiceRequest, RemoveRequest, UpdateServiceRequest
from swarmpy.rpc.types_pb2 import Service

__all__ = ["routes"]

FILTERS = ("id", "label", "mode", "name", "runtime")


def routes(swarm: SwarmNode) -> list[web.RouteDef]:
    """Every path under /services but the logs."""
    noun = ServiceRoutes(swarm)
    return [
        web.get("/services", noun.list),
        web.post("/services/create", noun.create),
        web.get("/services/{id}", noun.inspect),
        web.post("/services/{id}/update", noun.update),
        web.delete("/services/{id}", noun.remove),
    ]


class ServiceRoutes:
    def __init__(self, swarm: SwarmNode) -> None:
        self._swarm = swarm
        self._rng = Random(secrets.randbits(256))
        self._new_id = ids_from(self._rng)
        self._rendered: Rendered[Service] = Rendered()

    async def list(self, request: web.Request) -> web.Response:
        filters = Filters.parse(request.query.get("filters"), FILTERS)
        manager = await current_manager(self._swarm)
        with_status = query_flag(request, "status")
        return await json_list(
            self._text(service, manager.store, with_status=with_status) if matches(filters, service) else None
            for service in tuple(manager.store.services.values())
        )

    def _text(self, service: Service, store: Store, *, with_status: bool) -> str:
        text = self._rendered.text(service, service_to_text)
        if with_status:
            return f'{text[:-1]}, "ServiceStatus": {json.dumps(service_status(store, service))}}}'
        return text

    async def create(self, request: web.Request) -> web.Response:
        spec = service_spec_from_json(await read_json(request))
        spec.task.container.registry_auth = registry_auth(request)
        manager = await current_manager(self._swarm)
        if not spec.annotations.name:
            spec.annotations.name = pick_name(self._rng, lambda name: manager.store.services.by_name(name) is not None)
        answer = await manager.control.create_service(CreateServiceRequest(spec=spec, id=self._new_id()))
        return web.json_response(
            {"ID": answer.service.id} | ({"Warnings": list(answer.warnings)} if answer.warnings else {}), status=201
        )

    async def inspect(self, request: web.Request) -> web.Response:
        manager = await current_manager(self._swarm)
        service = find_service(manager.store, request.match_info["id"])
        return web.json_response(service_to_json(service))

    async def update(self, request: web.Request) -> web.Response:
        version = query_integer(request, "version")
        rollback = request.query.get("rollback", "")
        if rollback not in ("", "previous"):
            raise InvalidArgument(f"rollback: {rollback!r} is not 'previous'")
        body = await read_json(request)
        manager = await current_manager(self._swarm)
        service = find_service(manager.store, request.match_info["id"])
        update = UpdateServiceRequest(id=service.id, version=version, rollback=bool(rollback))
        if not rollback:
            update.spec.CopyFrom(service_spec_from_json(body))
            update.spec.task.container.registry_auth = registry_auth(request) or kept_auth(request, service)
        answer = await manager.control.update_service(update)
        return web.json_response({"Warnings": list(answer.warnings) or None})

    async def remove(self, request: web.Request) -> web.Response:
        manager = await current_manager(self._swarm)
        service = find_service(manager.store, request.match_info["id"])
        await manager.control.remove_service(RemoveRequest(id=service.id))
        return web.Response()


def service_to_text(service: Service) -> str:
    return json.dumps(service_to_json(service))


def matches(filters: Filters, service: Service) -> bool:
    if not filters.values:
        return True
    annotations = service.spec.annotations
    return (
        filters.any("id", service.id.startswith)
        and filters.any("name", annotations.name.startswith)
        and filters.any("mode", lambda mode: mode == "replicated")
        and filters.any("runtime", lambda runtime: runtime == "container")
        and filters.labels_match("label", annotations.labels)
    )


def service_status(store: Store, service: Service) -> JSON:
    """ServiceStatus: what `docker service ls` shows as 2/3."""
    replicated = service.spec.mode.replicated
    return {
        "RunningTasks": store.running(service.id),
        "DesiredTasks": replicated.replicas if replicated.HasField("replicas") else 1,
        "CompletedTasks": 0,
    }


def registry_auth(request: web.Request) -> str:
    """X-Registry-Auth as it came, once it is known to be readable; empty when it holds no credentials."""
    text = request.headers.get("X-Registry-Auth", "")
    return text if RegistryAuth.from_header(text) is not None else ""


def kept_auth(request: web.Request, service: Service) -> str:
    """Credentials of the spec that `registryAuthFrom` names, when the request brings none."""
    source = request.query.get("registryAuthFrom", "spec")
    if source == "previous-spec":
        return service.previous_spec.task.container.registry_auth
    if source not in ("spec", ""):
        raise InvalidArgument(f"registryAuthFrom: {source!r} is not one of spec, previous-spec")
    return service.spec.task.container.registry_auth
