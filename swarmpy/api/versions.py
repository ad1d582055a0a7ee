"""The version in front of every path, `/v1.47/containers/json`, and which versions are served.

Owns    a resource that takes the prefix off and looks the rest up among the routes. Without a prefix the newest version
        is meant.
Source  Docker Engine API, section Versioning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractMatchInfo
from aiohttp.web_urldispatcher import AbstractResource, AbstractRoute, MatchInfoError
from yarl import URL

from swarmpy.errors import InvalidArgument

__all__ = ["API_VERSION", "MIN_API_VERSION", "VersionedRoutes", "api_version"]

API_VERSION = (1, 50)
MIN_API_VERSION = (1, 24)

_PREFIX = re.compile(r"/v(\d+)\.(\d+)(?=/)")
_VERSION = web.RequestKey("api_version", tuple[int, int])


def api_version(request: web.Request) -> tuple[int, int]:
    """The version the client speaks."""
    version: tuple[int, int] = request.get(_VERSION, API_VERSION)
    return version


def text_of(version: tuple[int, int]) -> str:
    """ "1.50"."""
    return f"{version[0]}.{version[1]}"


def strip_version(request: web.Request) -> str:
    """The raw path without its version; remembers the version. `InvalidArgument` for one that is not served."""
    path = request.rel_url.raw_path
    found = _PREFIX.match(path)
    if found is None:
        return path
    version = (int(found[1]), int(found[2]))
    if version > API_VERSION:
        raise InvalidArgument(
            f"client version {text_of(version)} is too new. Maximum supported API version is {text_of(API_VERSION)}"
        )
    if version < MIN_API_VERSION:
        raise InvalidArgument(
            f"client version {text_of(version)} is too old. Minimum supported API version is "
            f"{text_of(MIN_API_VERSION)}, please upgrade your client to a newer version"
        )
    request[_VERSION] = version
    return path[found.end() :]


class VersionedRoutes(AbstractResource):
    """All routes of the API, reachable with and without a version."""

    def __init__(self, routes: list[web.RouteDef]) -> None:
        super().__init__()
        self._router = web.UrlDispatcher()
        self._router.add_routes(routes)

    @property
    def canonical(self) -> str:
        return "/"

    async def resolve(self, request: web.Request) -> tuple[web.UrlMappingMatchInfo | None, set[str]]:
        try:
            path = strip_version(request)
        except InvalidArgument as error:
            return MatchInfoError(web.HTTPBadRequest(text=str(error))), set()
        query = request.rel_url.raw_query_string
        bare = request.clone(rel_url=URL(f"{path}?{query}" if query else path, encoded=True))
        found: AbstractMatchInfo = await self._router.resolve(bare)
        if isinstance(found, web.UrlMappingMatchInfo) and found.http_exception is None:
            return found, set()
        return None, getattr(found.http_exception, "allowed_methods", set())

    def add_prefix(self, prefix: str) -> None:
        raise ValueError(f"the API is served at the root only, not below {prefix}")

    def url_for(self, **kwargs: str) -> URL:
        return URL("/")

    def get_info(self) -> Any:
        return {"path": "/"}

    def raw_match(self, path: str) -> bool:
        return False

    def __len__(self) -> int:
        return len(self._router.routes())

    def __iter__(self) -> Iterator[AbstractRoute]:
        return iter(self._router.routes())
