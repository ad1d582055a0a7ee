"""Routes under /volumes.

Source  Docker Engine API, tag Volume.
"""

from __future__ import annotations

from aiohttp import web

from swarmpy.api.fields import Fields
from swarmpy.api.requests import query_flag, read_json
from swarmpy.api.versions import api_version
from swarmpy.engine import Engine, Filters
from swarmpy.errors import NotSupported

__all__ = ["routes"]

_FILTERS = ("dangling", "driver", "label", "name")


def routes(engine: Engine) -> list[web.RouteDef]:
    noun = VolumeRoutes(engine)
    return [
        web.get("/volumes", noun.list),
        web.post("/volumes/create", noun.create),
        web.post("/volumes/prune", noun.prune),
        web.get("/volumes/{name}", noun.inspect),
        web.put("/volumes/{name}", noun.update),
        web.delete("/volumes/{name}", noun.remove),
    ]


class VolumeRoutes:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def list(self, request: web.Request) -> web.Response:
        filters = Filters.parse(request.query.get("filters"), _FILTERS)
        volumes = self._engine.volumes.matching(filters, self._engine.containers.volumes_in_use())
        return web.json_response({"Volumes": [volume.to_json() for volume in volumes], "Warnings": None})

    async def create(self, request: web.Request) -> web.Response:
        fields = Fields(await read_json(request))
        name, driver = fields.text("Name"), fields.text("Driver")
        options, labels = fields.mapping("DriverOpts"), fields.mapping("Labels")
        fields.refuse_rest()
        volume = await self._engine.create_volume(name, driver=driver, options=options, labels=labels)
        return web.json_response(volume.to_json(), status=201)

    async def inspect(self, request: web.Request) -> web.Response:
        return web.json_response(self._engine.volumes.get(request.match_info["name"]).to_json())

    async def update(self, request: web.Request) -> web.Response:
        raise NotSupported("updating a volume is for cluster volumes, which are not supported")

    async def remove(self, request: web.Request) -> web.Response:
        await self._engine.remove_volume(request.match_info["name"], force=query_flag(request, "force"))
        return web.Response(status=204)

    async def prune(self, request: web.Request) -> web.Response:
        filters = Filters.parse(request.query.get("filters"), ("all", "label"))
        if api_version(request) < (1, 42):  # which knew no difference between named and anonymous ones
            filters = Filters({**filters.values, "all": ("true",)})
        removed, freed = await self._engine.prune_volumes(filters)
        return web.json_response({"VolumesDeleted": removed or None, "SpaceReclaimed": freed})
