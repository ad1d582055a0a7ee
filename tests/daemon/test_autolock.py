"""Autolock, with real Raft, disks and certificates: what a manager needs to come back, and what its disk gives away."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from swarmpy.api.failures import errors_as_answers
from swarmpy.api.swarm import routes
from swarmpy.api.swarm_node import LocalState
from swarmpy.errors import Conflict, InvalidArgument, Unavailable
from swarmpy.rpc.control_pb2 import UpdateClusterRequest
from swarmpy.rpc.types_pb2 import CAConfig, Cluster, ClusterSpec, NodeRole
from tests.daemon.swarm import Host, hosts, until

NET = 77
AUTOLOCK = ClusterSpec(autolock_managers=True)


def cluster_of(host: Host) -> Cluster:
    cluster = host.manager.store.cluster
    assert cluster is not None
    return cluster


async def update(host: Host, *, autolock: bool = True, rotate: bool = False) -> None:
    cluster = cluster_of(host)
    await host.manager.control.update_cluster(
        UpdateClusterRequest(
            version=cluster.meta.version,
            spec=ClusterSpec(autolock_managers=autolock),
            rotate_manager_unlock_key=rotate,
        )
    )


async def label(host: Host, value: str) -> None:
    """One write."""
    cluster = cluster_of(host)
    spec = ClusterSpec()
    spec.CopyFrom(cluster.spec)
    spec.annotations.labels["mark"] = value
    await host.manager.control.update_cluster(UpdateClusterRequest(version=cluster.meta.version, spec=spec))


def disk_of(host: Host) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(host.directory.rglob("*")) if path.is_file())


def data_keys(host: Host) -> tuple[bytes, ...]:
    member = host.node._member
    assert member is not None
    return member.identity.data_keys


def asks_for_a_key(host: Host) -> bool:
    return b'"sealed"' in (host.directory / "certificates" / "data.keys").read_bytes()


def test_a_locked_manager_comes_back_with_its_key_alone(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 1, NET) as (a,):
            node_id = await a.init(spec=AUTOLOCK)
            key = cluster_of(a).unlock_key
            await label(a, "before")
            await a.restart()
            assert (a.node.local_state, a.id, a.node.manager) == (LocalState.LOCKED, node_id, None)
            kept = disk_of(a)
            for secret in (key.encode(), b"BEGIN PRIVATE KEY", b"before"):
                assert secret not in kept
            with pytest.raises(InvalidArgument, match="SWMKEY-1-"):
                await a.node.unlock("open sesame")
            with pytest.raises(InvalidArgument, match="not the key"):
                await a.node.unlock("SWMKEY-1-" + "A" * 43)
            assert disk_of(a) == kept, "a wrong key changes nothing"
            for refused in (a.init(force_new_cluster=True), a.init(), a.node.leave(force=False)):
                with pytest.raises(Unavailable, match="locked"):
                    await refused
            await a.node.unlock(key)
            await until(lambda: a.active, "it manages again")
            await a.manager.read_barrier()
            assert cluster_of(a).spec.annotations.labels["mark"] == "before"
            with pytest.raises(Conflict, match="not locked"):
                await a.node.unlock(key)

    asyncio.run(story())


def test_managers_that_join_or_are_promoted_are_locked_and_workers_are_not(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 4, NET) as (a, b, c, d):
            await a.init(spec=AUTOLOCK)
            key = cluster_of(a).unlock_key
            await b.join(a, NodeRole.MANAGER)
            await c.join(a)
            await d.join(a)
            assert [asks_for_a_key(host) for host in (a, b, c, d)] == [True, True, False, False]
            await a.update(c, NodeRole.MANAGER)
            await until(lambda: c.node.manager is not None and c.active, "the worker to be a manager")
            assert asks_for_a_key(c)
            await c.restart()
            assert c.node.local_state is LocalState.LOCKED
            await label(a, "while it was away")
            await c.node.unlock(key)
            await until(lambda: c.active and cluster_of(c).spec.annotations.labels["mark"], "it to catch up")
            await a.update(c, NodeRole.WORKER)
            await until(lambda: c.node.manager is None and not asks_for_a_key(c), "it to be a worker that needs no key")
            await c.restart()
            await until(lambda: c.active, "the worker to be back by itself")

    asyncio.run(story())


def test_all_managers_start_locked_and_are_unlocked_one_by_one(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 3, NET) as (a, b, c):
            await a.init(spec=AUTOLOCK)
            key = cluster_of(a).unlock_key
            await b.join(a, NodeRole.MANAGER)
            await c.join(a, NodeRole.MANAGER)
            for host in (a, b, c):
                await host.stop()
            for host in (a, b, c):
                await host.restart()
                assert host.node.local_state is LocalState.LOCKED
            await a.node.unlock(key)                # returns, though it has no majority yet
            assert a.node.local_state is LocalState.PENDING
            await b.node.unlock(key)
            await until(lambda: a.active and b.active, "two of three to go on")
            await label(a, "two")

    asyncio.run(story())


def test_autolock_is_switched_on_and_off_and_its_key_rotated(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 3, NET) as (a, b, c):
            await a.init()
            await b.join(a, NodeRole.MANAGER)
            await c.join(a, NodeRole.MANAGER)
            assert cluster_of(a).unlock_key == ""
            with pytest.raises(InvalidArgument, match="rotateManagerUnlockKey"):
                await update(b, autolock=False, rotate=True)
            await update(b)
            await until(lambda: all(map(asks_for_a_key, (a, b, c))), "all managers to be locked")
            first = cluster_of(b).unlock_key
            await until(lambda: c.active, "the third to be settled")
            await c.stop()
            await update(b, rotate=True)
            await b.manager.read_barrier()
            second = cluster_of(b).unlock_key
            assert second != first

            await b.restart()
            with pytest.raises(InvalidArgument, match="not the key"):
                await b.node.unlock(first)
            await b.node.unlock(second)

            await c.restart()                       # away meanwhile: the old key, and then the new one
            with pytest.raises(InvalidArgument, match="not the key"):
                await c.node.unlock(second)
            await c.node.unlock(first)
            await until(lambda: c.active and cluster_of(c).unlock_key == second, "it to hear of the new key")
            await c.restart()
            await c.node.unlock(second)
            await until(lambda: a.active and b.active and c.active, "all of them")

            await update(a, autolock=False)
            await until(lambda: not any(map(asks_for_a_key, (a, b, c))), "no manager to be locked")
            assert cluster_of(a).unlock_key == ""
            await c.restart()
            await until(lambda: c.active, "it to come back by itself")

    asyncio.run(story())


def test_what_is_written_after_it_was_switched_on_is_sealed_with_a_new_key(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 1, NET) as (a,):
            await a.init()
            stolen = (a.directory / "certificates" / "data.keys").read_bytes()
            await update(a)
            await until(lambda: asks_for_a_key(a), "it to be locked")
            await label(a, "secret")
            key = cluster_of(a).unlock_key
            await a.stop()
            (a.directory / "certificates" / "data.keys").write_bytes(stolen)
            await a.restart()                       # as a thief would, who has an older copy of that file
            assert a.node.local_state is LocalState.ERROR
            assert "data key that is not there" in a.node.error
            assert key not in a.node.error

    asyncio.run(story())


def test_no_key_lies_in_the_open_that_ever_sealed_what_was_locked(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 1, NET) as (a,):
            await a.init()
            keys: list[bytes] = []
            for autolock in (True, False):
                keys += data_keys(a)
                await update(a, autolock=autolock)
                await a.node.take_unlock_key()
                assert asks_for_a_key(a) == autolock
                assert len(data_keys(a)) == 1
                await label(a, f"autolock {autolock}")
            assert not set(data_keys(a)) & set(keys)
            await a.restart()                       # the log opens with the one key that is there
            await until(lambda: a.active, "it to come back by itself")
            await a.manager.read_barrier()
            assert cluster_of(a).spec.annotations.labels["mark"] == "autolock False"

    asyncio.run(story())


def test_an_update_that_was_made_is_not_said_to_have_failed(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 1, NET) as (a,):
            await a.init()
            app = web.Application(middlewares=[errors_as_answers])
            app.add_routes(routes(a.node))
            await a.node.take_unlock_key()
            (a.directory / "certificates" / "data.keys.new").mkdir()    # where the new file would be written
            async with TestClient(TestServer(app)) as client:
                body = {"EncryptionConfig": {"AutoLockManagers": True}}
                answer = await client.post(f"/swarm/update?version={cluster_of(a).meta.version}", json=body)
                assert (answer.status, await answer.text()) == (200, "")
            assert cluster_of(a).unlock_key
            assert not asks_for_a_key(a)

    asyncio.run(story())


def test_a_swarm_goes_on_from_an_older_state_as_that_says(tmp_path: Path) -> None:
    """A manager's log was restored from a copy, and the others are gone: it has heard of later keys and roots."""

    async def story() -> None:
        async with hosts(tmp_path, 2, NET) as (a, b):
            await a.init(spec=AUTOLOCK)
            await b.join(a, NodeRole.MANAGER)
            first = cluster_of(b).unlock_key
            await b.stop()
            shutil.copytree(b.directory / "raft", tmp_path / "copy")
            await b.restart()
            await b.node.unlock(first)
            await until(lambda: b.active, "it to be back")
            await update(a, rotate=True)
            spec = ClusterSpec(autolock_managers=True, ca=CAConfig(force_rotate=1))
            await a.manager.control.update_cluster(UpdateClusterRequest(version=cluster_of(a).meta.version, spec=spec))
            await a.manager.read_barrier()
            await until(lambda: not cluster_of(a).root_ca.HasField("rotation"), "a new root")
            await b.manager.read_barrier()
            second = cluster_of(b).unlock_key
            await asyncio.gather(a.stop(), b.stop())
            shutil.rmtree(b.directory / "raft")
            shutil.copytree(tmp_path / "copy", b.directory / "raft")
            await b.restart()
            await b.node.unlock(second)
            await b.init(force_new_cluster=True)
            assert cluster_of(b).unlock_key == first
            await until(lambda: b.active, "it to go on alone")
            await b.restart()
            await b.node.unlock(first)
            await until(lambda: b.active, "it to open with the key of its state")
            await update(b, autolock=False)
            await until(lambda: not asks_for_a_key(b), "it to hear of later words")

    asyncio.run(story())


def test_a_locked_node_leaves_by_force(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 1, NET) as (a,):
            await a.init(spec=AUTOLOCK)
            await a.restart()
            await a.node.leave(force=True)
            assert a.node.local_state is LocalState.INACTIVE
            with pytest.raises(Unavailable, match="not part of a swarm"):
                await a.node.unlock("SWMKEY-1-" + "A" * 43)
            await a.init()
            assert a.active

    asyncio.run(story())


def test_a_log_key_of_an_older_swarmpy_is_taken_up(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 1, NET) as (a,):
            await a.init()
            await label(a, "kept")
            (data_key,) = data_keys(a)
            await a.stop()
            (a.directory / "certificates" / "data.keys").unlink()
            (a.directory / "raft.key").write_bytes(data_key)
            await a.restart()
            await until(lambda: a.active, "it to go on")
            await a.manager.read_barrier()
            assert cluster_of(a).spec.annotations.labels["mark"] == "kept"
            assert not (a.directory / "raft.key").exists()

    asyncio.run(story())


def test_the_key_is_in_no_log_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        caplog.set_level(0)
        async with hosts(tmp_path, 2, NET) as (a, b):
            await a.init(spec=AUTOLOCK)
            await b.join(a, NodeRole.MANAGER)
            key = cluster_of(a).unlock_key
            await b.restart()
            with pytest.raises(InvalidArgument):
                await b.node.unlock(key[:-1])
            await b.node.unlock(key)
            await asyncio.wait_for(b.manager.read_barrier(), 20)
        assert key[9:40] not in caplog.text

    asyncio.run(story())
