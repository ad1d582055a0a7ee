"""Streams between agents and a dispatcher without a network, on an event loop whose time is a number.

The loop never waits: when nothing can be done now, its clock is set to the next thing that is due.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

import grpc

from swarmpy.manager.dispatcher import Dispatcher
from swarmpy.rpc.dispatcher_pb2 import FromAgent, ToAgent
from tests.dispatcher.wire import NODE_HEADER

__all__ = ["Call", "Channel", "Server", "run_in_virtual_time"]

ON_THE_WAY = 4                   # messages that a stream holds before a writer has to wait


class _Selector(selectors.DefaultSelector):
    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits for somebody else"
            self.skipped_s += max(timeout, 0)
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _Selector()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.skipped_s


def run_in_virtual_time(story: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        runner.run(story)


class _Aborted(Exception):
    """What `abort` raises in a servicer."""


class Call:
    """One stream: the client's call and, as `grpc.aio.ServicerContext`, the server's end of it."""

    def __init__(self, node_id: str, pace: Callable[[], float]) -> None:
        self.node_id = node_id
        self.heard_s = 0.0                                   # when the server read the last message
        self._pace = pace
        self._up: asyncio.Queue[FromAgent | None] = asyncio.Queue()
        self._down: asyncio.Queue[ToAgent | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(ON_THE_WAY)
        self._cut = False
        self._status: tuple[grpc.StatusCode, str] | None = None
        self._server: asyncio.Task[None] | None = None
        self.context = SimpleNamespace(
            read=self._server_read, write=self._server_write, abort=self._abort,
            peer=lambda: "ipv4:192.0.2.1:5", invocation_metadata=lambda: ((NODE_HEADER, node_id),),
        )  # fmt: skip

    def begin(self, serve: Callable[[object, object], Coroutine[Any, Any, None]]) -> None:
        self._server = asyncio.create_task(serve(None, self.context))
        self._server.add_done_callback(self._served)

    def _served(self, server: asyncio.Task[None]) -> None:
        error = None if server.cancelled() else server.exception()
        if error is not None and not isinstance(error, _Aborted):
            asyncio.get_running_loop().call_exception_handler({"message": "a servicer failed", "exception": error})
            self._end(grpc.StatusCode.UNKNOWN, str(error))
        self._end(grpc.StatusCode.CANCELLED if server.cancelled() else grpc.StatusCode.OK, "")

    def _end(self, code: grpc.StatusCode, details: str) -> None:
        if self._status is None:
            self._status = code, details
            self._down.put_nowait(None)

    # ------------------------------------------------------------------------------------------ the server's end

    async def _server_read(self) -> object:
        message = await self._up.get()
        self.heard_s = asyncio.get_running_loop().time()
        return grpc.aio.EOF if message is None else message  # type: ignore[attr-defined]  # the stubs lack it

    async def _server_write(self, message: ToAgent | bytes) -> None:
        await (asyncio.Event().wait() if self._cut else self._room.acquire())
        data = message if isinstance(message, bytes) else message.SerializeToString()
        self._down.put_nowait(ToAgent.FromString(data))

    async def _abort(self, code: grpc.StatusCode, details: str, trailing: object = ()) -> NoReturn:
        self._end(code, details)
        raise _Aborted

    # ------------------------------------------------------------------------------------------ the client's end

    async def wait_for_connection(self) -> None:
        await asyncio.sleep(self._pace())

    async def write(self, message: FromAgent) -> None:
        await asyncio.sleep(self._pace())
        if self._status is not None:
            raise asyncio.InvalidStateError("the stream has ended")
        self.post(message)

    def post(self, message: FromAgent) -> None:
        """What is on its way arrives, whether or not the stream still stands."""
        self._up.put_nowait(FromAgent.FromString(message.SerializeToString()))

    async def read(self) -> object:
        message = await self._down.get()
        if message is None:
            self._down.put_nowait(None)
            return grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack it
        self._room.release()
        return message

    def cancel(self) -> None:
        """The client closes: the server learns of it."""
        if self._server is not None:
            self._server.cancel()

    def cut(self) -> None:
        """The client loses the connection. The server does not know: nothing that it sends leaves any more."""
        self._end(grpc.StatusCode.UNAVAILABLE, "cut")
        self._cut = True

    async def code(self) -> grpc.StatusCode:
        assert self._status is not None
        return self._status[0]

    async def details(self) -> str:
        assert self._status is not None
        return self._status[1]

    async def initial_metadata(self) -> tuple[()]:
        return ()

    async def trailing_metadata(self) -> tuple[()]:
        return ()


class Server:
    """Where a dispatcher registers what it serves."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._handlers: tuple[grpc.GenericRpcHandler[Any, Any], ...] = ()
        dispatcher.add_to_server(self)  # type: ignore[arg-type]  # all that is asked of a server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler[Any, Any]]) -> None:
        self._handlers = tuple(handlers)

    def method(self, name: str) -> Callable[[object, object], Coroutine[Any, Any, None]]:
        found = [handler.service(SimpleNamespace(method=name)) for handler in self._handlers]  # type: ignore[arg-type]
        [handler] = [handler for handler in found if handler is not None]
        serve: Callable[[object, object], Coroutine[Any, Any, None]] = handler.stream_stream  # type: ignore[assignment]
        return serve


class Channel:
    """A client's way to whoever serves when it calls; `calls` are all that it ever made."""

    def __init__(self, node_id: str, server: Callable[[], Server], pace: Callable[[], float]) -> None:
        self.calls: list[Call] = []
        self._node_id, self._server, self._pace = node_id, server, pace

    def stream_stream(self, method: str, *_: object) -> Callable[..., Call]:
        def call(*_: object, **__: object) -> Call:
            made = Call(self._node_id, self._pace)
            self.calls.append(made)
            made.begin(self._server().method(method))
            return made

        return call
