"""Replacing the root: which step comes next, and which roots are taken."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from random import Random

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.errors import InvalidArgument, NotSupported
from swarmpy.identity import Issuer, create_root, new_key
from swarmpy.identity.certificates import (
    EPOCH,
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
