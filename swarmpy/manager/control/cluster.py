"""Writes to the swarm itself.

Source  Docker Engine API: POST /swarm/update.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from swarmpy.errors import Conflict, InvalidArgument, Unavailable
from swarmpy.manager.control.services import check_version
from swarmpy.manager.control.specs import check_cluster
from swarmpy.manager.store import Store, Transaction
from swarmpy.rpc.control_pb2 import UpdateClusterRequest
from swarmpy.rpc.types_pb2 import CAConfig, Cluster, RootCA, RootRotation

__all__ = ["NewSecrets", "update_cluster"]


@dataclass(frozen=True, slots=True)
class NewSecrets:
    """Draws what an update rotates, as text."""

    join_token: Callable[[str], str]            # for the root with this certificate (PEM)
    unlock_key: Callable[[], str]
    root: Callable[[RootCA, CAConfig], RootRotation]    # what takes the present root's place; raises for a bad config


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
    # A count: from an older spec it would fall, and the next one who adds 1 to it would ask for nothing.
    changed.spec.ca.force_rotate = max(cluster.spec.ca.force_rotate, request.spec.ca.force_rotate)
    if request.rotate_worker_token:
        changed.root_ca.join_token_worker = new.join_token(cluster.root_ca.cert_pem)
    if request.rotate_manager_token:
        changed.root_ca.join_token_manager = new.join_token(cluster.root_ca.cert_pem)
    if _wants_new_root(request.spec.ca, cluster.root_ca):
        if cluster.root_ca.HasField("rotation"):
            raise Conflict(
                "CAConfig: the root is being rotated; wait until all nodes have a certificate of the new one, or remove"
                " those that are away (docker node ls, docker node rm)"
            )
        changed.root_ca.rotation.CopyFrom(new.root(cluster.root_ca, request.spec.ca))
    changed.root_ca.last_forced_rotation = changed.spec.ca.force_rotate     # also where the root is there already
    changed.spec.ca.signing_cert_pem = changed.spec.ca.signing_key_pem = ""     # in root_ca from now on
    if not changed.spec.autolock_managers:
        changed.unlock_key = ""
    elif request.rotate_manager_unlock_key or not changed.unlock_key:
        changed.unlock_key = new.unlock_key()
    transaction = Transaction()
    transaction.put(changed)
    return transaction


def _wants_new_root(config: CAConfig, root_ca: RootCA) -> bool:
    if config.signing_key_pem and not config.signing_cert_pem:
        return True                         # and is told what is missing
    if config.signing_cert_pem:
        return config.signing_cert_pem.strip() not in (root_ca.cert_pem.strip(), root_ca.rotation.cert_pem.strip())
    return config.force_rotate > root_ca.last_forced_rotation
