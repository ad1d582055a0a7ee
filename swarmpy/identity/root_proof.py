"""Whether nodes will believe the certificates of a root: tried before any of them depends on it.

A certificate may say in many ways what its key is not for: usages, names, extensions that nobody knows. Instead of
knowing them all, the root signs a manager and a worker here, and these meet as nodes do, over TLS in memory.
"""

from __future__ import annotations

import ssl

from swarmpy.errors import InvalidArgument
from swarmpy.identity.certificates import MANAGER_NAME, Issuer, key_pem, new_key, pem
from swarmpy.identity.node_identity import Issued, client_tls, server_tls
from swarmpy.rpc.types_pb2 import NodeRole

__all__ = ["prove_root"]

CURVES = ("secp256r1", "secp384r1", "secp521r1")    # those that gRPC's TLS knows, too
HOUR_NS = 3600 * 10**9
ROUNDS = 3                                          # of turns; TLS 1.3 takes both ends two (RFC 8446, 2)
NO_CHECK_TIME = 0x200000                            # X509_V_FLAG_NO_CHECK_TIME, <openssl/x509_vfy.h>


def prove_root(root: Issuer, now_ns: int) -> None:
    """Raises InvalidArgument, which says why, when peers would not accept what `root` signs. Of its time the caller has
    to judge: what is tried here holds at no other moment than `now_ns`, whatever the machine's clock says."""
    if root.key.curve.name not in CURVES:
        raise InvalidArgument(f"its key is on the curve {root.key.curve.name}; it must be on P-256, P-384 or P-521")
    manager, worker = (_issued(root, role, now_ns) for role in (NodeRole.MANAGER, NodeRole.WORKER))
    for client in (worker, manager):
        try:
            _meet(server_tls(manager), client_tls(client))
        except ssl.SSLError as failure:
            why = getattr(failure, "verify_message", None) or failure.reason or str(failure)
            raise InvalidArgument(f"nodes would not accept certificates that it signs: {why}") from failure


def _issued(root: Issuer, role: NodeRole, now_ns: int) -> Issued:
    key = new_key()
    leaf = root.issue(
        key.public_key(), node_id="proof", role=role, swarm_id="proof", now_ns=now_ns, lifetime_ns=HOUR_NS
    )
    return Issued(key_pem(key), pem(leaf), pem(root.certificate))


def _meet(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Both ends judge each other. Raises ssl.SSLError of the one that refuses."""
    for context in (server, client):
        context.verify_flags |= NO_CHECK_TIME
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=MANAGER_NAME),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(ROUNDS):
        waiting = 0
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                waiting += 1
        if not waiting:
            return
    raise AssertionError("a TLS handshake in memory did not come to its end")
