"""Routes under /images that look at images, name them and remove them.

Source  Docker Engine API, tag Image. Pull, import, load and save are in `image_transfers.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Any

from aiohttp import web

from swarmpy.api.requests import query_flag
from swarmpy.engine import Engine, Filters
from swarmpy.engine.times import format_rfc3339, parse_when
from swarmpy.errors import InvalidArgument, NotSupported
from swarmpy.image import Image, parse_reference

__all__ = ["image_summary", "routes", "with_tag"]

_NAMELESS = ("",)  # so that without the filter an image without names passes
_FILTERS = ("before", "dangling", "label", "reference", "since", "until")
_LINE = {"Content-Type": "application/json"}


def routes(engine: Engine) -> list[web.RouteDef]:
    noun = ImageRoutes(engine)
    return [
        web.get("/images/json", noun.list),
        web.post("/images/prune", noun.prune),
        web.get("/images/{name:.+}/json", noun.inspect),
        web.get("/images/{name:.+}/history", noun.history),
        web.post("/images/{name:.+}/tag", noun.tag),
        web.delete("/images/{name:.+}", noun.remove),
    ]


class ImageRoutes:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _matches(self, image: Image, filters: Filters) -> bool:
        images = self._engine.images
        dangling = filters.flag("dangling")
        labels = (image.config.get("config") or {}).get("Labels") or {}
        before = [images.resolve(name).created_ns for name in filters.get("before")]
        since = [images.resolve(name).created_ns for name in filters.get("since")]
        until = [parse_when(text, self._engine.now()) or 0 for text in filters.get("until")]
        return (
            (dangling is None or dangling == (not image.references))
            and filters.labels_match("label", labels)
            and any(_wanted(filters, name) for name in (*image.references, *image.digests, *_NAMELESS))
            and all(image.created_ns < limit for limit in (*before, *until))
            and all(image.created_ns > limit for limit in since)
        )

    async def inspect(self, request: web.Request) -> web.Response:
        return web.json_response(image_json(self._engine.images.resolve(request.match_info["name"])))

    async def history(self, request: web.Request) -> web.Response:
        steps = self._engine.images.history(request.match_info["name"])
        return web.json_response(
            [
                {
                    "Id": step.id, "Created": step.created_ns // 1_000_000_000, "CreatedBy": step.created_by,
                    "Tags": list(step.tags) or None, "Size": step.size_bytes, "Comment": step.comment,
                }
                for step in steps
            ]
        )  # fmt: skip

    async def tag(self, request: web.Request) -> web.Response:
        repo = request.query.get("repo")
        if not repo:
            raise InvalidArgument("repo: the new name must be given")
        reference = with_tag(repo, request.query.get("tag", ""))
        image = self._engine.images.resolve(request.match_info["name"])
        await self._engine.images.tag(image.id, reference)
        self._event("tag", image.id, parse_reference(reference).familiar)
        return web.Response(status=201)

    async def remove(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if request.query.get("platforms"):
            raise NotSupported("platforms: removing one platform of several is not supported")
        image = self._engine.images.resolve(name)
        removed = await self._engine.images.remove(
            name,
            force=query_flag(request, "force"),
            in_use=self._engine.containers.images_in_use(),
            running=self._engine.containers.images_running(),
        )
        out = []
        for item in removed:
            out.append({"Deleted": item.deleted} if item.deleted else {"Untagged": item.untagged})
            self._event("delete" if item.deleted else "untag", image.id, item.deleted or item.untagged or "")
        return web.json_response(out)

    async def prune(self, request: web.Request) -> web.Response:
        filters = Filters.parse(request.query.get("filters"), ("dangling", "label", "until"))
        everything = filters.flag("dangling") is False
        rest = Filters({name: values for name, values in filters.values.items() if name != "dangling"})
        used = self._engine.containers.images_in_use()
        deleted: list[dict[str, str | None]] = []
        freed = 0
        for image in self._engine.images.list():
            if image.id in used or (image.references and not everything) or not self._matches(image, rest):
                continue
            for item in await self._engine.images.remove(image.id, force=True, in_use=used):
                deleted.append({"Deleted": item.deleted} if item.deleted else {"Untagged": item.untagged})
            freed += image.size_bytes
        return web.json_response({"ImagesDeleted": deleted or None, "SpaceReclaimed": freed})

    async def list(self, request: web.Request) -> web.Response:
        filters = Filters.parse(request.query.get("filters"), _FILTERS)
        used = self._engine.containers.images_in_use()
        chosen = [image for image in self._engine.images.list() if self._matches(image, filters)]
        out = [image_summary(image, used) for image in chosen]
        for item in out if filters.get("reference") else ():
            item["RepoTags"] = [name for name in item["RepoTags"] if _wanted(filters, name)]
            item["RepoDigests"] = [name for name in item["RepoDigests"] if _wanted(filters, name)]
        return web.json_response(out)

    def _event(self, action: str, image_id: str, name: str) -> None:
        self._engine.events.publish("image", action, image_id, {"name": name})

def image_summary(image: Image, in_use: Collection[str]) -> dict[str, Any]:
    """ImageSummary."""
    return {
        "Id": image.id,
        "ParentId": image.parent or "",
        "RepoTags": list(image.references),
        "RepoDigests": list(image.digests),
        "Created": image.created_ns // 1_000_000_000,
        "Size": image.size_bytes,
        "SharedSize": -1,
        "Labels": (image.config.get("config") or {}).get("Labels"),
        "Containers": 1 if image.id in in_use else 0,
    }


def image_json(image: Image) -> dict[str, Any]:
    """ImageInspect."""
    config = image.config
    return {
        "Id": image.id,
        "RepoTags": list(image.references),
        "RepoDigests": list(image.digests),
        "Parent": image.parent or "",
        "Comment": config.get("comment", ""),
        "Created": config.get("created", ""),
        "DockerVersion": "",
        "Author": config.get("author", ""),
        "Config": config.get("config") or {},
        "Architecture": config.get("architecture", ""),
        "Variant": config.get("variant", ""),
        "Os": config.get("os", ""),
        "Size": image.size_bytes,
        "GraphDriver": {"Name": "overlay2", "Data": None},
        "RootFS": {"Type": "layers", "Layers": list(image.layers)},
        "Metadata": {"LastTagTime": format_rfc3339(image.tagged_ns)},
    }


def with_tag(name: str, tag: str) -> str:
    """A name with the tag or digest that came beside it."""
    if not tag:
        return name
    return f"{name}@{tag}" if ":" in tag else f"{name}:{tag}"


def _wanted(filters: Filters, reference: str) -> bool:
    """The filter `reference`: a name, a name with its tag, or a pattern of either. Nothing has no name."""
    name = reference.partition("@")[0] if "@" in reference else reference.rpartition(":")[0]
    return filters.any("reference", lambda text: fnmatchcase(reference, text) or fnmatchcase(name, text))
