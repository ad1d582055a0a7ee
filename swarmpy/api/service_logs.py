"""GET /services/{id}/logs and GET /tasks/{id}/logs.

Source  Docker Engine API: ServiceLogs, and the stream format of ContainerAttach.
"""

from __future__ import annotations

import contextlib
from urllib.parse import quote

from aiohttp import web

from swarmpy.api.framing import MULTIPLEXED, RAW, framed
from swarmpy.api.requests import query_flag
from swarmpy.api.swarm_access import current_manager, find_service, find_task
from swarmpy.api.swarm_node import SwarmManager, SwarmNode
from swarmpy.engine.times import format_rfc3339
from swarmpy.errors import InvalidArgument
from swarmpy.rpc.logs_pb2 import LogMessage, LogRequest
from swarmpy.rpc.types_pb2 import TaskSpec

__all__ = ["routes"]

STREAMS = {LogMessage.STDERR: "stderr"}      # everything else is stdout


def routes(swarm: SwarmNode) -> list[web.RouteDef]:
    noun = LogRoutes(swarm)
    return [web.get("/services/{id}/logs", noun.service), web.get("/tasks/{id}/logs", noun.task)]


class LogRoutes:
    def __init__(self, swarm: SwarmNode) -> None:
        self._swarm = swarm

    async def service(self, request: web.Request) -> web.StreamResponse:
        wanted = log_request(request)
        manager = await current_manager(self._swarm)
        service = find_service(manager.store, request.match_info["id"])
        wanted.service_ids.append(service.id)
        return await stream(request, manager, wanted, service.spec.task)

    async def task(self, request: web.Request) -> web.StreamResponse:
        wanted = log_request(request)
        manager = await current_manager(self._swarm)
        task = find_task(manager.store, request.match_info["id"])
        wanted.task_ids.append(task.id)
        return await stream(request, manager, wanted, manager.store.templates[task.template_id].spec)


def log_request(request: web.Request) -> LogRequest:
    wanted = LogRequest(
        follow=query_flag(request, "follow"),
        stdout=query_flag(request, "stdout"),
        stderr=query_flag(request, "stderr"),
        since_ns=unix_ns(request.query.get("since", "")),
        tail=tail_lines(request.query.get("tail", "all")),
    )
    if not (wanted.stdout or wanted.stderr):
        raise InvalidArgument("stdout, stderr: you must choose at least one stream")
    return wanted


def unix_ns(text: str) -> int:
    """`since`: Unix seconds, with a fraction if need be."""
    seconds, _, fraction = text.partition(".")
    if not text:
        return 0
    if not seconds.isdigit() or (fraction and not fraction.isdigit()):
        raise InvalidArgument(f"since: {text!r} is not a Unix time in seconds")
    return int(seconds) * 1_000_000_000 + int((fraction or "0")[:9].ljust(9, "0"))


def tail_lines(text: str) -> int:
    if text in ("", "all"):
        return -1
    if not text.isdigit():
        raise InvalidArgument(f"tail: {text!r} is not a number of lines or 'all'")
    return int(text)


async def stream(
    request: web.Request, manager: SwarmManager, wanted: LogRequest, spec: TaskSpec
) -> web.StreamResponse:
    """Answer with the lines as they come, until they end or the client has gone."""
    timestamps, details = query_flag(request, "timestamps"), query_flag(request, "details")
    raw = spec.container.tty
    response = web.StreamResponse()
    response.content_type = RAW if raw else MULTIPLEXED
    await response.prepare(request)
    with contextlib.suppress(ConnectionResetError):      # the client has gone: there is nobody to tell
        async for message in manager.logs(wanted):
            line = render(message, timestamps=timestamps, details=details)
            await response.write(line if raw else framed(STREAMS.get(message.stream, "stdout"), line))
        await response.write_eof()
    return response


def render(message: LogMessage, *, timestamps: bool, details: bool) -> bytes:
    """`TIMESTAMP DETAILS LINE`, as the docker client takes it apart."""
    prefix = ""
    if timestamps:
        prefix += f"{format_rfc3339(message.timestamp_ns)} "
    if details:
        attributes = {
            "com.docker.swarm.node.id": message.node_id,
            "com.docker.swarm.service.id": message.service_id,
            "com.docker.swarm.task.id": message.task_id,
        }
        prefix += ",".join(f"{quote(key)}={quote(value)}" for key, value in attributes.items()) + " "
    return prefix.encode() + message.data
