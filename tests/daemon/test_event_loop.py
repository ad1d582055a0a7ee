"""The daemon's loop hears all peers, however slow its turns are."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import grpc.aio

from swarmpy.daemon.event_loop import DaemonLoop

STREAMS = 50
ROUNDS = 20
SLOW_TURN_S = 0.001              # what a busy manager's other work takes of a turn


async def echo(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    while isinstance(message := await context.read(), bytes):
        await context.write(message)


async def turns_for_streams() -> int:
    """How many turns of the loop it takes until many messages on many open streams are answered."""
    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    loop = asyncio.get_running_loop()
    turns, ticking = 0, loop.call_soon(lambda: None)

    def turn() -> None:
        nonlocal turns, ticking
        turns += 1
        time.sleep(SLOW_TURN_S)
        ticking = loop.call_soon(turn)

    async def ask(stream: Any, text: bytes) -> bytes:
        await stream.write(text)
        return bytes(await stream.read())

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.stream_stream("/t/Echo", None, None)
        streams = [call() for _ in range(STREAMS)]
        for stream in streams:
            assert await ask(stream, b"first") == b"first"
        ticking = loop.call_soon(turn)
        for _ in range(ROUNDS):
            answers = await asyncio.gather(*(ask(stream, b"%d" % number) for number, stream in enumerate(streams)))
            assert answers == [b"%d" % number for number in range(STREAMS)]
        ticking.cancel()
        for stream in streams:
            await stream.done_writing()
            assert await stream.code() is grpc.StatusCode.OK
    await server.stop(None)
    return turns


def test_a_turn_takes_all_that_grpc_has() -> None:
    with asyncio.Runner(loop_factory=DaemonLoop) as runner:
        assert runner.run(turns_for_streams()) < STREAMS * ROUNDS    # one event a turn would be four times as many
