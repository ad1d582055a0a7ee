"""Updates of the swarm itself: what is rotated, and what stays."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from swarmpy.errors import Conflict, InvalidArgument
from swarmpy.manager.control import NewSecrets
from swarmpy.manager.control.cluster import update_cluster
from swarmpy.manager.store import MemoryLog, Store, Transaction
from swarmpy.rpc.control_pb2 import UpdateClusterRequest
from swarmpy.rpc.types_pb2 import CAConfig, Cluster, ClusterSpec, RootCA, RootRotation

ROOT = RootCA(cert_pem="old", key_pem="k", join_token_worker="w", join_token_manager="m")


class Swarm:
    def __init__(self) -> None:
        self.store = Store(lambda: 1)
        self.store.bind(MemoryLog(self.store))
        count = itertools.count(1)
        self._new = NewSecrets(
            lambda cert: f"token{next(count)}", lambda: f"key{next(count)}", lambda root_ca, config: self._root(config)
        )
        first = Transaction()
        first.put(Cluster(id="c", root_ca=ROOT))
        asyncio.run(self.store.commit(first))

    @staticmethod
    def _root(config: CAConfig) -> RootRotation:
        if not config.signing_cert_pem and config.signing_key_pem:
            raise InvalidArgument("CAConfig.SigningCACert: must be given with SigningCAKey")
        return RootRotation(cert_pem=config.signing_cert_pem or "new")

    @property
    def cluster(self) -> Cluster:
        assert self.store.cluster is not None
        return self.store.cluster

    def update(self, spec: ClusterSpec, *, rotate_key: bool = False) -> Cluster:
        request = UpdateClusterRequest(
            version=self.cluster.meta.version, spec=spec, rotate_manager_unlock_key=rotate_key
        )
        asyncio.run(self.store.commit(update_cluster(self.store, request, self._new)))
        return self.cluster


def autolock(*, on: bool) -> ClusterSpec:
    return ClusterSpec(autolock_managers=on)


def forced(count: int) -> ClusterSpec:
    return ClusterSpec(ca=CAConfig(force_rotate=count))


def test_the_unlock_key_comes_with_autolock_and_goes_with_it() -> None:
    swarm = Swarm()
    assert swarm.update(autolock(on=False)).unlock_key == ""
    first = swarm.update(autolock(on=True)).unlock_key
    assert first
    assert swarm.update(autolock(on=True)).unlock_key == first
    second = swarm.update(autolock(on=True), rotate_key=True).unlock_key
    assert second != first
    assert swarm.update(autolock(on=False)).unlock_key == ""
    assert swarm.update(autolock(on=True)).unlock_key not in (first, second, "")
    with pytest.raises(InvalidArgument, match="rotateManagerUnlockKey"):
        swarm.update(autolock(on=False), rotate_key=True)
    assert swarm.cluster.unlock_key, "a refused update changes nothing"


def test_a_higher_count_rotates_the_root_once() -> None:
    swarm = Swarm()
    assert not swarm.update(forced(0)).root_ca.HasField("rotation")
    begun = swarm.update(forced(1)).root_ca
    assert (begun.cert_pem, begun.rotation.cert_pem, begun.join_token_worker) == ("old", "new", "w")
    assert swarm.update(forced(1)).root_ca == begun
    with pytest.raises(Conflict, match="is being rotated"):
        swarm.update(forced(2))


def test_a_key_without_its_certificate_is_not_taken_for_nothing() -> None:
    with pytest.raises(InvalidArgument, match="SigningCACert"):
        Swarm().update(ClusterSpec(ca=CAConfig(signing_key_pem="secret")))


def test_a_rotation_to_the_present_root_does_not_come_later() -> None:
    swarm = Swarm()
    asked = ClusterSpec(ca=CAConfig(signing_cert_pem="old", signing_key_pem="k", force_rotate=1))
    assert not swarm.update(asked).root_ca.HasField("rotation")
    later = ClusterSpec()
    later.CopyFrom(swarm.cluster.spec)
    later.autolock_managers = True
    assert not swarm.update(later).root_ca.HasField("rotation")


def test_the_count_never_falls() -> None:
    swarm = Swarm()
    swarm.update(forced(5))
    ended = Cluster()
    ended.CopyFrom(swarm.cluster)
    ended.root_ca.ClearField("rotation")
    transaction = Transaction()
    transaction.put(ended)
    asyncio.run(swarm.store.commit(transaction))
    for older in (forced(0), forced(3)):
        assert swarm.update(older).spec.ca.force_rotate == 5
    assert not swarm.cluster.root_ca.HasField("rotation")
    assert swarm.update(forced(6)).root_ca.HasField("rotation")


def test_a_given_root_is_not_kept_in_the_spec() -> None:
    swarm = Swarm()
    spec = ClusterSpec(ca=CAConfig(signing_cert_pem="mine", signing_key_pem="secret"))
    cluster = swarm.update(spec)
    assert cluster.root_ca.rotation.cert_pem == "mine"
    assert (cluster.spec.ca.signing_cert_pem, cluster.spec.ca.signing_key_pem) == ("", "")
    assert swarm.update(spec).root_ca == cluster.root_ca, "it is on its way already"
