"""Routes about the host as a whole: /_ping, /version, /info, /events, /auth, /system/df.

Source  Docker Engine API, tag System.
"""

from __future__ import annotations

import json
import platform

from aiohttp import web

from swarmpy.api.images import image_summary
from swarmpy.api.requests import query_time, read_json
from swarmpy.api.swarm import swarm_info
from swarmpy.api.swarm_node import SwarmNode
from swarmpy.api.versions import API_VERSION, MIN_API_VERSION, text_of
from swarmpy.engine import Engine, Filters, summary
from swarmpy.errors import InvalidArgument, NotSupported

__all__ = ["routes"]

_EVENT_FILTERS = (
    "config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope", "secret",
    "service", "type", "volume",
)  # fmt: skip


def routes(engine: Engine, swarm: SwarmNode) -> list[web.RouteDef]:
    noun = SystemRoutes(engine, swarm)
    return [
        web.get("/_ping", noun.ping),
        web.get("/version", noun.version),
        web.get("/info", noun.info),
        web.get("/events", noun.events),
        web.post("/auth", noun.auth),
        web.get("/system/df", noun.disk_usage),
    ]


class SystemRoutes:
    def __init__(self, engine: Engine, swarm: SwarmNode) -> None:
        self._engine = engine
        self._swarm = swarm

    async def ping(self, request: web.Request) -> web.Response:
        role = "manager" if self._swarm.manager is not None else "worker"
        state = self._swarm.local_state.value
        headers = {
            "Cache-Control": "no-cache, no-store, must-revalidate",
            "Pragma": "no-cache",
            "Builder-Version": "1",
            "Swarm": f"active/{role}" if state == "active" else state,
        }
        return web.Response(text="" if request.method == "HEAD" else "OK", headers=headers)

    async def version(self, request: web.Request) -> web.Response:
        version, kernel = self._engine.version, platform.release()
        details = {
            "ApiVersion": text_of(API_VERSION), "Arch": self._engine.architecture, "BuildTime": "",
            "Experimental": "false", "GitCommit": "", "GoVersion": f"python{platform.python_version()}",
            "KernelVersion": kernel, "MinAPIVersion": text_of(MIN_API_VERSION), "Os": "linux",
        }  # fmt: skip
        return web.json_response(
            {
                "Platform": {"Name": "swarmpy"},
                "Version": version,
                "ApiVersion": text_of(API_VERSION),
                "MinAPIVersion": text_of(MIN_API_VERSION),
                "Os": "linux",
                "Arch": self._engine.architecture,
                "KernelVersion": kernel,
                "GitCommit": "",
                "GoVersion": f"python{platform.python_version()}",
                "BuildTime": "",
                "Components": [{"Name": "Engine", "Version": version, "Details": details}],
            }
        )

    async def info(self, request: web.Request) -> web.Response:
        return web.json_response(await self._engine.info() | {"Swarm": await swarm_info(self._swarm)})

    async def events(self, request: web.Request) -> web.StreamResponse:
        now = self._engine.now()
        filters = Filters.parse(request.query.get("filters"), _EVENT_FILTERS)
        since, until = query_time(request, "since", now), query_time(request, "until", now)
        if since is not None and until is not None and since > until:
            raise InvalidArgument("`since` time cannot be after `until` time")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        events = self._engine.events.subscribe(since_ns=since, until_ns=until, filters=filters)
        await response.prepare(request)
        async for event in events:
            await response.write(json.dumps(event.to_json()).encode() + b"\n")
        return response

    async def auth(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        if not isinstance(body, dict):
            raise InvalidArgument("the body must be an object with username, password and serveraddress")
        raise NotSupported("docker login (POST /auth) is not supported; credentials are sent with each pull")

    async def disk_usage(self, request: web.Request) -> web.Response:
        engine = self._engine
        used = engine.containers.images_in_use()
        images = [image_summary(image, used) for image in engine.images.list()]
        containers = [summary(record, engine.now()) for record in engine.containers.list()]
        for item in containers:
            item |= await engine.sizes(item["Id"])
        return web.json_response(
            {
                "LayersSize": sum(image.size_bytes for image in engine.images.list()),
                "Images": images,
                "Containers": containers,
                "Volumes": await engine.volume_usage(),
                "BuildCache": [],
            }
        )
