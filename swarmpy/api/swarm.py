"""Routes under /swarm, and the Swarm section of GET /info.

Source  Docker Engine API: Swarm, SwarmInfo.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from aiohttp import web

from swarmpy.api.fields import Fields
from swarmpy.api.requests import query_flag, query_integer, read_json
from swarmpy.api.swarm_access import current_manager
from swarmpy.api.swarm_json.cluster import cluster_info_to_json, swarm_spec_from_json, swarm_to_json
from swarmpy.api.swarm_json.node import AVAILABILITIES
from swarmpy.api.swarm_json.values import JSON
from swarmpy.api.swarm_node import InitRequest, JoinRequest, SwarmManager, SwarmNode
from swarmpy.errors import Internal, InvalidArgument, Unavailable
from swarmpy.rpc.control_pb2 import UpdateClusterRequest
from swarmpy.rpc.types_pb2 import NodeSpec

__all__ = ["routes", "swarm_info"]

log = logging.getLogger(__name__)

LEADER_PATIENCE_S = 1.0         # of GET /info, which must answer in any case


def routes(swarm: SwarmNode) -> list[web.RouteDef]:
    noun = SwarmRoutes(swarm)
    return [
        web.get("/swarm", noun.inspect),
        web.post("/swarm/init", noun.init),
        web.post("/swarm/join", noun.join),
        web.post("/swarm/leave", noun.leave),
        web.post("/swarm/update", noun.update),
        web.get("/swarm/unlockkey", noun.unlock_key),
        web.post("/swarm/unlock", noun.unlock),
    ]


class SwarmRoutes:
    def __init__(self, swarm: SwarmNode) -> None:
        self._swarm = swarm

    async def inspect(self, _: web.Request) -> web.Response:
        cluster = (await current_manager(self._swarm)).store.cluster
        if cluster is None:
            raise Unavailable("the swarm is still being set up; try again in a moment")
        return web.json_response(swarm_to_json(cluster))

    async def init(self, request: web.Request) -> web.Response:
        fields = Fields(await read_json(request))
        wanted = InitRequest(
            listen_addr=fields.text("ListenAddr"),
            advertise_addr=fields.text("AdvertiseAddr"),
            data_path_addr=fields.text("DataPathAddr"),
            data_path_port=fields.integer("DataPathPort", least=0, most=65535),
            default_addr_pool=tuple(fields.texts("DefaultAddrPool")),
            subnet_size=fields.integer("SubnetSize", least=0, most=29),
            force_new_cluster=fields.flag("ForceNewCluster"),
            availability=fields.choice("Availability", AVAILABILITIES, NodeSpec.ACTIVE),
            spec=swarm_spec_from_json(fields.inner("Spec")),
        )
        if fields.flag("AutoLockManagers"):      # the docker client says it here as well
            wanted.spec.autolock_managers = True
        fields.refuse_rest()
        return web.json_response(await self._swarm.init(wanted))

    async def join(self, request: web.Request) -> web.Response:
        fields = Fields(await read_json(request))
        remotes = tuple(fields.texts("RemoteAddrs"))
        if not remotes:
            raise InvalidArgument("RemoteAddrs: the address of a manager must be given")
        if not fields.text("JoinToken"):
            raise InvalidArgument("JoinToken: must be given; a manager shows it with `swarm join-token worker`")
        wanted = JoinRequest(
            listen_addr=fields.text("ListenAddr"),
            advertise_addr=fields.text("AdvertiseAddr"),
            data_path_addr=fields.text("DataPathAddr"),
            remote_addrs=remotes,
            join_token=fields.text("JoinToken"),
            availability=fields.choice("Availability", AVAILABILITIES, NodeSpec.ACTIVE),
        )
        fields.refuse_rest()
        await self._swarm.join(wanted)
        return web.Response()

    async def leave(self, request: web.Request) -> web.Response:
        await self._swarm.leave(force=query_flag(request, "force"))
        return web.Response()

    async def update(self, request: web.Request) -> web.Response:
        version = query_integer(request, "version")
        spec = swarm_spec_from_json(Fields(await read_json(request)))
        manager = await current_manager(self._swarm)
        await manager.control.update_cluster(
            UpdateClusterRequest(
                version=version,
                spec=spec,
                rotate_worker_token=query_flag(request, "rotateWorkerToken"),
                rotate_manager_token=query_flag(request, "rotateManagerToken"),
                rotate_manager_unlock_key=query_flag(request, "rotateManagerUnlockKey"),
            )
        )
        await self._take_unlock_key(manager)
        return web.Response()

    async def _take_unlock_key(self, manager: SwarmManager) -> None:
        """Wait for this manager's disk to be as the swarm now is; others follow in a moment.

        The update is made whatever comes of this, and so the answer says: the manager tries again by itself.
        """
        try:
            await manager.read_barrier()        # what was just written
            await self._swarm.take_unlock_key()
        except (Internal, Unavailable) as failure:
            log.warning("the swarm was updated; what opens this manager's disk may follow later: %s", failure)

    async def unlock_key(self, _: web.Request) -> web.Response:
        """Empty without autolock, as the client expects it."""
        cluster = (await current_manager(self._swarm)).store.cluster
        return web.json_response({"UnlockKey": cluster.unlock_key if cluster is not None else ""})

    async def unlock(self, request: web.Request) -> web.Response:
        await self._swarm.unlock(Fields(await read_json(request)).text("UnlockKey"))
        return web.Response()


async def swarm_info(swarm: SwarmNode) -> JSON:
    """SwarmInfo with every acknowledged write; without a leader, from what this host knew last."""
    if swarm.manager is not None:
        with contextlib.suppress(TimeoutError, Unavailable):
            async with asyncio.timeout(LEADER_PATIENCE_S):
                await swarm.manager.read_barrier()
    info: JSON = {
        "NodeID": swarm.node_id,
        "NodeAddr": swarm.node_addr,
        "LocalNodeState": swarm.local_state.value,
        "ControlAvailable": swarm.manager is not None,
        "Error": swarm.error,
        "RemoteManagers": [{"NodeID": node, "Addr": addr} for node, addr in swarm.remote_managers] or None,
    }
    manager = swarm.manager
    if manager is not None:
        info |= {"Nodes": len(manager.store.nodes), "Managers": len(manager.members())}
        if manager.store.cluster is not None:
            info["Cluster"] = cluster_info_to_json(manager.store.cluster)
    return info
