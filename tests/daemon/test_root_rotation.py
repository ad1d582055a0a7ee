"""A new root for a swarm that runs, with real Raft, disks, certificates and sessions."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest

from swarmpy.daemon.member import Member
from swarmpy.errors import Conflict, Forbidden
from swarmpy.identity import KeyPair, NodeIdentity, new_key
from swarmpy.identity.certificates import key_pem, pem, public_key_der, signing_request
from swarmpy.identity.node_identity import open_channel
from swarmpy.manager.ca import issuer_of
from swarmpy.manager.raft import RaftLog
from swarmpy.manager.raft.service import Hello
from swarmpy.manager.store import Transaction
from swarmpy.rpc.ca_pb2 import IssueRequest, IssueResponse
from swarmpy.rpc.ca_pb2_grpc import CAStub
from swarmpy.rpc.control_pb2 import RemoveNodeRequest, UpdateClusterRequest
from swarmpy.rpc.raft_pb2_grpc import RaftStub
from swarmpy.rpc.types_pb2 import Cluster, ClusterSpec, Node, NodeDescription, NodeRole, RootCA
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


async def put(host: Host, node: Node) -> None:
    transaction = Transaction()
    transaction.put(node)
    await host.manager.store.commit(transaction)


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
            await b.update(d, NodeRole.MANAGER)         # over the channel to the leader that b has had since before
            await until(lambda: d.node.manager is not None and d.active, "a promotion after it")
            for host in everybody:
                await host.restart()
            await until(lambda: all(host.active for host in (*everybody, e)), "all to be back")
            await rotate(c)                     # and once more
            await until(lambda: not rotating(c), "the second rotation to end")

    asyncio.run(story())


def test_what_the_old_root_signed_opens_nothing_when_it_is_over(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 1, NET) as (a,):
            await a.init()
            root_ca = RootCA()
            root_ca.CopyFrom(cluster_of(a).root_ca)     # as a manager of before may have kept it
            key = new_key()
            leaf = issuer_of(root_ca).issue(
                key.public_key(), node_id=a.id, role=NodeRole.MANAGER, swarm_id="s",
                now_ns=time.time_ns(), lifetime_ns=3600 * 10**9,
            )  # fmt: skip
            stolen = KeyPair(pem(leaf), key_pem(key))
            request = IssueRequest(csr=signing_request(new_key()))

            async def ask() -> IssueResponse:
                async with open_channel(a.addr, stolen, identity_of(a).root_ca_pem) as channel:
                    answer: IssueResponse = await CAStub(channel).Issue(request, timeout=10)
                    return answer

            assert (await ask()).node_id == a.id
            await rotate(a)
            await until(lambda: not rotating(a) and len(identity_of(a).roots) == 1, "the rotation to end")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask()
            assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED)

    asyncio.run(story())


def test_a_raft_stream_of_the_old_root_ends_with_it(tmp_path: Path) -> None:
    """As who was a manager once can open, in anybody's name."""

    async def story() -> None:
        async with hosts(tmp_path, 1, NET) as (a,):
            await a.init()
            key, log = new_key(), a.manager._log
            assert isinstance(log, RaftLog)
            leaf = issuer_of(cluster_of(a).root_ca).issue(
                key.public_key(), node_id="stranger", role=NodeRole.MANAGER, swarm_id="s",
                now_ns=time.time_ns(), lifetime_ns=3600 * 10**9,
            )  # fmt: skip
            hello = Hello(log.cluster_id, 99, log.raft_id, "127.0.0.1:1")
            async with open_channel(a.addr, KeyPair(pem(leaf), key_pem(key)), identity_of(a).root_ca_pem) as channel:
                stream = RaftStub(channel).Messages(metadata=hello.metadata())
                await stream.initial_metadata()
                await rotate(a)
                await asyncio.wait_for(stream, 30)
            assert not rotating(a)

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
        async with hosts(tmp_path, 2, NET) as (a, b):
            await a.init()
            old = identity_of(a).issuer
            away = Node(id="away", description=NodeDescription(cert_issuer_public_key=public_key_der(old)))
            await put(a, away)
            await rotate(a)
            root_ca = cluster_of(a).root_ca
            away.CopyFrom(a.manager.store.nodes["away"])
            away.description.root_ca_pem = root_ca.cert_pem + root_ca.rotation.cert_pem    # and goes, before it renews
            await put(a, away)
            await until(lambda: identity_of(a).issuer != old, "the manager to have its certificate")
            assert rotating(a)
            await b.join(a)
            await a.manager.control.remove_node(RemoveNodeRequest(id="away", force=True))
            await until(lambda: not rotating(a) and b.active, "the rotation to end")

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
