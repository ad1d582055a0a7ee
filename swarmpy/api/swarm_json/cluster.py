"""Cluster and SwarmSpec <-> JSON.

Source  Docker Engine API: ClusterInfo, Swarm, SwarmSpec.
"""

from __future__ import annotations

import base64

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.message import Message

from swarmpy.api.fields import Fields
from swarmpy.api.swarm_json.values import JSON, compact
from swarmpy.engine.times import format_rfc3339
from swarmpy.rpc.types_pb2 import Cluster, ClusterSpec

__all__ = ["cluster_info_to_json", "swarm_spec_from_json", "swarm_to_json"]

DEFAULT_HISTORY = 5
DEFAULT_SNAPSHOT_INTERVAL = 10_000
DEFAULT_SLOW_FOLLOWERS = 500
DEFAULT_HEARTBEAT_NS = 1_500_000_000
DEFAULT_CERT_EXPIRY_NS = 90 * 24 * 3600 * 1_000_000_000


def swarm_spec_from_json(fields: Fields) -> ClusterSpec:
    """The body of POST /swarm/update, and Spec of POST /swarm/init. Raises InvalidArgument and NotSupported."""
    spec = ClusterSpec()
    spec.annotations.name = fields.text("Name")
    spec.annotations.labels.update(fields.mapping("Labels"))
    orchestration = fields.inner("Orchestration")
    if orchestration.has("TaskHistoryRetentionLimit"):
        spec.task_history_limit = orchestration.integer("TaskHistoryRetentionLimit")
    raft = fields.inner("Raft")
    spec.raft.snapshot_interval = raft.integer("SnapshotInterval", least=0)
    if raft.has("KeepOldSnapshots"):
        spec.raft.keep_old_snapshots = raft.integer("KeepOldSnapshots", least=0)
    if raft.has("LogEntriesForSlowFollowers"):
        spec.raft.log_entries_for_slow_followers = raft.integer("LogEntriesForSlowFollowers", least=0)
    spec.raft.election_tick = raft.integer("ElectionTick", least=0, most=2**32 - 1)
    spec.raft.heartbeat_tick = raft.integer("HeartbeatTick", least=0, most=2**32 - 1)
    if fields.inner("Dispatcher").integer("HeartbeatPeriod"):
        spec.heartbeat_period_ns = fields.inner("Dispatcher").integer("HeartbeatPeriod", least=0)
    ca = fields.inner("CAConfig")
    if ca.integer("NodeCertExpiry"):
        spec.ca.node_cert_expiry_ns = ca.integer("NodeCertExpiry", least=0)
    spec.ca.signing_cert_pem = ca.text("SigningCACert")
    spec.ca.signing_key_pem = ca.text("SigningCAKey")
    spec.ca.force_rotate = ca.integer("ForceRotate", least=0)
    spec.autolock_managers = fields.inner("EncryptionConfig").flag("AutoLockManagers")
    fields.inner("TaskDefaults")        # of which there is nothing yet
    fields.refuse_rest()
    return spec


def swarm_spec_to_json(spec: ClusterSpec) -> JSON:
    """With defaults filled in. Keys never leave."""

    def given(message: Message, name: str, default: int) -> int:
        return int(getattr(message, name)) if message.HasField(name) else default

    raft = spec.raft
    return {
        "Name": spec.annotations.name or "default",
        "Labels": dict(spec.annotations.labels),
        "Orchestration": {"TaskHistoryRetentionLimit": given(spec, "task_history_limit", DEFAULT_HISTORY)},
        "Raft": {
            "SnapshotInterval": raft.snapshot_interval or DEFAULT_SNAPSHOT_INTERVAL,
            "KeepOldSnapshots": given(raft, "keep_old_snapshots", 0),
            "LogEntriesForSlowFollowers": raft.log_entries_for_slow_followers or DEFAULT_SLOW_FOLLOWERS,
            "ElectionTick": raft.election_tick or 10,
            "HeartbeatTick": raft.heartbeat_tick or 1,
        },
        "Dispatcher": {"HeartbeatPeriod": given(spec, "heartbeat_period_ns", DEFAULT_HEARTBEAT_NS)},
        "CAConfig": {"NodeCertExpiry": given(spec.ca, "node_cert_expiry_ns", DEFAULT_CERT_EXPIRY_NS)}
        | compact({"SigningCACert": spec.ca.signing_cert_pem, "ForceRotate": spec.ca.force_rotate}),
        "TaskDefaults": {},
        "EncryptionConfig": {"AutoLockManagers": spec.autolock_managers},
    }


def cluster_info_to_json(cluster: Cluster) -> JSON:
    """ClusterInfo: without the join tokens."""
    return {
        "ID": cluster.id,
        "Version": {"Index": cluster.meta.version},
        "CreatedAt": format_rfc3339(cluster.meta.created_ns),
        "UpdatedAt": format_rfc3339(cluster.meta.updated_ns),
        "Spec": swarm_spec_to_json(cluster.spec),
        "TLSInfo": tls_info(cluster.root_ca.rotation.cert_pem or cluster.root_ca.cert_pem),
        "RootRotationInProgress": cluster.root_ca.HasField("rotation"),
        "DefaultAddrPool": list(cluster.default_addr_pool) or ["10.0.0.0/8"],
        "SubnetSize": cluster.subnet_size or 24,
        "DataPathPort": cluster.data_path_port or 4789,
    }


def swarm_to_json(cluster: Cluster) -> JSON:
    """GET /swarm."""
    return cluster_info_to_json(cluster) | {
        "JoinTokens": {"Worker": cluster.root_ca.join_token_worker, "Manager": cluster.root_ca.join_token_manager}
    }


def tls_info(root_pem: str) -> JSON:
    if not root_pem:
        return {}
    root = x509.load_pem_x509_certificate(root_pem.encode())
    key = root.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        "TrustRoot": root_pem,
        "CertIssuerSubject": base64.b64encode(root.subject.public_bytes()).decode(),
        "CertIssuerPublicKey": base64.b64encode(key).decode(),
    }
