"""Replacing the swarm's root, while all goes on: what comes next, decided by the store alone; and the leader's stage.

```
   present root          both trusted,            both trusted,              new root
   alone         begin   the present one issues   the new one issues  all    alone,
                ------->                   ------>                   ----->  new tokens
                          all nodes trust both      have its certificates
```

Laws    No node ever meets a certificate that it cannot judge: the new root issues nothing before every node trusts it,
        and the old one is trusted until nobody needs it. Every node counts, also one that is away: a rotation waits
        for it to come back or to be removed. Nodes say in their description what they trust and who issued their
        certificate.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from swarmpy.errors import Conflict, InvalidArgument, NotSupported
from swarmpy.identity.certificates import (
    Issuer,
    create_root,
    cross_sign,
    digest,
    expires_ns,
    is_signed_by,
    key_pem,
    load_certificate,
    new_key,
    pem,
    public_key_der,
    root_name,
    starts_ns,
)
from swarmpy.identity.root_proof import prove_root
from swarmpy.manager.ca.root import SHORTEST_LIFETIME_NS, new_join_token
from swarmpy.manager.store import Store, Transaction
from swarmpy.rpc.types_pb2 import CAConfig, Cluster, Node, RootCA, RootRotation

__all__ = ["RootRotator", "begin_rotation", "next_step"]

log = logging.getLogger(__name__)


def begin_rotation(root_ca: RootCA, config: CAConfig, now_ns: int) -> RootRotation:
    """To the root that `config` gives, or to a new one. Raises InvalidArgument or NotSupported, naming the field."""
    present = Issuer.load(root_ca.cert_pem.encode(), root_ca.key_pem.encode())
    if config.signing_cert_pem or config.signing_key_pem:
        coming = given_root(config, present.certificate, now_ns)
    else:
        key = new_key()
        coming = create_root(root_name(key), now_ns, key)
    return RootRotation(
        cert_pem=pem(coming.certificate).decode(),
        key_pem=key_pem(coming.key).decode(),
        cross_pem=pem(cross_sign(coming.certificate, present)).decode(),
    )


def given_root(config: CAConfig, present: x509.Certificate, now_ns: int) -> Issuer:
    """The root in `config`, if it can take the place of `present`."""
    if not config.signing_cert_pem:
        raise InvalidArgument("CAConfig.SigningCACert: must be given with SigningCAKey")
    if not config.signing_key_pem:
        raise NotSupported("CAConfig.SigningCACert without SigningCAKey: external CAs are not supported yet")
    try:
        root = Issuer.load(config.signing_cert_pem.encode(), config.signing_key_pem.encode())
    except (InvalidArgument, UnsupportedAlgorithm, ValueError) as failure:
        raise InvalidArgument(f"CAConfig.SigningCACert, SigningCAKey: {failure}") from failure
    if not is_signed_by(root.certificate, root.certificate):
        raise InvalidArgument("CAConfig.SigningCACert: must be signed by its own key, ECDSA with SHA-256")
    if not _may_sign(root.certificate):
        raise InvalidArgument("CAConfig.SigningCACert: must be of a CA, by its basic constraints and key usage")
    if not starts_ns(root.certificate) <= now_ns < expires_ns(root.certificate) - SHORTEST_LIFETIME_NS:
        raise InvalidArgument(
            "CAConfig.SigningCACert: has expired, does so within the hour, or is not valid yet: check this host's clock"
        )
    if root.certificate.subject == present.subject:
        raise InvalidArgument("CAConfig.SigningCACert: must have another subject than the present root")
    if public_key_der(root.certificate) == public_key_der(present):
        # Nodes tell by its key which root signed their certificates, and TLS by its subject.
        raise InvalidArgument("CAConfig.SigningCAKey: must be another key than that of the present root")
    try:
        prove_root(root, now_ns)
    except InvalidArgument as failure:
        raise InvalidArgument(f"CAConfig.SigningCACert: {failure}") from failure
    return root


def next_step(root_ca: RootCA, nodes: Collection[Node]) -> RootCA | None:
    """What the root is to be next; None while there is nothing to do but wait. Draws tokens at the end."""
    if not root_ca.HasField("rotation"):
        return None
    rotation, following = root_ca.rotation, RootCA()
    if not rotation.issues:
        if not all(rotation.cert_pem in node.description.root_ca_pem for node in nodes):
            return None
        following.CopyFrom(root_ca)
        following.rotation.issues = True
        return following
    coming = load_certificate(rotation.cert_pem.encode())
    coming_key = public_key_der(coming)
    if not all(node.description.cert_issuer_public_key == coming_key for node in nodes):
        return None
    following.CopyFrom(root_ca)
    following.ClearField("rotation")
    following.cert_pem, following.key_pem = rotation.cert_pem, rotation.key_pem
    following.digest = "sha256:" + digest(coming).hex()
    following.join_token_worker, following.join_token_manager = (new_join_token(rotation.cert_pem) for _ in range(2))
    return following


class RootRotator:
    """The leader's stage that takes a rotation from step to step."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self) -> None:
        """While this manager leads, until cancelled."""
        with self._store.watch("cluster", "nodes") as watch:
            while True:
                if not await self._step():
                    await anext(watch)

    async def _step(self) -> bool:
        """Whether there may be another at once."""
        cluster = self._store.cluster
        following = next_step(cluster.root_ca, self._store.nodes.values()) if cluster is not None else None
        if cluster is None or following is None:
            return False
        changed = Cluster()
        changed.CopyFrom(cluster)
        changed.root_ca.CopyFrom(following)
        transaction = Transaction()
        transaction.put(changed)
        try:
            await self._store.commit(transaction)
        except Conflict:
            return True                         # somebody updated the swarm meanwhile: decide again
        done = not following.HasField("rotation")
        log.info("rotated the root of the swarm" if done else "all nodes trust the new root: it issues from now on")
        return True


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        extensions = certificate.extensions
        if not extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        return extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound as missing:
        return missing.oid == x509.KeyUsage.oid
    except (ValueError, x509.DuplicateExtension) as failure:
        raise InvalidArgument(f"CAConfig.SigningCACert: its extensions cannot be read: {failure}") from failure
