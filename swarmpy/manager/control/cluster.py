"""Writes to the swarm itself.

Source  Docker Engine API: POST /swarm/update.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from swarmpy.errors import InvalidArgument, Unavailable
from swarmpy.manager.control.services import check_version
from swarmpy.manager.control.specs import check_cluster
from swarmpy.manager.store import Store, Transaction
from swarmpy.rpc.control_pb2 import UpdateClusterRequest
from swarmpy.rpc.types_pb2 import Cluster

__all__ = ["NewSecrets", "update_cluster"]


@dataclass(frozen=True, slots=True)
class NewSecrets:
    """Draws what an update rotates, as text."""

    join_token: Callable[[str], str]            # for the root with this certificate (PEM)
    unlock_key: Callable[[], str]


def update_cluster(store: Store, request: UpdateClusterRequest, new: NewSecrets) -> Transaction:
    """Change the spec and rotate what was asked for.

    What the request leaves out stays as it is; labels and autolock are always what it says.
    """
    check_cluster(request.spec)
    if request.rotate_manager_unlock_key and not request.spec.autolock_managers:
        raise InvalidArgument(
            "rotateManagerUnlockKey: there is no unlock key while EncryptionConfig.AutoLockManagers is false"
        )
    cluster = store.cluster
    if cluster is None:
        raise Unavailable("the swarm is still being set up")
    check_version(cluster.meta.version, request.version, "the swarm")
    changed = Cluster()
    changed.CopyFrom(cluster)
    changed.spec.annotations.labels.clear()
    changed.spec.MergeFrom(request.spec)
    changed.spec.autolock_managers = request.spec.autolock_managers
    changed.spec.annotations.name = "default"
    if request.rotate_worker_token:
        changed.root_ca.join_token_worker = new.join_token(cluster.root_ca.cert_pem)
    if request.rotate_manager_token:
        changed.root_ca.join_token_manager = new.join_token(cluster.root_ca.cert_pem)
    if not changed.spec.autolock_managers:
        changed.unlock_key = ""
    elif request.rotate_manager_unlock_key or not changed.unlock_key:
        changed.unlock_key = new.unlock_key()
    transaction = Transaction()
    transaction.put(changed)
    return transaction
