"""A new root for a swarm that runs, with real Raft, disks, certificates and sessions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from swarmpy.daemon.member import Member
from swarmpy.errors import Conflict, Forbidden
from swarmpy.identity import NodeIdentity
from swarmpy.rpc.control_pb2 import RemoveNodeRequest, UpdateClusterRequest
from swarmpy.rpc.types_pb2 import Cluster, ClusterSpec, NodeRole
from tests.daemon.swarm import Host, hosts, until

NET = 78


def cluster_of(host: Host) -> Cluster:
    cluster = host.manager.store.cluster
    assert cluster is not None
    return cluster


def rotating(host: Host) -> bool:
    return cluster_of(host).root_ca.HasField("rotation")


def identity_of(host: Host) -> NodeIdentity:
    member = host.node._member
    assert isinstance(member, Member)
    return member.identity


async def rotate(host: Host) -> None:
    await host.manager.read_barrier()
    cluster = cluster_of(host)
    spec = ClusterSpec()
    spec.CopyFrom(cluster.spec)
    spec.ca.force_rotate += 1
    await host.manager.control.update_cluster(UpdateClusterRequest(version=cluster.meta.version, spec=spec))
    await host.manager.read_barrier()


def trusts_only_the_new_root(host: Host, old: bytes) -> bool:
    identity = identity_of(host)
    return len(identity.roots) == 1 and identity.root_ca_pem != old and identity.issuer == identity.root_ca


def test_every_node_gets_a_certificate_of_the_new_root_and_the_tokens_change(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 5, NET) as (a, b, c, d, e):
            await a.init()
            await b.join(a, NodeRole.MANAGER)
            await c.join(a, NodeRole.MANAGER)
            await d.join(a)
            old, tokens = identity_of(a).root_ca_pem, [a.token(role) for role in (NodeRole.WORKER, NodeRole.MANAGER)]
            await rotate(b)
            await until(lambda: not rotating(b), "the rotation to end")
            everybody = (a, b, c, d)
            await until(lambda: all(trusts_only_the_new_root(host, old) for host in everybody), "all to have it")
            assert {identity_of(host).root_ca_pem for host in everybody} == {cluster_of(b).root_ca.cert_pem.encode()}
            await until(lambda: all(host.active for host in everybody), "all nodes to be active")
            assert not {a.token(role) for role in (NodeRole.WORKER, NodeRole.MANAGER)} & set(tokens)
            with pytest.raises(Forbidden, match="another swarm"):
                await e.join(a, token=tokens[0])
            await e.join(a)
            await a.update(d, NodeRole.MANAGER)
            await until(lambda: d.node.manager is not None and d.active, "a promotion after it")
            for host in everybody:
                await host.restart()
            await until(lambda: all(host.active for host in (*everybody, e)), "all to be back")
            await rotate(c)                     # and once more
            await until(lambda: not rotating(c), "the second rotation to end")

    asyncio.run(story())


def test_it_waits_for_a_node_that_is_away_and_new_ones_join_meanwhile(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 4, NET) as (a, b, c, d):
            await a.init()
            await b.join(a)
            await c.join(a)
            old = identity_of(a).root_ca_pem
            await b.stop()
            await rotate(a)
            await until(lambda: len(identity_of(c).roots) == 2, "who is there to trust both")
            assert not cluster_of(a).root_ca.rotation.issues
            with pytest.raises(Conflict, match="is being rotated"):
                await rotate(a)
            await d.join(a)                     # its token pins the old root
            assert len(identity_of(d).roots) == 2
            await b.restart()
            await until(lambda: not rotating(a), "the rotation to end")
            await until(lambda: all(trusts_only_the_new_root(host, old) for host in (a, b, c, d)), "all to have it")

    asyncio.run(story())


def test_a_host_joins_while_managers_have_certificates_of_the_new_root_already(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 4, NET) as (a, b, c, d):
            await a.init()
            await b.join(a)
            await c.join(a)
            stopped = identity_of(b).issuer
            await rotate(a)
            await until(lambda: cluster_of(a).root_ca.rotation.issues or not rotating(a), "the new root to issue")
            await until(lambda: identity_of(a).issuer != stopped, "the manager to have its certificate")
            await d.join(a)
            await until(lambda: not rotating(a) and d.active, "the rotation to end")

    asyncio.run(story())


def test_a_removed_node_is_waited_for_no_longer(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 2, NET) as (a, b):
            await a.init()
            await b.join(a)
            lost = b.id
            await b.stop()
            await rotate(a)
            assert rotating(a)
            await a.manager.control.remove_node(RemoveNodeRequest(id=lost, force=True))
            await until(lambda: not rotating(a), "the rotation to end")

    asyncio.run(story())


def test_another_leader_goes_on_with_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 4, NET) as (a, b, c, d):
            await a.init()
            await b.join(a, NodeRole.MANAGER)
            await c.join(a, NodeRole.MANAGER)
            await d.join(a)
            await d.stop()
            await rotate(a)
            await until(lambda: all(len(identity_of(host).roots) == 2 for host in (a, b, c)), "managers to trust both")
            await a.stop()
            await until(lambda: b.leads or c.leads, "another leader")
            assert rotating(b)
            await d.restart()
            await a.restart()
            await until(lambda: all(not rotating(host) for host in (b, c)), "the rotation to end", 60)
            await until(lambda: all(host.active for host in (a, b, c, d)), "all nodes to be active")

    asyncio.run(story())
