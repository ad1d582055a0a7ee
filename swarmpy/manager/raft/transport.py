"""Raft messages over gRPC: one stream to each peer, and a second for snapshots.

Owns    RaftService, the receiving side on the node's gRPC server, and Link, the sending side to one peer.
Laws    Queues are bounded: what a slow or absent peer does not take is dropped and reported, for Raft repairs loss and
        not delay. A stream is taken only from a peer that `authorize` lets pass, for this cluster and this member.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import grpc
import grpc.aio

from swarmpy.errors import Forbidden
from swarmpy.rpc.raft_pb2 import RaftBatch, RaftDone
from swarmpy.rpc.raft_pb2_grpc import RaftServicer, RaftStub, add_RaftServicer_to_server

__all__ = ["CHANNEL_OPTIONS", "Hello", "Link", "RaftService", "Receiver"]

_log = logging.getLogger(__name__)

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
"""What a channel between managers should be made with (and a server with the first two)."""

_BATCH_BYTES = 2 << 20
_QUEUE_BYTES = 32 << 20
_QUEUE_MESSAGES = 4096
_FIRST_BACKOFF_S = 0.05
_LAST_BACKOFF_S = 1.0


@dataclass(frozen=True, slots=True)
class Hello:
    """Who opens a stream, and to whom it believes to speak."""

    cluster_id: str
    sender: int
    to: int
    addr: str

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (
            ("raft-cluster", self.cluster_id),
            ("raft-from", str(self.sender)),
            ("raft-to", str(self.to)),
            ("raft-addr", self.addr),
        )

    @classmethod
    def of(cls, context: grpc.aio.ServicerContext[RaftBatch, RaftDone]) -> Hello | None:
        """What the peer's metadata says; None when it is not that of a Raft stream."""
        fields = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        try:
            return cls(
                fields["raft-cluster"], int(fields["raft-from"]), int(fields["raft-to"]), fields["raft-addr"]
            )
        except (KeyError, ValueError):
            return None


class Receiver(Protocol):
    """The member behind a RaftService. All is called on the loop's thread."""

    def objection(self, hello: Hello) -> str | None:
        """Why the stream is not for this member, or None when it is taken."""

    def connected(self, hello: Hello) -> None: ...

    def received(self, sender: int, messages: Sequence[bytes]) -> None: ...

    def disconnected(self, sender: int) -> None: ...


class RaftService(RaftServicer):
    """Receives for the member that is attached, if any: a node keeps its server while it is promoted or demoted."""

    def __init__(self, authorize: Callable[[grpc.aio.ServicerContext[RaftBatch, RaftDone]], None]) -> None:
        """`authorize` raises Forbidden for a peer that is no manager."""
        self._authorize = authorize
        self._receiver: Receiver | None = None
        self._streams: dict[int, int] = {}    # sender -> number of its latest stream
        self._count = 0

    def register(self, server: grpc.aio.Server) -> None:
        add_RaftServicer_to_server(self, server)

    def attach(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def detach(self, receiver: Receiver) -> None:
        if self._receiver is receiver:
            self._receiver = None

    async def Messages(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[RaftBatch], context: grpc.aio.ServicerContext[RaftBatch, RaftDone]
    ) -> RaftDone:
        receiver, hello = await self._admit(context)
        self._count += 1
        number = self._streams[hello.sender] = self._count
        receiver.connected(hello)
        try:
            await self._receive(receiver, hello, request_iterator)
        finally:
            if self._streams.get(hello.sender) == number:
                del self._streams[hello.sender]
                if self._receiver is receiver:
                    receiver.disconnected(hello.sender)
        return RaftDone()

    async def Snapshots(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[RaftBatch], context: grpc.aio.ServicerContext[RaftBatch, RaftDone]
    ) -> RaftDone:
        receiver, hello = await self._admit(context)
        await self._receive(receiver, hello, request_iterator)
        return RaftDone()

    async def _receive(self, receiver: Receiver, hello: Hello, batches: AsyncIterator[RaftBatch]) -> None:
        async for batch in batches:
            if self._receiver is not receiver:
                return
            receiver.received(hello.sender, batch.messages)

    async def _admit(self, context: grpc.aio.ServicerContext[RaftBatch, RaftDone]) -> tuple[Receiver, Hello]:
        try:
            self._authorize(context)
        except Forbidden as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        receiver, hello = self._receiver, Hello.of(context)
        if hello is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the stream's metadata is not that of a raft member")
        if receiver is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no raft member runs here")
        objection = receiver.objection(hello)
        if objection is not None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, objection)
        return receiver, hello


class Link:
    """Sends to one peer, reconnecting as long as it is open; a queue of messages in order, without any promise."""

    def __init__(
        self,
        hello: Hello,
        addr: str,
        channel: Callable[[str], grpc.aio.Channel],
        lost: Callable[[int], None],
        random: Random,
    ) -> None:
        """`lost(raft_id)` is called whenever messages were dropped or may be lost with their stream."""
        self.addr = addr
        self.connected = False
        self._hello = hello
        self._lost = lost
        self._random = random
        self._channel = channel(addr)
        stub = RaftStub(self._channel)
        self._lanes = (_Lane(stub.Messages), _Lane(stub.Snapshots))
        self._tasks = [asyncio.create_task(self._run(lane), name=f"raft-link-{addr}") for lane in self._lanes]

    def send(self, message: bytes, *, bulk: bool) -> None:
        """Queue one message; the oldest go when there are too many."""
        if self._lanes[bulk].put(message):
            self._lost(self._hello.to)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close(None)

    async def _run(self, lane: _Lane) -> None:
        """Keep one lane's stream open for ever. The bulk lane opens its own only when it has something to send."""
        main = lane is self._lanes[0]
        backoff = _FIRST_BACKOFF_S
        while True:
            if not main:
                await lane.filled.wait()
            call = lane.method(metadata=self._hello.metadata())
            try:
                await call.wait_for_connection()
                backoff = _FIRST_BACKOFF_S
                if main:
                    self.connected = True
                await self._pump(lane, call)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
                _log.debug("raft stream to %s broke: %s", self.addr, reason)
            finally:
                call.cancel()
                if main:
                    self.connected = False
            lane.clear()
            self._lost(self._hello.to)
            await asyncio.sleep(backoff * (0.5 + self._random.random()))
            backoff = min(2 * backoff, _LAST_BACKOFF_S)

    @staticmethod
    async def _pump(lane: _Lane, call: grpc.aio.StreamUnaryCall[RaftBatch, RaftDone]) -> None:
        """Write batches until the stream ends; raises what it ended with."""
        call.add_done_callback(lambda _: lane.filled.set())
        while not call.done():
            await lane.filled.wait()
            batch = lane.take()
            if batch:
                await call.write(RaftBatch(messages=batch))
        await call


class _Method(Protocol):
    """A stream-unary method of the stub, called without an iterator: batches are then given to `write`."""

    def __call__(self, *, metadata: tuple[tuple[str, str], ...]) -> grpc.aio.StreamUnaryCall[RaftBatch, RaftDone]: ...


class _Lane:
    """A bounded queue and the method its batches go to."""

    def __init__(self, method: _Method) -> None:
        self.method = method
        self.filled = asyncio.Event()
        self._messages: deque[bytes] = deque()
        self._bytes = 0

    def put(self, message: bytes) -> bool:
        """Returns whether older ones were dropped for it."""
        self._messages.append(message)
        self._bytes += len(message)
        self.filled.set()
        dropped = False
        while len(self._messages) > 1 and (self._bytes > _QUEUE_BYTES or len(self._messages) > _QUEUE_MESSAGES):
            self._bytes -= len(self._messages.popleft())
            dropped = True
        return dropped

    def take(self) -> list[bytes]:
        """The next batch, in order."""
        batch: list[bytes] = []
        size = 0
        while self._messages and (not batch or size + len(self._messages[0]) <= _BATCH_BYTES):
            message = self._messages.popleft()
            size += len(message)
            batch.append(message)
        self._bytes -= size
        if not self._messages:
            self.filled.clear()
        return batch

    def clear(self) -> None:
        self._messages.clear()
        self._bytes = 0
        self.filled.clear()
