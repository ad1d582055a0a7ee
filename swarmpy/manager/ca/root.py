"""The root as the store keeps it, and the tokens that pin it. Pure but for the key and the secrets it draws."""

from __future__ import annotations

from functools import lru_cache

from swarmpy.errors import InvalidArgument
from swarmpy.identity.certificates import (
    Issuer,
    create_root,
    digest,
    key_pem,
    load_certificate,
    new_key,
    pem,
    root_name,
)
from swarmpy.identity.join_credential import JoinRoots
from swarmpy.identity.token import JoinToken
from swarmpy.rpc.types_pb2 import CAConfig, Cluster, RootCA

__all__ = ["create_root_ca", "issuer_of", "join_roots_of", "new_join_token", "node_lifetime_ns"]

HOUR_NS = 3600 * 10**9
DEFAULT_LIFETIME_NS = 90 * 24 * HOUR_NS
SHORTEST_LIFETIME_NS = HOUR_NS


def create_root_ca(now_ns: int) -> RootCA:
    """A new root with its key and both join tokens, for a new swarm."""
    key = new_key()
    issuer = create_root(root_name(key), now_ns, key)
    cert_pem = pem(issuer.certificate).decode()
    return RootCA(
        cert_pem=cert_pem,
        key_pem=key_pem(issuer.key).decode(),
        digest="sha256:" + digest(issuer.certificate).hex(),
        join_token_worker=new_join_token(cert_pem),
        join_token_manager=new_join_token(cert_pem),
    )


def new_join_token(cert_pem: str) -> str:
    """A fresh join token for the root with this certificate. The one it replaces is worth nothing once it is stored."""
    return str(JoinToken.generate(digest(load_certificate(cert_pem.encode()))))


def issuer_of(root_ca: RootCA) -> Issuer:
    """The root that issues now, ready to sign. Cheap when asked again for the same root."""
    if root_ca.rotation.issues:
        return _issuer(root_ca.rotation.cert_pem, root_ca.rotation.key_pem)
    return _issuer(root_ca.cert_pem, root_ca.key_pem)


def join_roots_of(cluster: Cluster | None) -> JoinRoots | None:
    """What TLS trusts besides the root, as the store says now; None while this manager knows no swarm yet."""
    if cluster is None:
        return None
    return JoinRoots.of(cluster.root_ca.join_token_worker, cluster.root_ca.join_token_manager)


def node_lifetime_ns(config: CAConfig) -> int:
    """How long a node's certificate holds. Raises InvalidArgument below one hour (CAConfig.NodeCertExpiry)."""
    lifetime_ns = config.node_cert_expiry_ns if config.HasField("node_cert_expiry_ns") else 0
    if lifetime_ns and lifetime_ns < SHORTEST_LIFETIME_NS:
        raise InvalidArgument("CAConfig.NodeCertExpiry must be at least one hour")
    return lifetime_ns or DEFAULT_LIFETIME_NS


@lru_cache(maxsize=2)
def _issuer(cert_pem: str, private_key_pem: str) -> Issuer:
    return Issuer.load(cert_pem.encode(), private_key_pem.encode())
