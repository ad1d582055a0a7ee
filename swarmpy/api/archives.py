"""Routes that move files: `docker cp`, `docker export`, and the changes of a container.

Source  Docker Engine API, `/containers/{id}/archive`, `/export`, `/changes`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from swarmpy.api.requests import query_flag
from swarmpy.engine import Engine
from swarmpy.engine.files import changed_paths, copy_in, copy_out, export, path_stat
from swarmpy.errors import InvalidArgument

__all__ = ["routes"]

_STAT = "X-Docker-Container-Path-Stat"


def routes(engine: Engine) -> list[web.RouteDef]:
    noun = ArchiveRoutes(engine)
    return [
        web.head("/containers/{id}/archive", noun.stat),
        web.get("/containers/{id}/archive", noun.get, allow_head=False),
        web.put("/containers/{id}/archive", noun.put),
        web.get("/containers/{id}/export", noun.export),
        web.get("/containers/{id}/changes", noun.changes),
    ]


class ArchiveRoutes:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def stat(self, request: web.Request) -> web.Response:
        container = self._engine.containers.live(request.match_info["id"])
        described = await path_stat(self._engine.parts, container, _path(request))
        return web.Response(headers={_STAT: described})

    async def get(self, request: web.Request) -> web.StreamResponse:
        container = self._engine.containers.live(request.match_info["id"])
        path = _path(request)
        described = await path_stat(self._engine.parts, container, path)
        return await _send(request, copy_out(self._engine.parts, container, path), {_STAT: described})

    async def put(self, request: web.Request) -> web.Response:
        container = self._engine.containers.live(request.match_info["id"])
        await copy_in(
            self._engine.parts,
            container,
            _path(request),
            request.content.iter_chunked(1 << 18),
            keep_kinds=query_flag(request, "noOverwriteDirNonDir"),
            keep_owners=query_flag(request, "copyUIDGID"),
        )
        return web.Response(status=200)

    async def export(self, request: web.Request) -> web.StreamResponse:
        container = self._engine.containers.live(request.match_info["id"])
        return await _send(request, export(self._engine.parts, container), {})

    async def changes(self, request: web.Request) -> web.Response:
        container = self._engine.containers.live(request.match_info["id"])
        return web.json_response(await changed_paths(self._engine.parts, container) or None)


async def _send(request: web.Request, pieces: AsyncIterator[bytes], headers: dict[str, str]) -> web.StreamResponse:
    first = await anext(pieces, b"")  # what cannot be read at all is still an error's answer
    response = web.StreamResponse(headers={"Content-Type": "application/x-tar", **headers})
    await response.prepare(request)
    await response.write(first)
    async for piece in pieces:
        await response.write(piece)
    return response


def _path(request: web.Request) -> str:
    path = request.query.get("path", "")
    if not path:
        raise InvalidArgument("path: the query parameter must be given")
    return path
