"""Routes of processes started in a running container: `docker exec`.

Source  Docker Engine API, tag Exec.
"""

from __future__ import annotations

from aiohttp import web

from swarmpy.api.container_streams import carry
from swarmpy.api.fields import Fields
from swarmpy.api.framing import framed, stream_type
from swarmpy.api.hijack import Answered, hijack
from swarmpy.api.requests import query_integer, read_json
from swarmpy.api.versions import api_version
from swarmpy.detach_keys import DetachKeys, parse_detach_keys
from swarmpy.engine import Engine, ExecConfig
from swarmpy.engine.schema import read
from swarmpy.errors import InvalidArgument, SwarmpyError

__all__ = ["routes"]


def routes(engine: Engine) -> list[web.RouteDef]:
    noun = ExecRoutes(engine)
    return [
        web.post("/containers/{id}/exec", noun.create),
        web.post("/exec/{id}/start", noun.start),
        web.post("/exec/{id}/resize", noun.resize),
        web.get("/exec/{id}/json", noun.inspect),
    ]


class ExecRoutes:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create(self, request: web.Request) -> web.Response:
        config = read(ExecConfig, await read_json(request))
        exec_id = self._engine.execs.create(request.match_info["id"], config)
        return web.json_response({"Id": exec_id}, status=201)

    async def start(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request)
        fields = Fields(body)
        detach, tty = fields.flag("Detach"), fields.flag("Tty")
        size = _console_size(body)
        execs, exec_id = self._engine.execs, request.match_info["id"]
        config = execs.get(exec_id).config
        keys = DetachKeys(parse_detach_keys(config.detach_keys))
        if detach:
            await execs.start(exec_id, console_size=size)
            return web.Response(status=200)
        if tty != config.tty:
            raise InvalidArgument("Tty: the exec was created with another setting of Tty")
        execs.check_startable(exec_id)
        outputs = {
            name for name, on in (("stdout", config.attach_stdout), ("stderr", config.attach_stderr)) if on
        }
        async with hijack(request, stream_type(tty, api_version(request))) as raw:
            try:
                streams = await execs.start(exec_id, console_size=size)
            except SwarmpyError as error:  # the client looks up the exit code; the reason it can only read here
                text = f"{error}\r\n".encode()
                await raw.write(text if tty else framed("stdout", text))
            else:
                detached = await carry(streams, raw, tty=tty, stdin=config.attach_stdin, outputs=outputs, keys=keys)
                if detached:
                    execs.tell_of_detaching(exec_id)
                else:
                    await execs.get(exec_id).ended.wait()  # the client asks for the exit code once the output has ended
        return Answered()

    async def resize(self, request: web.Request) -> web.Response:
        height, width = query_integer(request, "h"), query_integer(request, "w")
        await self._engine.execs.resize(request.match_info["id"], height, width)
        return web.Response(status=200)

    async def inspect(self, request: web.Request) -> web.Response:
        return web.json_response(self._engine.execs.get(request.match_info["id"]).to_json())


def _console_size(body: object) -> tuple[int, ...]:
    """ConsoleSize: height and width."""
    size = body.get("ConsoleSize") if isinstance(body, dict) else None
    if size is None:
        return ()
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(item, int) for item in size):
        raise InvalidArgument("ConsoleSize: expected the height and the width")
    return tuple(size)
