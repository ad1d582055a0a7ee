"""The receiving side of Raft's gRPC streams, on the server of the swarm's port.

A stream of Messages is what tells that a member is there: it is admitted by its certificate and for this very member,
and when it breaks, the member is gone. An empty batch is its last word: the member opens another one. It carries the
messages itself only as long as there is no wire: its initial metadata brings a ticket for one, and the port to take it
to. A stream ends when the root that signed its certificate is no longer trusted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio

from swarmpy.errors import Forbidden
from swarmpy.identity import NodeIdentity
from swarmpy.identity.certificates import is_signed_by, load_certificate
from swarmpy.manager.raft.listener import WireListener
from swarmpy.manager.raft.wire import Incoming
from swarmpy.rpc.raft_pb2 import RaftBatch, RaftDone
from swarmpy.rpc.raft_pb2_grpc import RaftServicer, add_RaftServicer_to_server

__all__ = ["Hello", "RaftService", "Receiver", "Ticket"]

_log = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[RaftBatch, RaftDone]


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
    def of(cls, context: _Context) -> Hello | None:
        """What the peer's metadata says; None when it is not that of a Raft stream."""
        fields = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        try:
            return cls(
                fields["raft-cluster"], int(fields["raft-from"]), int(fields["raft-to"]), fields["raft-addr"]
            )
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Ticket:
    """What lets the peer of a stream open a wire, and where."""

    port: int
    secret: bytes

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("raft-wire-port", str(self.port)), ("raft-wire-ticket", self.secret.hex()))

    @classmethod
    def of(cls, metadata: Any) -> Ticket | None:
        """From a stream's initial metadata; None when it brings none."""
        fields = {str(key): str(value) for key, value in metadata or ()}
        try:
            port, secret = int(fields["raft-wire-port"]), bytes.fromhex(fields["raft-wire-ticket"])
        except (KeyError, ValueError):
            return None
        return cls(port, secret) if 0 <= port < 1 << 16 else None


class Receiver(Protocol):
    """The member behind a RaftService. All is called on the loop's thread."""

    def objection(self, hello: Hello) -> str | None:
        """Why the stream is not for this member, or None when it is taken."""

    def connected(self, hello: Hello) -> None: ...

    def objection_to_wire(self, member: int) -> str | None:
        """Why no wire of this member is wanted although it has a stream, or None."""

    def wired(self, wire: Incoming) -> None: ...

    def received(self, sender: int, messages: Sequence[bytes]) -> None: ...

    def parted(self, sender: int) -> None:
        """Its stream ended, and another one is to be expected."""

    def disconnected(self, sender: int) -> None:
        """Its stream broke."""


class RaftService(RaftServicer):
    """Receives for the member that is attached, if any: a node keeps its server while it is promoted or demoted."""

    def __init__(self, identity: NodeIdentity, authorize: Callable[[_Context], str]) -> None:
        """`authorize` returns the id of the manager that calls, and raises Forbidden for anybody else."""
        self._identity = identity
        self._authorize = authorize
        self._receiver: Receiver | None = None
        self._streams: dict[int, int] = {}    # sender -> number of its latest stream
        self._count = 0
        self._listener = WireListener(identity, self._objection_to_wire, self._wired)

    def register(self, server: grpc.aio.Server) -> None:
        add_RaftServicer_to_server(self, server)

    def attach(self, receiver: Receiver, host: str, port: int) -> None:
        """Receive for this member, its wires on `host`, and `port` if that is free."""
        self._listener.open(host, port)
        self._receiver = receiver

    async def detach(self, receiver: Receiver) -> None:
        if self._receiver is receiver:
            self._receiver = None
            await self._listener.close()

    def _objection_to_wire(self, member: int) -> str | None:
        if self._receiver is None or member not in self._streams:
            return f"raft member {member} has no stream here"
        return self._receiver.objection_to_wire(member)

    def _wired(self, wire: Incoming) -> None:
        receiver = self._receiver
        if receiver is None or self._objection_to_wire(wire.member) is not None:    # since it was made welcome
            wire.close()
        else:
            receiver.wired(wire)

    async def Messages(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[RaftBatch], context: _Context
    ) -> RaftDone:
        receiver, hello, node_id = await self._admit(context)
        self._count += 1
        number = self._streams[hello.sender] = self._count
        receiver.connected(hello)
        secret = self._listener.issue(hello.sender, node_id)
        parted = False
        try:
            await context.send_initial_metadata(Ticket(self._listener.port, secret).metadata())
            parted = await self._receive(receiver, hello, request_iterator, context)
        finally:
            self._listener.revoke(secret)
            if self._streams.get(hello.sender) == number:
                del self._streams[hello.sender]
                if self._receiver is receiver:
                    (receiver.parted if parted else receiver.disconnected)(hello.sender)
        return RaftDone()

    async def Snapshots(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[RaftBatch], context: _Context
    ) -> RaftDone:
        receiver, hello, _ = await self._admit(context)
        await self._receive(receiver, hello, request_iterator, context)
        return RaftDone()

    async def _receive(
        self, receiver: Receiver, hello: Hello, batches: AsyncIterator[RaftBatch], context: _Context
    ) -> bool:
        """Until the stream ends; whether it was with its last word, or by this end, because nobody vouches for it."""
        leaf = load_certificate(b"".join(context.auth_context()["x509_pem_cert"]))
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as trust:

                def judge() -> None:
                    if not trust.expired() and not any(is_signed_by(leaf, root) for root in self._identity.roots):
                        trust.reschedule(loop.time())

                with self._identity.calling(judge):
                    judge()
                    async for batch in batches:
                        if self._receiver is not receiver:
                            return False
                        if not batch.messages:
                            return True
                        receiver.received(hello.sender, batch.messages)
        except TimeoutError:
            _log.info("the stream of raft member %d ends: its certificate is of a root of before", hello.sender)
            return True
        return False

    async def _admit(self, context: _Context) -> tuple[Receiver, Hello, str]:
        try:
            node_id = self._authorize(context)
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
        return receiver, hello, node_id
