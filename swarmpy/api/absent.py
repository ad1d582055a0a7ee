"""Paths of the Engine API that are not there yet: each answers 501 and names what is missing.

Source  Docker Engine API 1.50: every path that no other module serves.
"""

from __future__ import annotations

from aiohttp import web

from swarmpy.errors import NotSupported

__all__ = ["routes"]

_ABSENT = (
    ("POST", "/build", "building images (docker build)"),
    ("POST", "/build/prune", "pruning the build cache"),
    ("POST", "/session", "BuildKit sessions (docker build)"),
    ("POST", "/grpc", "BuildKit over gRPC (docker build)"),
    ("POST", "/commit", "making an image of a container (docker commit)"),
    ("GET", "/images/search", "searching a registry (docker search)"),
    ("POST", "/images/{name:.+}/push", "pushing images (docker push)"),
    ("GET", "/containers/{id}/checkpoints", "checkpoints"),
    ("POST", "/containers/{id}/checkpoints", "checkpoints"),
    ("GET", "/plugins", "plugins"),
    ("GET", "/plugins/privileges", "plugins"),
    ("POST", "/plugins/pull", "plugins"),
    ("POST", "/plugins/create", "plugins"),
    ("GET", "/plugins/{name:.+}/json", "plugins"),
    ("DELETE", "/plugins/{name:.+}", "plugins"),
    ("POST", "/plugins/{name:.+}/enable", "plugins"),
    ("POST", "/plugins/{name:.+}/disable", "plugins"),
    ("POST", "/plugins/{name:.+}/upgrade", "plugins"),
    ("POST", "/plugins/{name:.+}/push", "plugins"),
    ("POST", "/plugins/{name:.+}/set", "plugins"),
    ("GET", "/secrets", "secrets"),
    ("POST", "/secrets/create", "secrets"),
    ("GET", "/secrets/{id}", "secrets"),
    ("DELETE", "/secrets/{id}", "secrets"),
    ("POST", "/secrets/{id}/update", "secrets"),
    ("GET", "/configs", "configs"),
    ("POST", "/configs/create", "configs"),
    ("GET", "/configs/{id}", "configs"),
    ("DELETE", "/configs/{id}", "configs"),
    ("POST", "/configs/{id}/update", "configs"),
)


def routes() -> list[web.RouteDef]:
    return [_absent(method, path, what) for method, path, what in _ABSENT]


def _absent(method: str, path: str, what: str) -> web.RouteDef:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise NotSupported(f"{what} is not supported by this version of swarmpy")

    return web.route(method, path, refuse)
