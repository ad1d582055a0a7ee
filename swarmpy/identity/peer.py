"""Who is at the other end of a call: the one place where a peer's certificate is believed.

TLS lets in whoever holds a certificate of the swarm's root or of a join root. The two are worlds apart, and their
*contents* prove nothing: whoever holds a worker's token can sign itself a certificate that says "manager". So the
guard looks at which key signed the leaf. Signed by the swarm's root, its node id and role hold. Signed by a join root,
it is a joiner with that token's role, and everything in it is ignored. Signed by anything else, it is refused.

The guard stands before every handler of a server, so a servicer that asks nothing still has only authenticated callers.
It judges each call anew: a rotated token or an expired certificate ends at the next call, not at the next connection.
It judges before it reads: of a caller that is refused, no message takes memory beyond the stream's window.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from google.protobuf.message import DecodeError

from swarmpy.errors import Forbidden, InvalidArgument
from swarmpy.identity.certificates import (
    expires_ns,
    is_signed_by,
    load_certificate,
    node_id_of,
    role_of,
    starts_ns,
)
from swarmpy.identity.join_credential import JoinRoots
from swarmpy.identity.node_identity import NodeIdentity
from swarmpy.rpc.types_pb2 import NodeRole

__all__ = ["Admission", "Peer", "PeerGuard", "authenticate", "peer_of"]

REMEMBERED = 16_384              # above the nodes of a large swarm: a new look at a certificate costs a signature

if TYPE_CHECKING:                               # generic in the stubs alone
    _Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    _Interceptor = grpc.aio.ServerInterceptor


@dataclass(frozen=True, slots=True)
class Peer:
    """An authenticated caller: a node (`node_id`, `role`), or a joiner (`join_role`, and no id)."""

    node_id: str
    role: NodeRole | None
    join_role: NodeRole | None = None

    @property
    def is_manager(self) -> bool:
        return self.role == NodeRole.MANAGER

    def require_node(self) -> Peer:
        """Itself when it is a node. Raises Forbidden for a joiner."""
        if not self.node_id:
            raise Forbidden("a host that has only a join token may ask for a certificate and nothing else")
        return self

    def require_manager(self) -> Peer:
        """Itself when it is a manager. Raises Forbidden."""
        if not self.require_node().is_manager:
            raise Forbidden(f"node {self.node_id} is a worker; only managers may do this")
        return self


# A later judgement on an authenticated peer, by method ("/package.Service/Method"): returns it, perhaps with less
# power, or raises Forbidden. The manager uses it to refuse nodes that were removed.
Admission = Callable[[Peer, str], Peer]

_Presented = tuple[bytes, tuple[x509.Certificate, ...], JoinRoots | None]   # to whom it was: the roots of that moment

_calls: ContextVar[tuple[object, Peer]] = ContextVar("peer")


def peer_of(context: grpc.aio.ServicerContext[Any, Any]) -> Peer:
    """The caller of the running handler. Raises Forbidden on a server that has no `PeerGuard`."""
    judged, peer = _calls.get((None, None))
    if peer is None or judged is not context:
        raise Forbidden("this call was not authenticated")
    return peer


def authenticate(
    leaf: x509.Certificate, roots: Sequence[x509.Certificate], joins: JoinRoots | None, now_ns: int
) -> Peer:
    """What `leaf` proves at `now_ns`. Raises Forbidden, saying why it proves nothing."""
    if any(is_signed_by(leaf, root) for root in roots):
        if not starts_ns(leaf) <= now_ns < expires_ns(leaf):
            raise Forbidden("the certificate has expired or is not valid yet: check both clocks, or join again")
        try:
            return Peer(node_id_of(leaf), role_of(leaf))
        except InvalidArgument as failure:
            raise Forbidden(f"the certificate names no node: {failure}") from failure
    for role, join in joins.items() if joins else ():
        if is_signed_by(leaf, join):
            return Peer("", None, role)
    raise Forbidden("the certificate was issued neither by this swarm nor with one of its present join tokens")


class PeerGuard(_Interceptor):
    """Authenticates every call of a server.

    `join_roots` answers which join tokens hold now (None: this manager knows none yet).
    """

    def __init__(
        self,
        identity: NodeIdentity,
        join_roots: Callable[[], JoinRoots | None],
        clock: Callable[[], int],
        admit: Admission = lambda peer, method: peer,
    ) -> None:
        self._identity = identity
        self._join_roots = join_roots
        self._clock = clock
        self._admit = admit
        self._known: OrderedDict[_Presented, tuple[Peer, int, int]] = OrderedDict()   # a node, from when until when

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler: Any = await continuation(handler_call_details)
        if handler is None:                     # no such method: grpc answers UNIMPLEMENTED
            return cast("grpc.RpcMethodHandler[Any, Any]", None)
        method: str = handler_call_details.method
        # On the wire a single request is a stream of one; taken as a stream it is read when we ask for it.
        make: Any = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        inner = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        guarded: grpc.RpcMethodHandler[Any, Any] = make(
            self._guarded(inner, method, single=not handler.request_streaming),
            handler.request_deserializer,
            handler.response_serializer,
        )
        return guarded

    def _guarded(self, inner: Callable[[Any, Any], Any], method: str, *, single: bool) -> Callable[[Any, Any], Any]:
        async def answer(requests: Any, context: Any) -> Any:
            await self._enter(context, method)
            try:
                return await inner(await _only(context) if single else requests, context)
            except DecodeError:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{method}: a message is malformed")

        async def stream(requests: Any, context: Any) -> AsyncIterator[Any]:
            await self._enter(context, method)
            try:
                async for message in inner(await _only(context) if single else requests, context):
                    yield message
            except DecodeError:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{method}: a message is malformed")

        return stream if inspect.isasyncgenfunction(inner) else answer

    async def _enter(self, context: Any, method: str) -> None:
        """Make `peer_of(context)` answer for the rest of this call, or end the call."""
        try:
            peer = self._judge(context.auth_context().get("x509_pem_cert", ()))
        except Forbidden as refusal:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(refusal))
            raise
        try:
            _calls.set((context, self._admit(peer, method)))
        except Forbidden as refusal:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(refusal))

    def _judge(self, presented: tuple[bytes, ...] | list[bytes]) -> Peer:
        if len(presented) != 1:
            raise Forbidden("the call carries no client certificate")
        text, roots, joins = bytes(presented[0]), self._identity.roots, self._join_roots()
        key, now = (text, roots, joins), self._clock()
        known = self._known.get(key)
        if known is not None and known[1] <= now < known[2]:
            return known[0]
        try:
            leaf = load_certificate(text)
            peer = authenticate(leaf, roots, joins, now)
        except (InvalidArgument, ValueError, UnsupportedAlgorithm) as failure:
            raise Forbidden(f"the client certificate cannot be read: {failure}") from failure
        if peer.node_id:                        # a joiner calls once, with a certificate of its own making
            self._known[key] = peer, starts_ns(leaf), expires_ns(leaf)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return peer


async def _only(context: Any) -> Any:
    """The one request of a call."""
    request = await context.read()
    if request is grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs lack it
        try:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call ended before its request")
        except grpc.aio.InternalError:          # gRPC has ended the call: the request was longer than any may be
            raise asyncio.CancelledError from None
    return request
