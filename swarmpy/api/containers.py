"""Routes under /containers: life cycle, inspection, limits.

Source  Docker Engine API, tag Container. Streams (attach, logs) are in `container_streams.py`.
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from swarmpy.api.requests import query_flag, query_integer, read_json
from swarmpy.engine import (
    ContainerConfig,
    Containers,
    Engine,
    Filters,
    HostConfig,
    NetworkingConfig,
    summary,
)
from swarmpy.engine.listing import CONTAINER_FILTERS, PRUNE_FILTERS
from swarmpy.engine.schema import read
from swarmpy.engine.times import parse_when
from swarmpy.engine.updates import read_update
from swarmpy.errors import InvalidArgument, NotSupported

__all__ = ["routes"]


def routes(engine: Engine) -> list[web.RouteDef]:
    noun = ContainerRoutes(engine)
    return [
        web.get("/containers/json", noun.list),
        web.post("/containers/create", noun.create),
        web.post("/containers/prune", noun.prune),
        web.get("/containers/{id}/json", noun.inspect),
        web.get("/containers/{id}/top", noun.top),
        web.get("/containers/{id}/stats", noun.stats),
        web.post("/containers/{id}/start", noun.start),
        web.post("/containers/{id}/stop", noun.stop),
        web.post("/containers/{id}/restart", noun.restart),
        web.post("/containers/{id}/kill", noun.kill),
        web.post("/containers/{id}/pause", noun.pause),
        web.post("/containers/{id}/unpause", noun.unpause),
        web.post("/containers/{id}/rename", noun.rename),
        web.post("/containers/{id}/update", noun.update),
        web.post("/containers/{id}/resize", noun.resize),
        web.post("/containers/{id}/wait", noun.wait),
        web.delete("/containers/{id}", noun.remove),
    ]


class ContainerRoutes:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def _containers(self) -> Containers:
        return self._engine.containers

    async def list(self, request: web.Request) -> web.Response:
        filters = Filters.parse(request.query.get("filters"), CONTAINER_FILTERS)
        limit = query_integer(request, "limit", 0)
        records = self._containers.list(
            filters, all=query_flag(request, "all"), limit=limit if limit > 0 else None
        )
        now = self._engine.now()
        out = [summary(record, now) for record in records]
        if query_flag(request, "size"):
            for item in out:
                item |= await self._engine.sizes(item["Id"])
        return web.json_response(out)

    async def create(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        if not isinstance(body, dict):
            raise InvalidArgument("the body must be a JSON object with Image, HostConfig and NetworkingConfig")
        if request.query.get("platform"):
            self._engine.check_platform(request.query["platform"])
        host = read(HostConfig, body.pop("HostConfig", None) or {}, "HostConfig")
        networking = read(NetworkingConfig, body.pop("NetworkingConfig", None) or {}, "NetworkingConfig")
        config = read(ContainerConfig, body)
        container_id = await self._containers.create(config, host, networking, request.query.get("name"))
        return web.json_response({"Id": container_id, "Warnings": []}, status=201)

    async def inspect(self, request: web.Request) -> web.Response:
        reference = request.match_info["id"]
        found = self._engine.inspect_container(reference)
        if query_flag(request, "size"):
            found |= await self._engine.sizes(found["Id"])
        return web.json_response(found)

    async def start(self, request: web.Request) -> web.Response:
        if request.query.get("checkpoint"):
            raise NotSupported("checkpoint is not supported")
        started = await self._containers.start(request.match_info["id"])
        return web.Response(status=204 if started else 304)

    async def stop(self, request: web.Request) -> web.Response:
        stopped = await self._containers.stop(
            request.match_info["id"], _timeout(request), request.query.get("signal")
        )
        return web.Response(status=204 if stopped else 304)

    async def restart(self, request: web.Request) -> web.Response:
        await self._containers.restart(request.match_info["id"], _timeout(request), request.query.get("signal"))
        return web.Response(status=204)

    async def kill(self, request: web.Request) -> web.Response:
        await self._containers.kill(request.match_info["id"], request.query.get("signal", ""))
        return web.Response(status=204)

    async def pause(self, request: web.Request) -> web.Response:
        await self._containers.pause(request.match_info["id"])
        return web.Response(status=204)

    async def unpause(self, request: web.Request) -> web.Response:
        await self._containers.unpause(request.match_info["id"])
        return web.Response(status=204)

    async def rename(self, request: web.Request) -> web.Response:
        name = request.query.get("name")
        if not name:
            raise InvalidArgument("Neither old nor new names may be empty")
        await self._containers.rename(request.match_info["id"], name)
        return web.Response(status=204)

    async def update(self, request: web.Request) -> web.Response:
        changes = read_update(await read_json(request))
        await self._containers.update(request.match_info["id"], changes)
        return web.json_response({"Warnings": []})

    async def resize(self, request: web.Request) -> web.Response:
        height, width = query_integer(request, "h"), query_integer(request, "w")
        await self._containers.resize(request.match_info["id"], height, width)
        return web.Response(status=200)

    async def remove(self, request: web.Request) -> web.Response:
        if query_flag(request, "link"):
            raise NotSupported("link: removing links is not supported")
        await self._containers.remove(
            request.match_info["id"], force=query_flag(request, "force"), volumes=query_flag(request, "v")
        )
        return web.Response(status=204)

    async def wait(self, request: web.Request) -> web.StreamResponse:
        condition = request.query.get("condition") or "not-running"
        if condition not in ("not-running", "next-exit", "removed"):
            raise InvalidArgument(f'invalid condition: "{condition}"; use not-running, next-exit or removed')
        waiting = self._containers.live(request.match_info["id"]).wait(condition)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)  # the client starts the container once it knows that the wait is registered
        result = await waiting
        body: dict[str, Any] = {"StatusCode": result.exit_code}
        if result.error:
            body["Error"] = {"Message": result.error}
        await response.write(json.dumps(body).encode())
        return response

    async def top(self, request: web.Request) -> web.Response:
        arguments = request.query.get("ps_args") or "-ef"
        return web.json_response(await self._engine.top(request.match_info["id"], arguments))

    async def stats(self, request: web.Request) -> web.StreamResponse:
        stream = query_flag(request, "stream", True)
        samples = self._engine.stats(
            request.match_info["id"], stream=stream, one_shot=query_flag(request, "one-shot")
        )
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        prepared = False
        async for sample in samples:
            if not prepared:
                await response.prepare(request)
                prepared = True
            await response.write(json.dumps(sample).encode() + b"\n")
        return response

    async def prune(self, request: web.Request) -> web.Response:
        filters = Filters.parse(request.query.get("filters"), PRUNE_FILTERS)
        until = [parse_when(text, self._engine.now()) for text in filters.get("until")]
        removed, freed = await self._containers.prune(filters, min((t for t in until if t is not None), default=None))
        return web.json_response({"ContainersDeleted": removed or None, "SpaceReclaimed": freed})


def _timeout(request: web.Request) -> float | None:
    """`t`: seconds; -1 waits for ever."""
    return query_integer(request, "t") if request.query.get("t") else None
