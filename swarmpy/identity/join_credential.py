"""How a host without a certificate proves, inside TLS, that it holds a join token.

The token's secret derives an ECDSA key (HKDF-SHA256, RFC 5869). Whoever knows the secret knows the key: managers trust
a *join root*, a self-signed certificate of that key, as a further client root; the joiner presents a leaf it signed.
The secret never travels, and a manager in the middle learns nothing it could use again.

Nothing such a leaf says is believed, only which key signed it: it is a joiner, of the role whose token has that key.
Both certificates span all of time, so that a joiner with a wrong clock still gets in and can be told.
"""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from swarmpy.identity.certificates import Issuer, KeyPair, key_pem, new_key, pem, self_signed, subject_name
from swarmpy.identity.token import JoinToken
from swarmpy.rpc.types_pb2 import NodeRole

__all__ = ["JoinRoots", "join_root", "joiner_credential"]

# The order of P-256's group (FIPS 186-5; SP 800-186, 3.2.1.3): private keys lie in [1, order).
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
PURPOSE = b"swarmpy join root 1"
ALWAYS = (
    datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC),
    datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC),  # RFC 5280, 4.1.2.5: no expiry
)


@dataclass(frozen=True, slots=True)
class JoinRoots:
    """The join roots of one moment: what a manager's TLS trusts besides the swarm's root."""

    worker: x509.Certificate
    manager: x509.Certificate

    @classmethod
    def of(cls, worker_token: str, manager_token: str) -> JoinRoots:
        """The roots of two tokens. Cheap when asked again for the same two. Raises InvalidArgument."""
        return _join_roots(worker_token, manager_token)

    @property
    def pem(self) -> bytes:
        return pem(self.worker) + pem(self.manager)

    def items(self) -> tuple[tuple[NodeRole, x509.Certificate], ...]:
        return ((NodeRole.WORKER, self.worker), (NodeRole.MANAGER, self.manager))


def join_root(token: JoinToken) -> Issuer:
    """The root that `token`'s secret derives: the same key and name on every host."""
    wide = HKDF(hashes.SHA256(), 48, salt=token.root_digest, info=PURPOSE).derive(token.secret)
    key = ec.derive_private_key(int.from_bytes(wide, "big") % (P256_ORDER - 1) + 1, ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    # The name tells roots apart while TLS looks for an issuer by name; it carries no meaning beyond that.
    return self_signed(subject_name("swarmpy-join-" + hashlib.sha256(public).hexdigest()[:32]), key, *ALWAYS)


def joiner_credential(token: JoinToken) -> KeyPair:
    """A TLS client credential for one attempt to join: a fresh key and a leaf the token's key signed."""
    root, key = join_root(token), new_key()
    leaf = (
        x509.CertificateBuilder()
        .subject_name(subject_name("joiner"))
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ALWAYS[0])
        .not_valid_after(ALWAYS[1])
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(root.key, hashes.SHA256())
    )
    return KeyPair(pem(leaf), key_pem(key))


@lru_cache(maxsize=8)
def _join_roots(worker_token: str, manager_token: str) -> JoinRoots:
    worker, manager = (join_root(JoinToken.parse(text)).certificate for text in (worker_token, manager_token))
    return JoinRoots(worker, manager)
