"""Routes that bring images in and out: pull, import, load, save, and a look at a registry.

Source  Docker Engine API, `POST /images/create`, `/images/load`, `GET /images/get`, `/distribution/{name}/json`.
"""

from __future__ import annotations

import json

from aiohttp import web

from swarmpy.api.images import with_tag
from swarmpy.engine import Engine
from swarmpy.errors import InvalidArgument, NotSupported

__all__ = ["routes"]

_LINE = {"Content-Type": "application/json"}


def routes(engine: Engine) -> list[web.RouteDef]:
    noun = TransferRoutes(engine)
    return [
        web.post("/images/create", noun.create),
    ]


class TransferRoutes:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Pull (`fromImage`) or import (`fromSrc=-`), telling of its progress as it goes."""
        query = request.query
        if query.get("fromImage"):
            raise NotSupported("fromImage: pulling images is not supported; use docker import")
        source = query.get("fromSrc")
        if source is None:
            raise InvalidArgument("one of fromImage and fromSrc must be given")
        if source != "-":
            raise NotSupported("fromSrc: importing from a URL is not supported; send the archive as the body")
        name = with_tag(query["repo"], query.get("tag", "")) if query.get("repo") else None
        body = request.content.iter_chunked(1 << 18)
        image = await self._engine.images.import_tar(
            body, name, query.getall("changes", []), query.get("message", "")
        )
        self._event("import", image.id, name or image.id)
        return web.Response(body=json.dumps({"status": image.id}).encode() + b"\r\n", headers=_LINE)

    def _event(self, action: str, image_id: str, name: str) -> None:
        self._engine.events.publish("image", action, image_id, {"name": name})
