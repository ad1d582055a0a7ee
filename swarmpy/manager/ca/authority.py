"""Issuing: what a joiner or a node is given, decided by the store alone.

In      `CA.Issue`, from a peer that TLS and the guard have authenticated.
Out     one certificate, and in the store before it: the node, the role its certificate says, and when it ends.
Laws    a joiner becomes a new node with its token's role; a node keeps its id and gets the role the store grants it; a
        node that the store does not have gets nothing. Only the leader issues.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from swarmpy.errors import Conflict, Forbidden, InvalidArgument, SwarmpyError, Unavailable
from swarmpy.identity.certificates import PublicKey, expires_ns, pem, public_key_of_csr
from swarmpy.identity.joining import LEADER_METADATA
from swarmpy.identity.peer import Peer, peer_of
from swarmpy.manager.ca.root import issuer_of, node_lifetime_ns
from swarmpy.manager.replicated_log import Leadership, NotLeader
from swarmpy.manager.store import IdSource, Store, Transaction, trusted_roots
from swarmpy.rpc.ca_pb2 import IssueRequest, IssueResponse
from swarmpy.rpc.ca_pb2_grpc import CAServicer
from swarmpy.rpc.types_pb2 import Cluster, Node, NodeRole, NodeSpec, NodeStatus

__all__ = ["CertificateAuthority", "granted_role"]

log = logging.getLogger(__name__)

REFUSALS: tuple[tuple[type[SwarmpyError], grpc.StatusCode], ...] = (
    (NotLeader, grpc.StatusCode.FAILED_PRECONDITION),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT),
    (SwarmpyError, grpc.StatusCode.UNAVAILABLE),
)


def granted_role(node: Node) -> NodeRole:
    """The role a certificate for `node` may say: manager while it is wanted as one, or still votes."""
    if node.spec.role == NodeRole.MANAGER or node.HasField("manager"):
        return NodeRole.MANAGER
    return NodeRole.WORKER


class CertificateAuthority(CAServicer):
    """The CA service of gRPC, on every manager; see proto/ca.proto."""

    def __init__(
        self, store: Store, leadership: Callable[[], Leadership], clock: Callable[[], int], new_id: IdSource
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._clock = clock
        self._new_id = new_id

    async def Issue(  # noqa: N802
        self, request: IssueRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> IssueResponse:
        try:
            return await self.issue(peer_of(context), request)
        except SwarmpyError as refusal:
            await self._refuse(context, refusal)
            raise

    async def issue(self, peer: Peer, request: IssueRequest) -> IssueResponse:
        """See `CA.Issue`. Raises NotLeader, Forbidden for a removed node, InvalidArgument for a bad request."""
        leadership = self._leadership()
        if not leadership.is_leader:
            raise NotLeader(leadership.leader_addr)
        if request.availability not in NodeSpec.Availability.values():
            raise InvalidArgument(f"availability: {request.availability} is none that a node can have")
        public_key = public_key_of_csr(request.csr)
        while True:
            cluster = self._store.cluster
            if cluster is None:
                raise Unavailable("the swarm is still being set up")
            node = self._known(peer) if peer.node_id else self._newcomer(peer, request.availability)
            response = self._sign(cluster, node, public_key)
            transaction = Transaction()
            transaction.put(node)
            try:
                await self._store.commit(transaction)
            except Conflict:
                continue                        # its status or spec was written meanwhile: decide again
            role = NodeRole.Name(response.role).lower()
            log.info("issued a certificate", extra={"node": node.id, "role": role, "new": not peer.node_id})
            return response

    def _newcomer(self, peer: Peer, availability: NodeSpec.Availability) -> Node:
        if peer.join_role is None:
            raise Forbidden("the caller is neither a node nor holds a join token")
        spec = NodeSpec(role=peer.join_role, availability=availability)
        return Node(id=self._new_id(), spec=spec, status=NodeStatus(state=NodeStatus.UNKNOWN, message="joining"))

    def _known(self, peer: Peer) -> Node:
        node = self._store.nodes.get(peer.node_id)
        if node is None:
            raise Forbidden(f"node {peer.node_id} was removed from the swarm; join again with a token")
        copy = Node()
        copy.CopyFrom(node)
        return copy

    def _sign(self, cluster: Cluster, node: Node, public_key: PublicKey) -> IssueResponse:
        """The certificate, and on `node` what the store is to know of it."""
        node.role = granted_role(node)
        leaf = issuer_of(cluster.root_ca).issue(
            public_key,
            node_id=node.id,
            role=node.role,
            swarm_id=cluster.id,
            now_ns=self._clock(),
            lifetime_ns=node_lifetime_ns(cluster.spec.ca),
        )
        node.certificate_expires_ns = expires_ns(leaf)
        return IssueResponse(
            node_id=node.id,
            role=node.role,
            certificate=pem(leaf),
            root_ca=trusted_roots(cluster.root_ca).encode(),
            unlock_key=cluster.unlock_key if node.role == NodeRole.MANAGER else "",
            as_of=cluster.meta.version,
        )

    @staticmethod
    async def _refuse(context: grpc.aio.ServicerContext[Any, Any], refusal: SwarmpyError) -> None:
        code = next(code for kind, code in REFUSALS if isinstance(refusal, kind))
        leader = refusal.leader_addr if isinstance(refusal, NotLeader) else None
        await context.abort(code, str(refusal), ((LEADER_METADATA, leader),) if leader else ())
