"""The sending side to one other member: a gRPC stream that holds the place, a wire for speed, a stream for snapshots.

Owns    Link. Everything in it happens on the event loop's thread; the wires it opens are handed on.
Laws    Queues are bounded: what a slow or absent peer does not take is dropped and reported, for Raft repairs loss and
        not delay. Where the wire's port cannot be reached, all goes over gRPC: slower, and to the swarm's port alone.
        Each attempt to connect presents the certificate of that moment; a stream that was opened while another root was
        trusted ends with that root, and says so before. A member that comes back is met at once: its stream to this one
        ends the pause between attempts, for the next election may need this link.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from random import Random
from typing import Protocol

import grpc.aio

from swarmpy.identity import NodeIdentity
from swarmpy.manager.raft.handshake import Refused, dial
from swarmpy.manager.raft.service import Hello, Ticket
from swarmpy.manager.raft.wire import Outgoing
from swarmpy.rpc.raft_pb2 import RaftBatch, RaftDone
from swarmpy.rpc.raft_pb2_grpc import RaftStub

__all__ = ["Link", "LinkOwner"]

_log = logging.getLogger(__name__)

_BATCH_BYTES = 2 << 20
_QUEUE_BYTES = 32 << 20
_QUEUE_MESSAGES = 4096
_FIRST_BACKOFF_S = 0.05
_LAST_BACKOFF_S = 1.0
_LAST_WIRE_BACKOFF_S = 30.0     # a firewall does not open from one second to the next
_FAREWELL_S = 1.0               # for the other member to hear that a stream ends


class LinkOwner(Protocol):
    """Who holds the links."""

    def lost(self, member: int) -> None:
        """Messages to `member` were dropped, or may be lost with their stream."""

    def opened(self, wire: Outgoing) -> None:
        """A wire is up; the owner closes it."""

    def closed(self, member: int) -> None:
        """Wires to `member` are to be closed: their stream is gone."""


class Link:
    """Keeps its streams and its wire open, reconnecting, until it is closed."""

    def __init__(self, hello: Hello, addr: str, identity: NodeIdentity, owner: LinkOwner, random: Random) -> None:
        self.addr = addr
        self._hello = hello
        self._member = hello.to
        self._identity = identity
        self._owner = owner
        self._random = random
        self._open_channel()
        self._wire_broke = asyncio.Event()
        self._came = asyncio.Event()
        self._rest, self._bulk = _Lane(), _Lane()
        self._flowing: set[_Lane] = set()           # into streams that are open
        self._forget_identity = identity.on_change(self._look_at_roots)
        self._tasks = [
            asyncio.create_task(self._keep_messages(), name=f"raft-link-{addr}"),
            asyncio.create_task(self._keep_snapshots(), name=f"raft-snapshots-{addr}"),
        ]

    def send(self, message: bytes, *, bulk: bool) -> None:
        """Queue one message for gRPC; the oldest go when there are too many."""
        if (self._bulk if bulk else self._rest).put(message):
            self._owner.lost(self._member)

    def came(self) -> None:
        """The other member has just opened a stream to this one: it is there."""
        self._came.set()

    def wire_broke(self) -> None:
        """The wire handed to the owner is gone: open another."""
        self._wire_broke.set()

    async def close(self) -> None:
        self._forget_identity()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close(None)

    async def _keep_messages(self) -> None:
        """Keep the stream open for ever: it is how the other member knows that this one is there."""
        backoff = _Backoff(self._random, _LAST_BACKOFF_S)
        while True:
            self._came.clear()
            call = (await self._stub()).Messages(metadata=self._hello.metadata())
            try:
                await self._serve(call, backoff)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                _log.debug("raft stream to %s broke: %s", self.addr, _reason(error))
            finally:
                call.cancel()
            self._rest.clear()
            self._owner.lost(self._member)
            if await backoff.sleep(self._came):
                backoff.reset()
                await self._renew_channel()

    async def _keep_snapshots(self) -> None:
        """Open a stream when there is something to send."""
        backoff = _Backoff(self._random, _LAST_BACKOFF_S)
        while True:
            await self._bulk.filled.wait()
            call = (await self._stub()).Snapshots(metadata=self._hello.metadata())
            try:
                await call.wait_for_connection()
                backoff.reset()
                await self._pump(self._bulk, call)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                _log.debug("raft snapshot stream to %s broke: %s", self.addr, _reason(error))
            finally:
                call.cancel()
            self._bulk.clear()
            self._owner.lost(self._member)
            await backoff.sleep()

    async def _serve(self, call: _Call, backoff: _Backoff) -> None:
        """Until the stream ends: what is given to `send`, and a wire beside it."""
        wire = asyncio.create_task(self._keep_wire(call, backoff), name=f"raft-wire-{self.addr}")
        wire.add_done_callback(self._wire_ended)
        try:
            await self._pump(self._rest, call)
        finally:
            wire.cancel()
            await asyncio.wait({wire})
            self._owner.closed(self._member)

    def _wire_ended(self, wire: asyncio.Task[None]) -> None:
        """A stream that fails takes its wire along, and tells why itself."""
        error = None if wire.cancelled() else wire.exception()
        if error is not None and not isinstance(error, grpc.aio.AioRpcError | asyncio.InvalidStateError):
            _log.error("no wire to %s, raft goes over gRPC", self.addr, exc_info=error)

    async def _keep_wire(self, call: _Call, admitted: _Backoff) -> None:
        """Once the other member has let the stream in. One from before there were wires answers only at its end."""
        ticket = Ticket.of(await call.initial_metadata())
        if ticket is None:
            return
        admitted.reset()
        loop = asyncio.get_running_loop()
        host = self.addr.rpartition(":")[0].strip("[]")
        backoff = _Backoff(self._random, _LAST_WIRE_BACKOFF_S)
        while ticket.port:    # none where the other member could not open any
            self._wire_broke.clear()
            try:
                socket = await dial(host, ticket.port, self._identity.client_tls(), ticket.secret)
            except (OSError, TimeoutError, Refused) as failure:
                why = failure or "no answer"
                _log.info("port %d of %s cannot be used, raft goes over gRPC: %s", ticket.port, host, why)
            else:
                opened = loop.time()
                self._owner.opened(Outgoing(self._member, socket))
                await self._wire_broke.wait()
                if loop.time() - opened > _LAST_BACKOFF_S:
                    backoff.reset()
            await backoff.sleep()

    async def _stub(self) -> RaftStub:
        """On a channel with the present certificate and roots: those before may have expired, or be gone."""
        if self._identity.present is not self._present:
            await self._renew_channel()
        return RaftStub(self._channel)

    async def _renew_channel(self) -> None:
        old = self._channel
        self._open_channel()
        await old.close(None)

    def _open_channel(self) -> None:
        self._present, self._trusted = self._identity.present, set(self._identity.roots)
        self._channel = self._identity.channel(self.addr)

    def _look_at_roots(self) -> None:
        """Wake who writes to a stream, for it may have to end."""
        for lane in self._flowing:
            lane.filled.set()

    async def _pump(self, lane: _Lane, call: _Call) -> None:
        """Write batches until the stream ends, and raise what it ended with; or until a root is no longer trusted by
        which the other end may have been believed."""
        call.add_done_callback(lambda _: lane.filled.set())
        self._flowing.add(lane)
        try:
            while not call.done():
                await lane.filled.wait()
                if self._identity.present is not self._present and not self._trusted <= set(self._identity.roots):
                    await _part(call)
                    return
                batch = lane.take()
                if batch:
                    await call.write(RaftBatch(messages=batch))
            await call
        finally:
            self._flowing.discard(lane)


_Call = grpc.aio.StreamUnaryCall[RaftBatch, RaftDone]


async def _part(call: _Call) -> None:
    """End the stream with its last word, an empty batch: this member is not gone."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FAREWELL_S):
            await call.write(RaftBatch())
            await call


def _reason(error: grpc.aio.AioRpcError | asyncio.InvalidStateError) -> str:
    return str(error.details() if isinstance(error, grpc.aio.AioRpcError) else error)


class _Backoff:
    """Waits twice as long each time, give or take a half."""

    def __init__(self, random: Random, last_s: float) -> None:
        self._random = random
        self._last_s = last_s
        self._next_s = _FIRST_BACKOFF_S

    def reset(self) -> None:
        self._next_s = _FIRST_BACKOFF_S

    async def sleep(self, or_until: asyncio.Event | None = None) -> bool:
        """Returns whether it was cut short by that event."""
        pause_s = self._next_s * (0.5 + self._random.random())
        self._next_s = min(2 * self._next_s, self._last_s)
        try:
            async with asyncio.timeout(pause_s):
                await (or_until or asyncio.Event()).wait()
        except TimeoutError:
            return False
        return True


class _Lane:
    """A bounded queue."""

    def __init__(self) -> None:
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
