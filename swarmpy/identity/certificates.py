"""X.509 as swarmpy uses it: one root per swarm, and leaves that name a node and its role.

Owns    what is in a certificate and how it is read back. Nothing here touches a disk or a socket.
Rules   keys are ECDSA P-256, signatures ECDSA with SHA-256. Subject: CN = node id, OU = role, O = swarm.
        Only a manager's leaf carries the DNS name `swarmpy-manager` and may serve, so no worker can pose as a manager.
        Every certificate is backdated by an hour for clocks that disagree.
Source  RFC 5280; RFC 5480 for the keys.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from swarmpy.errors import InvalidArgument, Unavailable
from swarmpy.rpc.types_pb2 import NodeRole

__all__ = [
    "MANAGER_NAME",
    "Issuer",
    "KeyPair",
    "create_root",
    "cross_sign",
    "digest",
    "expires_ns",
    "is_signed_by",
    "key_pem",
    "load_certificate",
    "load_certificates",
    "load_key",
    "new_key",
    "node_id_of",
    "pem",
    "public_key_der",
    "public_key_of_csr",
    "role_of",
    "root_name",
    "self_signed",
    "signer",
    "signing_request",
    "starts_ns",
    "subject_name",
]

MANAGER_NAME = "swarmpy-manager"        # the DNS name that only managers' certificates carry
CSR_BYTES = 16 << 10
BACKDATED = datetime.timedelta(hours=1)
ROOT_LIFETIME = datetime.timedelta(days=20 * 365)
ROLE_UNITS = {NodeRole.WORKER: "swarm-worker", NodeRole.MANAGER: "swarm-manager"}
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

PublicKey = ec.EllipticCurvePublicKey
PrivateKey = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and the private key of its public key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Issuer:
    """A root with its key: makes certificates for nodes."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)

    @classmethod
    def load(cls, certificate_pem: bytes, private_key_pem: bytes) -> Issuer:
        """Raises InvalidArgument when the two do not belong together."""
        certificate, key = load_certificate(certificate_pem), load_key(private_key_pem)
        if certificate.public_key() != key.public_key():
            raise InvalidArgument("the root key does not belong to the root certificate")
        return cls(certificate, key)

    def issue(
        self, public_key: PublicKey, *, node_id: str, role: NodeRole, swarm_id: str, now_ns: int, lifetime_ns: int
    ) -> x509.Certificate:
        """A leaf for the node, valid from an hour ago until `lifetime_ns` from now, but never for longer than the root.

        Raises Unavailable when the root has expired.
        """
        end = min(_moment(now_ns + lifetime_ns), self.certificate.not_valid_after_utc)
        if self.certificate.not_valid_after_utc <= _moment(now_ns):
            raise Unavailable("the root certificate of the swarm has expired: nothing that it signs would be believed")
        serves = role == NodeRole.MANAGER
        names = [x509.DNSName(node_id)] + ([x509.DNSName(MANAGER_NAME)] if serves else [])
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH] + ([ExtendedKeyUsageOID.SERVER_AUTH] if serves else [])
        subject = subject_name(node_id, ROLE_UNITS[role], swarm_id)
        start = _moment(now_ns) - BACKDATED
        return (
            _builder(subject, self.certificate.subject, public_key, start, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def create_root(name: str, now_ns: int, key: PrivateKey | None = None) -> Issuer:
    """A new self-signed root, valid for twenty years."""
    now = _moment(now_ns)
    return self_signed(subject_name(name), key or new_key(), now - BACKDATED, now + ROOT_LIFETIME)


def cross_sign(coming: x509.Certificate, present: Issuer) -> x509.Certificate:
    """The word of `present` that the root `coming` is the swarm's too: its name and key under another signature.

    No TLS stack is to build a chain of it: a root here may sign leaves alone. Joiners compare it themselves.
    """
    start, end = coming.not_valid_before_utc, coming.not_valid_after_utc
    key = coming.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InvalidArgument("the key of a root must be ECDSA")
    return (
        _builder(coming.subject, present.certificate.subject, key, start, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_root_usage(), critical=True)
        .sign(present.key, hashes.SHA256())
    )


def root_name(key: PrivateKey) -> str:
    """A name that no other root has: TLS finds the issuer of a certificate by its name."""
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "swarm-ca-" + hashlib.sha256(public).hexdigest()[:16]


def self_signed(subject: x509.Name, key: PrivateKey, start: datetime.datetime, end: datetime.datetime) -> Issuer:
    """A root that may sign leaves and nothing else."""
    certificate = (
        _builder(subject, subject, key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_root_usage(), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Issuer(certificate, key)


def subject_name(common: str, unit: str = "", organization: str = "") -> x509.Name:
    """A distinguished name of the parts that are not empty."""
    parts = (
        (NameOID.ORGANIZATION_NAME, organization),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
        (NameOID.COMMON_NAME, common),
    )
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts if value])


def new_key() -> PrivateKey:
    """A fresh ECDSA P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def signing_request(key: PrivateKey) -> bytes:
    """A PKCS #10 request, PEM. It proves possession of the key; its subject says nothing, for the CA decides that."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM)


def public_key_of_csr(csr_pem: bytes) -> PublicKey:
    """The key a request asks a certificate for. Raises InvalidArgument unless it is P-256 and signed the request."""
    if len(csr_pem) > CSR_BYTES:
        raise InvalidArgument(f"csr: longer than the {CSR_BYTES} bytes that are enough for any")
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        signed = csr.is_signature_valid
    except ValueError as failure:
        raise InvalidArgument("csr: not a PEM certificate signing request") from failure
    key = csr.public_key()
    if not signed:
        raise InvalidArgument("csr: its signature does not match its key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise InvalidArgument("csr: the key must be ECDSA on P-256")
    return key


def is_signed_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    """Whether `root`'s key made the signature on `certificate`, by the key itself and not by any name."""
    key = root.public_key()
    algorithm = certificate.signature_hash_algorithm
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(algorithm, hashes.SHA256):
        return False
    try:
        key.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True


def load_certificate(data: bytes) -> x509.Certificate:
    """The first certificate in a PEM text. Raises InvalidArgument."""
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError as failure:
        raise InvalidArgument("not a PEM certificate") from failure


def load_certificates(data: bytes) -> tuple[x509.Certificate, ...]:
    """All certificates in a PEM text, at least one. Raises InvalidArgument."""
    try:
        return tuple(x509.load_pem_x509_certificates(data))
    except ValueError as failure:
        raise InvalidArgument("there is no PEM certificate") from failure


def signer(leaf: x509.Certificate, roots: Sequence[x509.Certificate]) -> x509.Certificate:
    """The root that signed `leaf`. Raises InvalidArgument when none of them did."""
    for root in roots:
        if is_signed_by(leaf, root):
            return root
    raise InvalidArgument("the certificate is not signed by the swarm's root")


def load_key(data: bytes) -> PrivateKey:
    """The first private key in a PEM text. Raises InvalidArgument unless it is an ECDSA key."""
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError) as failure:
        raise InvalidArgument("not a PEM private key without a password") from failure
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidArgument("the private key must be ECDSA")
    return key


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_key_der(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def digest(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the DER form: what a join token pins."""
    return certificate.fingerprint(hashes.SHA256())


def node_id_of(certificate: x509.Certificate) -> str:
    """The node a leaf names. Raises InvalidArgument."""
    return _attribute(certificate, NameOID.COMMON_NAME)


def role_of(certificate: x509.Certificate) -> NodeRole:
    """The role a leaf grants. Raises InvalidArgument."""
    unit = _attribute(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME)
    for role, name in ROLE_UNITS.items():
        if name == unit:
            return role
    raise InvalidArgument(f"the certificate's unit {unit!r} is no role")


def starts_ns(certificate: x509.Certificate) -> int:
    return _nanoseconds(certificate.not_valid_before_utc)


def expires_ns(certificate: x509.Certificate) -> int:
    return _nanoseconds(certificate.not_valid_after_utc)


def _attribute(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    found = certificate.subject.get_attributes_for_oid(oid)
    if len(found) != 1 or not isinstance(found[0].value, str):
        raise InvalidArgument(f"the certificate has no single {oid._name} in its subject")
    return found[0].value


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, start: datetime.datetime, end: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _root_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )


def _moment(time_ns: int) -> datetime.datetime:
    return EPOCH + datetime.timedelta(microseconds=time_ns // 1000)


def _nanoseconds(moment: datetime.datetime) -> int:
    return int((moment - EPOCH) / datetime.timedelta(microseconds=1)) * 1000


