"""Writes to the swarm itself.

Source  Docker Engine API: POST /swarm/update.
"""

from __future__ import annotations

from collections.abc import Callable

from swarmpy.errors import NotSupported, Unavailable
from swarmpy.manager.control.services import check_version
from swarmpy.manager.control.specs import check_cluster
from swarmpy.manager.store import Store, Transaction
from swarmpy.rpc.control_pb2 import UpdateClusterRequest
from swarmpy.rpc.types_pb2 import Cluster

__all__ = ["update_cluster"]


def update_cluster(store: Store, request: UpdateClusterRequest, new_token: Callable[[str], str]) -> Transaction:
    """Change the spec and rotate what was asked for. `new_token(root certificate, PEM)` makes a join token.

    What the request leaves out stays as it is; labels and autolock are always what it says.
    """
    check_cluster(request.spec)
    if request.rotate_manager_unlock_key:
        raise NotSupported("rotateManagerUnlockKey is not supported yet")
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
        changed.root_ca.join_token_worker = new_token(cluster.root_ca.cert_pem)
    if request.rotate_manager_token:
        changed.root_ca.join_token_manager = new_token(cluster.root_ca.cert_pem)
    transaction = Transaction()
    transaction.put(changed)
    return transaction
