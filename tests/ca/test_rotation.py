"""Replacing the root: which step comes next, and which roots are taken."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.errors import InvalidArgument, NotSupported, Unavailable
from swarmpy.identity import Issuer, create_root, new_key
from swarmpy.identity.certificates import (
    EPOCH,
    PrivateKey,
    expires_ns,
    is_signed_by,
    key_pem,
    load_certificate,
    pem,
    public_key_der,
    self_signed,
    subject_name,
)
from swarmpy.identity.joining import vouched_for
from swarmpy.identity.peer import authenticate
from swarmpy.manager.ca import begin_rotation, create_root_ca, issuer_of
from swarmpy.manager.ca.rotation import next_step
from swarmpy.manager.store import trusted_roots
from swarmpy.rpc.types_pb2 import CAConfig, Node, NodeDescription, NodeRole, RootCA

NOW = 1_700_000_000_000_000_000
DAY = 86_400 * 10**9
KEY_USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def begun() -> RootCA:
    root_ca = create_root_ca(NOW)
    root_ca.rotation.CopyFrom(begin_rotation(root_ca, CAConfig(), NOW))
    return root_ca


def node(roots: str, issuer: str) -> Node:
    key = public_key_der(load_certificate(issuer.encode()))
    return Node(description=NodeDescription(root_ca_pem=roots, cert_issuer_public_key=key))


def test_the_new_root_issues_once_every_node_trusts_it() -> None:
    root_ca = begun()
    old, new = root_ca.cert_pem, root_ca.rotation.cert_pem
    assert trusted_roots(root_ca) == old + new
    assert issuer_of(root_ca).certificate == load_certificate(old.encode())
    ready, behind, joining = node(old + new, old), node(old, old), Node()
    for waits_for in (behind, joining):
        assert next_step(root_ca, [ready, waits_for]) is None
    issuing = next_step(root_ca, [ready, ready])
    assert issuing is not None
    assert trusted_roots(issuing) == new + old
    assert issuer_of(issuing).certificate == load_certificate(new.encode())
    assert issuing.join_token_worker == root_ca.join_token_worker


def test_the_old_root_goes_once_every_certificate_is_of_the_new_one() -> None:
    root_ca = begun()
    old, new, key = root_ca.cert_pem, root_ca.rotation.cert_pem, root_ca.rotation.key_pem
    root_ca.rotation.issues = True
    assert next_step(root_ca, [node(new + old, new), node(new + old, old)]) is None
    done = next_step(root_ca, [node(new + old, new)] * 2)
    assert done is not None
    assert (done.cert_pem, done.key_pem, done.HasField("rotation"), trusted_roots(done)) == (new, key, False, new)
    tokens = {root_ca.join_token_worker, root_ca.join_token_manager, done.join_token_worker, done.join_token_manager}
    assert len(tokens) == 4
    assert next_step(done, []) is None


@given(st.integers(0, 2**32), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_whatever_order_nodes_act_in_each_can_judge_all_others(seed: int, count: int) -> None:
    """Nodes hear of roots and renew whenever they like; at every moment all certificates in use open all doors."""
    random, root_ca = Random(seed), begun()
    old = root_ca.cert_pem
    first = [(old, old)] * count                                # what each trusts, and who signed its certificate
    nodes: list[tuple[str, str]] = list(first)
    for _ in range(200):
        following = next_step(root_ca, [node(*one) for one in nodes]) if random.random() < 0.5 else None
        root_ca = following or root_ca
        at = random.randrange(count)
        roots, issuer = nodes[at]
        if random.random() < 0.5:
            roots = trusted_roots(root_ca)
        elif random.random() < 0.5:                             # a renewal brings both
            roots = trusted_roots(root_ca)
            issuer = pem(issuer_of(root_ca).certificate).decode()
        nodes[at] = roots, issuer
        for (trusted, _), (_, signed_by) in itertools.product(nodes, nodes):
            assert signed_by in trusted
    assert not root_ca.HasField("rotation")


def chain_of(root_ca: RootCA) -> Sequence[x509.Certificate]:
    """As a manager presents it while the new root issues."""
    texts = (root_ca.rotation.cert_pem, root_ca.cert_pem, root_ca.rotation.cross_pem)
    return [load_certificate(text.encode()) for text in texts]


def test_a_joiner_takes_the_new_root_on_the_word_of_the_pinned_one_alone() -> None:
    root_ca, stranger = begun(), create_root("stranger", NOW).certificate
    coming, pinned, cross = chain_of(root_ca)
    assert vouched_for(pinned, [coming, pinned, cross, stranger]) == [coming]
    assert vouched_for(pinned, [coming, pinned, stranger]) == []
    assert vouched_for(pinned, [stranger, pinned, cross]) == []
    leaf = issuer_of(root_ca).issue(
        new_key().public_key(), node_id="n", role=NodeRole.MANAGER, swarm_id="s", now_ns=NOW, lifetime_ns=DAY
    )
    assert vouched_for(pinned, [pinned, leaf]) == []


def test_the_word_of_the_old_root_makes_nobody_a_node() -> None:
    root_ca = begun()
    coming, pinned, cross = chain_of(root_ca)
    assert is_signed_by(cross, pinned)
    assert (cross.subject, cross.public_key()) == (coming.subject, coming.public_key())
    root_ca.rotation.issues = True
    leaf = issuer_of(root_ca).issue(
        new_key().public_key(), node_id="n", role=NodeRole.WORKER, swarm_id="s", now_ns=NOW, lifetime_ns=DAY
    )
    assert authenticate(leaf, (coming, pinned), None, NOW).node_id == "n"
    with pytest.raises(Exception, match="neither by this swarm"):
        authenticate(leaf, (pinned,), None, NOW)


def config_of(issuer: Issuer) -> CAConfig:
    return CAConfig(signing_cert_pem=pem(issuer.certificate).decode(), signing_key_pem=key_pem(issuer.key).decode())


def test_a_given_root_is_taken() -> None:
    root_ca, mine = create_root_ca(NOW), create_root("mine", NOW)
    rotation = begin_rotation(root_ca, config_of(mine), NOW)
    assert load_certificate(rotation.cert_pem.encode()) == mine.certificate
    assert is_signed_by(load_certificate(rotation.cross_pem.encode()), issuer_of(root_ca).certificate)


def root_with(
    key: PrivateKey,
    *extensions: tuple[x509.ExtensionType, bool],
    name: str = "mine",
    usage: bool = True,
    end_ns: int = NOW + 9 * DAY,
) -> CAConfig:
    """A root as its owner may have made it elsewhere: of a CA, and with these extensions (critical or not) besides."""
    subject, start = subject_name(name), EPOCH + datetime.timedelta(microseconds=NOW // 1000)
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(EPOCH + datetime.timedelta(microseconds=end_ns // 1000))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if usage:
        flags = dict.fromkeys(KEY_USAGES, False) | {"key_cert_sign": True}
        builder = builder.add_extension(x509.KeyUsage(**flags), critical=True)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return config_of(Issuer(builder.sign(key, hashes.SHA256()), key))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_a_root_made_elsewhere_is_taken(curve: ec.EllipticCurve) -> None:
    config = root_with(ec.generate_private_key(curve), usage=False)
    rotation = begin_rotation(create_root_ca(NOW), config, NOW)
    assert rotation.cert_pem == config.signing_cert_pem


def test_a_root_whose_certificates_nodes_would_refuse_is_refused_before_them() -> None:
    only_worker = x509.NameConstraints([x509.DNSName("example.org")], None)
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    refused = (
        (root_with(new_key(), (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)), "would not accept"),
        (root_with(new_key(), (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), True)), "would not accept"),
        (root_with(new_key(), (only_worker, True)), "would not accept"),
        (root_with(new_key(), (unknown, True)), "would not accept"),
        (root_with(ec.generate_private_key(ec.SECP256K1())), "secp256k1"),
        (root_with(new_key(), end_ns=NOW + DAY // 48), "within the hour"),
    )
    for config, told in refused:
        with pytest.raises(InvalidArgument, match=f"CAConfig.SigningCACert: .*{told}") as refusal:
            begin_rotation(create_root_ca(NOW), config, NOW)
        assert "PRIVATE" not in str(refusal.value)


def test_no_certificate_outlives_the_root_that_signed_it() -> None:
    root_ca = RootCA()
    config = root_with(new_key(), end_ns=NOW + DAY)
    root_ca.cert_pem, root_ca.key_pem = config.signing_cert_pem, config.signing_key_pem

    def leaf(now_ns: int) -> x509.Certificate:
        return issuer_of(root_ca).issue(
            new_key().public_key(), node_id="n", role=NodeRole.WORKER, swarm_id="s", now_ns=now_ns, lifetime_ns=9 * DAY
        )

    assert expires_ns(leaf(NOW)) == NOW + DAY
    with pytest.raises(Unavailable, match="has expired"):
        leaf(NOW + DAY)


def test_a_root_that_cannot_do_is_refused_by_its_field() -> None:
    root_ca, mine = create_root_ca(NOW), create_root("mine", NOW)
    whole, other = config_of(mine), config_of(create_root("other", NOW))
    past = [EPOCH, EPOCH + datetime.timedelta(days=1)]
    expired = self_signed(subject_name("old"), new_key(), *past)
    same_name = self_signed(
        issuer_of(root_ca).certificate.subject, new_key(), EPOCH, EPOCH + datetime.timedelta(days=40_000)
    )
    present = issuer_of(root_ca)
    same_key = self_signed(subject_name("other"), present.key, EPOCH, EPOCH + datetime.timedelta(days=40_000))
    key = new_key()
    leaf = mine.issue(key.public_key(), node_id="n", role=NodeRole.WORKER, swarm_id="s", now_ns=NOW, lifetime_ns=DAY)
    refused = (
        (CAConfig(signing_cert_pem=whole.signing_cert_pem), NotSupported, "SigningCAKey"),
        (CAConfig(signing_key_pem=whole.signing_key_pem), InvalidArgument, "SigningCACert: must be given"),
        (CAConfig(signing_cert_pem="x", signing_key_pem="y"), InvalidArgument, "SigningCACert"),
        (
            CAConfig(signing_cert_pem=whole.signing_cert_pem, signing_key_pem=other.signing_key_pem),
            InvalidArgument,
            "does not belong",
        ),
        (config_of(Issuer(leaf, key)), InvalidArgument, "signed by its own key"),
        (config_of(expired), InvalidArgument, "expired"),
        (config_of(same_name), InvalidArgument, "another subject"),
        (config_of(same_key), InvalidArgument, "SigningCAKey: must be another key"),
    )
    for config, kind, told in refused:
        with pytest.raises(kind, match=told) as refusal:
            begin_rotation(root_ca, config, NOW)
        assert "PRIVATE" not in str(refusal.value)
