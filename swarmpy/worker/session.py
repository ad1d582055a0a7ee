"""One session with the leader, from Hello to the end of the stream.

Owns    the stream and what waits to be said on it: heartbeats, reports, the mesh version that is in the kernel; and how
        long a leader may be silent before its connection is asked for a sign of life.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

import grpc

from swarmpy.identity.node_identity import ASK_AFTER_S
from swarmpy.rpc.dispatcher_pb2 import (
    FromAgent,
    Heartbeat,
    Hello,
    Leaving,
    MeshApplied,
    TaskStatusUpdate,
    ToAgent,
    Welcome,
)
from swarmpy.rpc.types_pb2 import NodeDescription
from swarmpy.worker.reporter import Reporter

__all__ = ["Session"]

SESSION = "/swarmpy.v1.Dispatcher/Session"
CONNECT_S = 3.0                  # a host that is gone does not answer at all
WELCOME_S = 15.0                 # of one that does: it may be busy with many who come at the same time
EARLIEST = 0.8                   # heartbeats come after this share of the period to the whole of it
ASK_PERIODS = 1.5                # who finds its leader standing still is with the next one before three are over
ASK_AT_MOST_S = 3600.0
RENEW_BELOW, RENEW_ABOVE = 0.75, 2.0    # by so much a leader may be silent longer than when the channel was opened
RENEW_S = 30.0                   # within this the nodes of a swarm that has grown begin their sessions anew,
RENEW_PERIODS = 12               # or within so many heartbeat periods: 5,000 take half of their leader's time then


class Session:
    """`serve` runs it; the rest may be called at any time from the loop's thread.

    `ask_after_s` is what the channel was opened with. Afterwards it is what the next one is to be opened with: a leader
    of thousands is asked by each of them, and should hear that less often than their heartbeats.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        reporter: Reporter,
        rng: random.Random,
        metadata: Sequence[tuple[str, str]],
        ask_after_s: float = ASK_AFTER_S,
    ) -> None:
        self.ask_after_s = self._opened_with_s = ask_after_s
        self._retimed = asyncio.Event()
        self._call = channel.stream_stream(SESSION, FromAgent.SerializeToString, ToAgent.FromString)(
            None, metadata=tuple(metadata)
        )
        self._reporter = reporter
        self._rng = rng
        self._period_s = 1.0
        self._mesh_applied = 0
        self._mesh_said = 0
        self._description: NodeDescription | None = None
        self._leaving = self._said_leaving = False
        self._wake = asyncio.Event()
        self._over = asyncio.Event()

    def report(self) -> None:
        """The reporter has something to send."""
        self._wake.set()

    def mesh_applied(self, version: int) -> None:
        """This version is in the kernel."""
        self._mesh_applied = version
        self._wake.set()

    def describe(self, description: NodeDescription) -> None:
        """The node is not what it said in Hello."""
        self._description = description
        self._wake.set()

    async def leave(self) -> bool:
        """Say that the node leaves, and return once the stream has ended: whether that was said."""
        self._leaving = True
        self._wake.set()
        await self._over.wait()
        return self._said_leaving

    async def outlives_its_channel(self) -> None:
        """Return when a session on a channel with the present `ask_after_s` is to follow.

        That is a while after the heartbeat period has become another one by far, as a swarm grows or shrinks. Many
        nodes come to that at the same time, and their leader is not to have them all at once.
        """
        while True:
            await self._retimed.wait()
            self._retimed.clear()
            if self._is_mistimed:
                await asyncio.sleep(self._rng.uniform(0.0, max(RENEW_S, RENEW_PERIODS * self._period_s)))
                if self._is_mistimed and not self._leaving:
                    return

    @property
    def _is_mistimed(self) -> bool:
        return not RENEW_BELOW < self.ask_after_s / self._opened_with_s < RENEW_ABOVE

    async def serve(
        self,
        description: NodeDescription,
        advertise_addr: str,
        tasks: Iterable[TaskStatusUpdate],
        welcomed: Callable[[Welcome], None],
        hear: Callable[[ToAgent], Awaitable[None]],
    ) -> None:
        """Say hello, then speak and listen until the stream ends. Raises AioRpcError when the other side ends it.

        Raises TimeoutError when no Welcome comes in time. `hear` gets every message after the first Welcome,
        and while it is busy the stream is not read.
        """
        speaking: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._call.wait_for_connection()
            async with asyncio.timeout(WELCOME_S):
                hello = Hello(description=description, advertise_addr=advertise_addr, tasks=tasks)
                await self._write(FromAgent(hello=hello))
                first = await self._read()
            self._welcome(first.welcome)
            welcomed(first.welcome)
            speaking = asyncio.create_task(self._speak())
            while True:
                message = await self._read()
                if message.HasField("welcome"):
                    self._welcome(message.welcome)
                else:
                    await hear(message)
        except asyncio.CancelledError:
            self._said_leaving = False          # what was written just now may never arrive
            raise
        finally:
            self._over.set()
            if speaking is not None:
                speaking.cancel()
                await asyncio.gather(speaking, return_exceptions=True)      # a broken stream is told by the reader
            self._call.cancel()

    def _welcome(self, welcome: Welcome) -> None:
        self._period_s = (welcome.heartbeat_period_ns or 1_000_000_000) / 1e9
        self.ask_after_s = min(max(ASK_AFTER_S, ASK_PERIODS * self._period_s), ASK_AT_MOST_S)
        self._retimed.set()
        self._wake.set()

    async def _read(self) -> ToAgent:
        message = await self._call.read()
        if isinstance(message, ToAgent):
            return message
        raise await self._failure()

    async def _write(self, message: FromAgent) -> None:
        try:
            await self._call.write(message)
        except asyncio.InvalidStateError:
            raise await self._failure() from None

    async def _failure(self) -> grpc.aio.AioRpcError:
        return grpc.aio.AioRpcError(
            await self._call.code(), await self._call.initial_metadata(), await self._call.trailing_metadata(),
            await self._call.details(), None,
        )

    async def _speak(self) -> None:
        """Heartbeats at a spread pace; whatever else there is to say at once, and instead of one."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._pause_s()
        while True:
            is_due, said = loop.time() >= due_s, False
            for message in self._due(heartbeat_due=is_due):
                await self._call.write(message)
                said = True
            if is_due and not said:
                await self._call.write(FromAgent(heartbeat=Heartbeat()))
            if is_due or (said and not self._reporter.waits_for_heartbeat):
                due_s = loop.time() + self._pause_s()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due_s):
                    await self._wake.wait()
            self._wake.clear()

    def _pause_s(self) -> float:
        return self._period_s * self._rng.uniform(EARLIEST, 1.0)

    def _due(self, *, heartbeat_due: bool) -> Iterator[FromAgent]:
        """What there is to say, each made when it is taken."""
        report = self._reporter.take(heartbeat_due=heartbeat_due)
        if report is not None:
            yield FromAgent(report=report)
        if self._mesh_applied != self._mesh_said:
            self._mesh_said = self._mesh_applied
            yield FromAgent(mesh_applied=MeshApplied(version=self._mesh_said))
        if self._description is not None:
            description, self._description = self._description, None
            yield FromAgent(description=description)
        if self._leaving:
            yield FromAgent(leaving=Leaving())
            self._said_leaving = True
