"""Routes that bring images in and out: pull, import, load, save, and a look at a registry.

Source  Docker Engine API, `POST /images/create`, `/images/load`, `GET /images/get`, `/distribution/{name}/json`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from swarmpy.api.images import with_tag
from swarmpy.engine import Engine
from swarmpy.errors import InvalidArgument, NotSupported, SwarmpyError
from swarmpy.image import Image, Progress, RegistryAuth

__all__ = ["routes"]

_LINE = {"Content-Type": "application/json"}


def routes(engine: Engine) -> list[web.RouteDef]:
    noun = TransferRoutes(engine)
    return [
        web.post("/images/create", noun.create),
        web.post("/images/load", noun.load),
        web.get("/images/get", noun.save_several),
        web.get("/images/{name:.+}/get", noun.save),
        web.get("/distribution/{name:.+}/json", noun.distribution),
    ]


class TransferRoutes:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Pull (`fromImage`) or import (`fromSrc=-`), telling of its progress as it goes."""
        query = request.query
        if query.get("fromImage"):
            reference = with_tag(query["fromImage"], query.get("tag", ""))
            auth = RegistryAuth.from_header(request.headers.get("X-Registry-Auth", ""))
            platform = query.get("platform") or None
            return await self._progress(
                request, lambda tell: self._engine.pull(reference, auth, tell, platform)
            )
        source = query.get("fromSrc")
        if source is None:
            raise InvalidArgument("one of fromImage and fromSrc must be given")
        if source != "-":
            raise NotSupported("fromSrc: importing from a URL is not supported; send the archive as the body")
        if query.get("platform"):
            self._engine.check_platform(query["platform"])
        name = with_tag(query["repo"], query.get("tag", "")) if query.get("repo") else None
        body = request.content.iter_chunked(1 << 18)
        image = await self._engine.images.import_tar(
            body, name, query.getall("changes", []), query.get("message", "")
        )
        self._event("import", image.id, name or image.id)
        return web.Response(body=json.dumps({"status": image.id}).encode() + b"\r\n", headers=_LINE)

    async def load(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("platform"):
            raise NotSupported("platform: loading one platform of several is not supported")
        loaded = await self._engine.images.load(request.content.iter_chunked(1 << 18))
        lines = []
        for item in loaded:
            names = [f"Loaded image: {name}" for name in item.references] or [f"Loaded image ID: {item.image.id}"]
            lines += [json.dumps({"stream": f"{name}\n"}).encode() + b"\r\n" for name in names]
            self._event("load", item.image.id, item.references[0] if item.references else item.image.id)
        return web.Response(body=b"".join(lines), headers=_LINE)

    async def save(self, request: web.Request) -> web.StreamResponse:
        return await self._save(request, [request.match_info["name"]])

    async def save_several(self, request: web.Request) -> web.StreamResponse:
        names = request.query.getall("names", [])
        return await self._save(request, [part for name in names for part in name.split(",") if part])

    async def _save(self, request: web.Request, names: Sequence[str]) -> web.StreamResponse:
        if not names:
            raise InvalidArgument("names: at least one image must be named")
        if request.query.get("platform"):
            raise NotSupported("platform: saving one platform of several is not supported")
        chunks = self._engine.images.save([*names])
        for image_id in self._engine.images.meant([*names]):
            self._event("save", image_id, image_id)
        response = web.StreamResponse(headers={"Content-Type": "application/x-tar"})
        await response.prepare(request)
        async for chunk in chunks:
            await response.write(chunk)
        return response

    async def distribution(self, request: web.Request) -> web.Response:
        """What the registry has under a name, without pulling it."""
        auth = RegistryAuth.from_header(request.headers.get("X-Registry-Auth", ""))
        found = await self._engine.images.look_up(request.match_info["name"], auth)
        return web.json_response(
            {
                "Descriptor": {
                    "mediaType": found.media_type, "digest": found.digest, "size": found.size_bytes,
                },
                "Platforms": [
                    {"architecture": platform.architecture, "os": platform.os, "variant": platform.variant}
                    for platform in found.platforms
                ],
            }
        )  # fmt: skip

    def _event(self, action: str, image_id: str, name: str) -> None:
        self._engine.events.publish("image", action, image_id, {"name": name})

    async def _progress(
        self, request: web.Request, work: Callable[[Callable[[Progress], None]], Awaitable[Image]]
    ) -> web.StreamResponse:
        """Run `work`, streaming what it tells. A failure before the first line is an HTTP error, after it a line."""
        lines: asyncio.Queue[Progress | None] = asyncio.Queue()
        running = asyncio.ensure_future(work(lines.put_nowait))
        running.add_done_callback(lambda _: lines.put_nowait(None))
        response = web.StreamResponse(headers=_LINE)
        prepared = False
        try:
            async for line in _until_none(lines):
                if not prepared:
                    await response.prepare(request)
                    prepared = True
                await response.write(json.dumps(_progress_json(line)).encode() + b"\r\n")
            try:
                await running
            except SwarmpyError as error:
                if not prepared:
                    raise
                failure = {"errorDetail": {"message": str(error)}, "error": str(error)}
                await response.write(json.dumps(failure).encode() + b"\r\n")
        finally:
            running.cancel()
        if not prepared:
            await response.prepare(request)
        return response


async def _until_none(lines: asyncio.Queue[Progress | None]) -> AsyncIterator[Progress]:
    while (line := await lines.get()) is not None:
        yield line


def _progress_json(line: Progress) -> dict[str, Any]:
    out: dict[str, Any] = {"status": line.status}
    if line.id:
        out["id"] = line.id
    if line.current is not None:
        out["progressDetail"] = {"current": line.current, **({"total": line.total} if line.total else {})}
    else:
        out["progressDetail"] = {}
    return out
