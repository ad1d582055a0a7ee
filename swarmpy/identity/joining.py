"""Getting a certificate: the first one with a join token, later ones with the one before.

The joiner knows nothing of the swarm but the digest in its token. It opens a TLS connection that trusts nobody, finds
in the presented chain the root with that digest, and from then on trusts only that root. The same connection presents
the token's credential, so that "wrong token" and "wrong swarm" are told apart from "not reachable" before gRPC, which
reports all three alike, is asked.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from OpenSSL import SSL

from swarmpy.errors import Forbidden, InvalidArgument, SwarmpyError, Unavailable
from swarmpy.identity.certificates import (
    KeyPair,
    PrivateKey,
    digest,
    is_signed_by,
    key_pem,
    load_certificate,
    load_key,
    new_key,
    pem,
    public_key_der,
    signing_request,
)
from swarmpy.identity.data_keys import Lock
from swarmpy.identity.join_credential import joiner_credential
from swarmpy.identity.node_identity import Issued, NodeIdentity, open_channel
from swarmpy.identity.token import JoinToken
from swarmpy.identity.unlock_key import UnlockKey
from swarmpy.rpc.ca_pb2 import IssueRequest, IssueResponse
from swarmpy.rpc.ca_pb2_grpc import CAStub
from swarmpy.rpc.types_pb2 import NodeSpec

__all__ = ["LEADER_METADATA", "join_swarm", "leader_of", "renew", "renew_by"]

LEADER_METADATA = "leader-addr"
CALL_TIMEOUT_S = 10.0
PROBE_TIMEOUT_S = 5.0
REDIRECTS = 3


async def join_swarm(token: JoinToken, addrs: Sequence[str], availability: NodeSpec.Availability) -> Issued:
    """Become a node: the first manager of `addrs` (host:port) that answers, or the leader it names, issues.

    Raises Forbidden when a manager refuses the token or belongs to another swarm, Unavailable when none answers.
    """
    credential = joiner_credential(token)
    unreachable: list[str] = []
    for addr in addrs:
        try:
            roots = await asyncio.to_thread(pinned_roots, addr, token, credential)
            return await _issue([addr], credential, b"".join(map(pem, roots)), availability)
        except Unavailable as failure:
            unreachable.append(str(failure))
    raise Unavailable("; ".join(unreachable) or "join needs the address of a manager")


async def renew(identity: NodeIdentity, addrs: Iterable[str]) -> Issued:
    """A new certificate for a new key, with the role the swarm grants this node now. Nothing is installed yet.

    Raises Forbidden when the node was removed, Unavailable when no manager answers.
    """
    credential, root = identity.credential(), identity.root_ca_pem
    return await _issue(list(addrs), credential, root, NodeSpec.ACTIVE)


async def renew_by(issue: Callable[[IssueRequest], Awaitable[IssueResponse]]) -> Issued:
    """The same, from an authority that is in this process. Raises what `issue` raises."""
    key = new_key()
    return _issued(key, await issue(IssueRequest(csr=signing_request(key))))


def leader_of(failure: grpc.aio.AioRpcError) -> str | None:
    """The leader that a manager which does not lead points to, if it knows one."""
    trailing: Any = failure.trailing_metadata()  # grpc.aio gives pairs where the stubs say otherwise
    for key, value in trailing or ():
        if key == LEADER_METADATA and value:
            return value if isinstance(value, str) else value.decode()
    return None


def pinned_roots(addr: str, token: JoinToken, credential: KeyPair) -> list[x509.Certificate]:
    """The root certificate that the manager at `addr` presents and `token` pins, and those it vouches for, which are to
    take its place. Blocks up to 10 s.

    Raises Unavailable when nobody answers, Forbidden when it is another swarm or the token does not hold there.
    """
    host, port = _split(addr)
    try:
        plain = socket.create_connection((host, port), timeout=PROBE_TIMEOUT_S)
    except OSError as failure:
        raise Unavailable(f"no manager answers at {addr}: {failure.strerror or failure}") from failure
    with plain:
        # A timeout in Python makes the descriptor non-blocking, which OpenSSL cannot use; the kernel's own does not.
        plain.settimeout(None)
        limit = struct.pack("ll", int(PROBE_TIMEOUT_S), 0)      # struct timeval, <sys/time.h>
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        return _probe(addr, SSL.Connection(_probe_context(credential), plain), token)


def _probe(addr: str, connection: SSL.Connection, token: JoinToken) -> list[x509.Certificate]:
    connection.set_connect_state()
    try:
        connection.do_handshake()
    except (SSL.Error, OSError) as failure:
        raise Unavailable(f"{addr} does not speak TLS as a manager does: {_reason(failure)}") from failure
    chain = connection.get_peer_cert_chain(as_cryptography=True) or []
    root = next((certificate for certificate in chain if digest(certificate) == token.root_digest), None)
    if root is None:
        raise Forbidden(
            f"the manager at {addr} belongs to another swarm: the join token pins a root certificate it does not have;"
            " check the address, or print the token again on that manager"
        )
    # TLS 1.3 ends the client's handshake before the server has judged its certificate: the verdict is whether an HTTP/2
    # server preface follows (RFC 9113, 3.4) or an alert does (RFC 8446, 4.4.2.4).
    try:
        connection.recv(1)
    except SSL.WantReadError as failure:
        raise Unavailable(f"the manager at {addr} did not answer within {PROBE_TIMEOUT_S:.0f} s") from failure
    except (SSL.Error, OSError) as failure:
        raise Forbidden(
            f"the manager at {addr} refused this join token: it was rotated or mistyped;"
            f" print the present one with `swarmpy swarm join-token` on a manager ({_reason(failure)})"
        ) from failure
    return [root, *vouched_for(root, chain)]


def vouched_for(root: x509.Certificate, chain: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """The other roots in `chain` whose name and key a certificate there has that `root` signed as a CA's."""
    vouchers = [one for one in chain if one != root and is_signed_by(one, root) and _is_ca(one)]
    named = {(voucher.subject, public_key_der(voucher)) for voucher in vouchers}
    return [one for one in chain if is_signed_by(one, one) and (one.subject, public_key_der(one)) in named]


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _probe_context(credential: KeyPair) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_verify(SSL.VERIFY_NONE)         # the token's digest is what verifies; see _probe
    context.set_alpn_protos([b"h2"])
    context.use_certificate(load_certificate(credential.certificate))
    context.use_privatekey(load_key(credential.key))
    return context


async def _issue(addrs: list[str], credential: KeyPair, root: bytes, availability: NodeSpec.Availability) -> Issued:
    """Ask each address in turn, following managers to the leader they name."""
    key = new_key()
    request = IssueRequest(csr=signing_request(key), availability=availability)
    refusals: list[str] = []
    asked: set[str] = set()
    queue = list(dict.fromkeys(addrs))
    budget = len(queue) + REDIRECTS
    while queue and budget:
        budget -= 1
        addr = queue.pop(0)
        try:
            answer = await _ask(addr, credential, root, request)
        except grpc.aio.AioRpcError as failure:
            leader = leader_of(failure)
            if failure.code() == grpc.StatusCode.FAILED_PRECONDITION and leader and leader not in asked:
                queue.insert(0, leader)
            refusals.append(_explain(addr, failure))
        else:
            return _issued(key, answer)
        asked.add(addr)
    raise Unavailable("; ".join(refusals) or "no manager's address is known")


def _issued(key: PrivateKey, answer: IssueResponse) -> Issued:
    unlock_key = UnlockKey.parse(answer.unlock_key) if answer.unlock_key else None
    return Issued(key_pem(key), answer.certificate, answer.root_ca, Lock(unlock_key, answer.as_of))


async def _ask(addr: str, credential: KeyPair, root: bytes, request: IssueRequest) -> IssueResponse:
    # The machine may be slow: one attempt to connect may take all of the time.
    async with open_channel(addr, credential, root, handshake_s=CALL_TIMEOUT_S) as channel:
        answer: IssueResponse = await CAStub(channel).Issue(request, timeout=CALL_TIMEOUT_S)
        return answer


def _explain(addr: str, failure: grpc.aio.AioRpcError) -> str:
    """One sentence for a failure that another manager may do better at. Raises what no other manager would change."""
    told = failure.details() or failure.code().name
    final: dict[grpc.StatusCode, type[SwarmpyError]] = {
        grpc.StatusCode.PERMISSION_DENIED: Forbidden,
        grpc.StatusCode.UNAUTHENTICATED: Forbidden,
        grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    }
    if failure.code() in final:
        raise final[failure.code()](f"the manager at {addr} refused: {told}") from failure
    return f"the manager at {addr} could not issue a certificate: {told}"


def _reason(failure: Exception) -> str:
    if isinstance(failure, SSL.Error) and failure.args and isinstance(failure.args[0], list) and failure.args[0]:
        return str(failure.args[0][0][-1])
    return str(failure) or "connection closed"


def _split(addr: str) -> tuple[str, int]:
    host, _, port = addr.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidArgument(f"remote address {addr!r} must be host:port")
    return host.strip("[]"), int(port)
