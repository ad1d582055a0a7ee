"""The Engine API of one daemon as an aiohttp application.

Owns    which routes there are, and what every request passes: its version, its errors, the headers of its answer.
"""

from __future__ import annotations

from aiohttp import web

from swarmpy.api import (
    absent,
    archives,
    container_streams,
    containers,
    execs,
    image_transfers,
    images,
    networks,
    nodes,
    service_logs,
    services,
    swarm_node,
    system,
    tasks,
    volumes,
)
from swarmpy.api import swarm as swarm_routes
from swarmpy.api.failures import errors_as_answers, name_the_server
from swarmpy.api.leaving import finish_what_was_begun
from swarmpy.api.versions import VersionedRoutes
from swarmpy.engine import Engine

__all__ = ["create_app"]

_MOST_BODY = 16 << 20


def create_app(engine: Engine, swarm: swarm_node.SwarmNode) -> web.Application:
    """The whole API. JSON bodies may have 16 MiB; archives are streamed and have no limit."""
    app = web.Application(middlewares=[finish_what_was_begun, errors_as_answers], client_max_size=_MOST_BODY)
    app.on_response_prepare.append(name_the_server)
    app.router.register_resource(
        VersionedRoutes(
            [
                *system.routes(engine, swarm),
                *containers.routes(engine),
                *container_streams.routes(engine),
                *archives.routes(engine),
                *execs.routes(engine),
                *image_transfers.routes(engine),
                *images.routes(engine),
                *networks.routes(engine, swarm),
                *volumes.routes(engine),
                *swarm_routes.routes(swarm),
                *nodes.routes(swarm),
                *services.routes(swarm),
                *tasks.routes(swarm),
                *service_logs.routes(swarm),
                *absent.routes(),
            ]
        )
    )
    return app
