"""Errors that come late: an answer that has begun is never followed by a second one."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from swarmpy.api.failures import errors_as_answers, name_the_server
from swarmpy.errors import Conflict


async def answer_of(failure: Exception, *, begun: bool) -> tuple[int, bytes]:
    """Status and body of a request whose handler fails, after it has sent something if `begun`."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if begun:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"first")
        raise failure

    app = web.Application(middlewares=[errors_as_answers])
    app.on_response_prepare.append(name_the_server)
    app.router.add_get("/", handler)
    async with TestServer(app) as server, aiohttp.ClientSession() as client, client.get(server.make_url("/")) as answer:
        return answer.status, await answer.read()


@pytest.mark.parametrize("failure", [Conflict("not now"), RuntimeError("a bug")])
def test_a_stream_that_breaks_off_has_no_end(failure: Exception) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        asyncio.run(answer_of(failure, begun=True))


def test_an_error_before_the_first_byte_is_the_answer() -> None:
    assert asyncio.run(answer_of(Conflict("not now"), begun=False)) == (409, b'{"message": "not now"}')
