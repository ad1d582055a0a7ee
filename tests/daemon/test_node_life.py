"""How nodes become managers and workers and cease to be, with real Raft, disks, certificates and connections."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

import grpc.aio
import pytest

from swarmpy.daemon.member import Member
from swarmpy.errors import Conflict, Forbidden, InvalidArgument, NotSupported, Unavailable
from swarmpy.manager.replicated_log import NotLeader
from swarmpy.manager.store import Transaction
from swarmpy.rpc.control_pb2 import RemoveNodeRequest, UpdateClusterRequest
from swarmpy.rpc.control_pb2_grpc import ControlStub
from swarmpy.rpc.types_pb2 import ClusterSpec, Node, NodeRole, NodeSpec, NodeStatus, RaftConfig
from tests.daemon.swarm import PATIENCE_S, BareAgent, Host, hosts, until

WORKER, MANAGER = NodeRole.WORKER, NodeRole.MANAGER


async def three_managers(a: Host, b: Host, c: Host) -> None:
    await a.init()
    await b.join(a, MANAGER)
    await c.join(a, MANAGER)


async def a_worker(manager: Host, worker: Host) -> tuple[Member, BareAgent]:
    """What the second host is in the swarm of the first, and its agent, which has a session."""
    await manager.init()
    await worker.join(manager, WORKER)
    await until(lambda: worker.active, "the worker's session")
    member = worker.node._member
    assert member is not None
    agent = member._agent
    assert isinstance(agent, BareAgent)
    return member, agent


def voters(host: Host) -> set[str]:
    return {peer.node_id for peer in host.manager.members() if peer.voter}


def votes(host: Host, seen_by: Host) -> bool:
    return host.id in voters(seen_by) and host.active and host.node.manager is not None


def status(host: Host, node_id: str) -> NodeStatus.State:
    return host.manager.store.nodes[node_id].status.state


def test_init_then_join_as_worker_and_as_manager(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 3, 41) as (a, b, c):
            node_id = await a.init()
            assert node_id == a.id
            assert a.leads
            await b.join(a, WORKER)
            await c.join(a, MANAGER)
            assert a.active and b.active and c.active
            assert b.node.manager is None
            assert voters(a) == voters(c) == {a.id, c.id}
            nodes = a.manager.store.nodes
            assert {node.id: node.role for node in nodes.values()} == {a.id: MANAGER, b.id: WORKER, c.id: MANAGER}
            assert nodes[c.id].manager.addr == c.addr
            await until(lambda: all(n.status.state == NodeStatus.READY for n in nodes.values()), "all nodes ready")
            assert dict(b.node.remote_managers)[""] in (a.addr, c.addr)

    asyncio.run(scenario())


def test_what_a_node_is_survives_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 2, 42) as (a, b):
            await a.init()
            await b.join(a, WORKER)
            before = (a.id, b.id, a.token(WORKER))
            await a.restart()
            await until(lambda: a.active and b.active, "both nodes back")
            assert (a.id, b.id, a.token(WORKER)) == before
            await b.restart()
            await until(lambda: b.active, "the worker back")

    asyncio.run(scenario())


def test_the_lead_is_handed_over_when_the_leader_stops(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 3, 43) as (a, b, c):
            await three_managers(a, b, c)
            await a.stop()
            await until(lambda: b.leads or c.leads, "another leader", 2.0)
            a.node = a._new()
            await a.node.start()
            await until(lambda: a.active, "the old leader back")
            assert not a.leads

    asyncio.run(scenario())


def test_promote_and_demote(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 4, 44) as (a, b, c, d):
            await three_managers(a, b, c)
            await d.join(a, WORKER)
            await a.update(d, MANAGER)
            await until(lambda: votes(d, a), "the promoted node votes")
            assert a.manager.store.nodes[d.id].role == MANAGER
            ended, member = d.manager, d.node._member
            assert member is not None
            await b.update(d, WORKER)
            await until(lambda: d.node.manager is None and d.active, "the demoted node is a worker")
            assert ended.control.renewed not in member.identity._callbacks, "nobody calls what ended"
            await a.manager.read_barrier()
            node = a.manager.store.nodes[d.id]
            assert (node.role, node.HasField("manager"), d.id in voters(a)) == (WORKER, False, False)
            await a.update(d, MANAGER)
            await until(lambda: votes(d, a), "promoted again")

    asyncio.run(scenario())


def test_an_agent_that_broke_is_made_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 2, 59) as (a, b):
            member, broken = await a_worker(a, b)
            broken.breaks("the agent broke: no such luck")
            await until(lambda: member._agent not in (None, broken) and b.active, "another agent's session")
            assert broken.closed and not member.error

    asyncio.run(scenario())


def test_a_node_that_leaves_waits_for_an_agent_that_broke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 2, 60) as (a, b):
            member, broken = await a_worker(a, b)
            closing, may_close = asyncio.Event(), asyncio.Event()

            async def close(*, remove_tasks: bool) -> None:
                closing.set()
                await may_close.wait()
                raise KeyError("a mistake in its end, too")

            monkeypatch.setattr(broken, "close", close)
            broken.breaks("the agent broke: no such luck")
            await closing.wait()
            leaving = asyncio.create_task(member.close(remove_tasks=True))
            done, _ = await asyncio.wait({leaving}, timeout=0.2)
            assert not done, "two agents would act on the same tasks"
            may_close.set()
            await leaving

    asyncio.run(scenario())


def test_the_leader_itself_can_be_demoted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 3, 45) as (a, b, c):
            await three_managers(a, b, c)
            await a.update(a, WORKER)
            await until(lambda: a.node.manager is None and a.active, "the old leader is a worker")
            await until(lambda: (b.leads or c.leads) and voters(b) == {b.id, c.id}, "the others go on")

    asyncio.run(scenario())


def test_the_last_manager_cannot_be_demoted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 1, 46) as (a,):
            await a.init()
            with pytest.raises(Conflict, match="last manager"):
                await a.update(a, WORKER)

    asyncio.run(scenario())


def test_a_worker_leaves_and_is_removed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 2, 47) as (a, b):
            await a.init()
            await b.join(a, WORKER)
            left = b.id
            await until(lambda: status(a, left) == NodeStatus.READY, "the worker is ready")
            with pytest.raises(InvalidArgument, match="not down"):
                await a.manager.control.remove_node(RemoveNodeRequest(id=left))
            await b.node.leave(force=False)
            assert b.node.local_state.value == "inactive"
            assert not b.directory.exists()
            await until(lambda: status(a, left) == NodeStatus.DOWN, "the node that left is down")
            await a.manager.control.remove_node(RemoveNodeRequest(id=left))
            assert left not in a.manager.store.nodes
            await b.join(a, WORKER)
            assert b.id != left

    asyncio.run(scenario())


def test_a_manager_leaves_only_by_force_and_the_rest_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 3, 48) as (a, b, c):
            await three_managers(a, b, c)
            with pytest.raises(Conflict, match="participating as a manager"):
                await a.node.leave(force=False)
            left = a.id
            await a.node.leave(force=True)
            await until(lambda: (b.leads or c.leads) and voters(b) == {b.id, c.id}, "two managers left")
            await b.manager.read_barrier()
            assert b.manager.store.nodes[left].spec.role == WORKER

    asyncio.run(scenario())


def test_force_new_cluster_after_quorum_loss(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 4, 49) as (a, b, c, d):
            await three_managers(a, b, c)
            await d.join(a, WORKER)
            token = a.token(WORKER)
            await asyncio.gather(b.stop(), c.stop())
            with pytest.raises(Unavailable):
                await a.manager.read_barrier()
            await a.init(force_new_cluster=True)
            assert voters(a) == {a.id}
            assert a.token(WORKER) == token
            nodes = a.manager.store.nodes
            assert [nodes[host_id].spec.role for host_id in (b.id, c.id, d.id)] == [WORKER] * 3
            await until(lambda: a.active and d.active, "the worker found the new swarm")

    asyncio.run(scenario())


def test_a_removed_node_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 2, 50) as (a, b):
            await a.init()
            await b.join(a, WORKER)
            await a.manager.control.remove_node(RemoveNodeRequest(id=b.id, force=True))
            await until(lambda: not b.active, "the removed node lost its session")
            await until(lambda: "was removed" in b.node.error, "the node knows why")

    asyncio.run(scenario())


def test_wrong_and_rotated_tokens_leave_the_host_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 2, 51) as (a, b):
            await a.init()
            old = a.token(WORKER)
            cluster = a.manager.store.cluster
            assert cluster is not None
            request = UpdateClusterRequest(version=cluster.meta.version, spec=cluster.spec, rotate_worker_token=True)
            await a.manager.control.update_cluster(request)
            with pytest.raises(Forbidden, match="refused this join token"):
                await b.join(a, token=old)
            assert b.node.local_state.value == "inactive"
            with pytest.raises(InvalidArgument):
                await b.join(a, token="SWMTKN-1-x-y")
            await b.join(a, WORKER)
            with pytest.raises(Conflict, match="already part of a swarm"):
                await b.join(a, WORKER)
            with pytest.raises(Conflict, match="already part of a swarm"):
                await b.init()

    asyncio.run(scenario())


def test_an_address_in_use_fails_init_and_leaves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 2, 52) as (a, b):
            await a.init()
            with pytest.raises(Conflict, match="cannot listen"):
                await b.init(listen_addr=a.addr)
            assert b.node.local_state.value == "inactive"
            assert not b.directory.exists()
            await b.init()

    asyncio.run(scenario())


def test_an_address_of_another_host_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 2, 62) as (a, b):
            await a.init()
            for role in (MANAGER, WORKER):
                with pytest.raises(InvalidArgument, match=r"listen address 192\.0\.2\.7: not an address of this host"):
                    await b.join(a, role, listen_addr="192.0.2.7:2377")
            with pytest.raises(InvalidArgument, match=r"listen address 2001:db8::7: not an address of this host"):
                await b.init(listen_addr="[2001:db8::7]:2377")
            assert b.node.local_state.value == "inactive"
            assert len(a.manager.store.nodes) == 1

    asyncio.run(scenario())


def test_a_manager_that_is_promoted_while_down_comes_back_as_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 2, 53) as (a, b):
            await a.init()
            await b.join(a, WORKER)
            await b.stop()
            await a.update(b, MANAGER)
            b.node = b._new()
            await b.node.start()
            await until(lambda: b.node.manager is not None and b.active, "promoted on return")
            assert voters(a) == {a.id, b.id}

    asyncio.run(scenario())


def test_the_store_decides_over_an_old_manager_certificate(tmp_path: Path) -> None:
    """A manager whose role was taken away while it was cut off cannot use its certificate as a manager's."""

    async def scenario() -> None:
        async with hosts(tmp_path, 4, 54) as (a, b, c, d):
            await three_managers(a, b, c)
            await d.join(a, MANAGER)
            await until(lambda: a.leads, "the first leads")
            identity = d.node._member.identity  # type: ignore[union-attr]  # the host's certificate, as a thief has it
            node = Node()
            await a.manager.read_barrier()
            await d.stop()
            node.CopyFrom(a.manager.store.nodes[d.id])
            node.spec.role = WORKER
            transaction = Transaction()
            transaction.put(node)
            await a.manager.store.commit(transaction)
            await until(lambda: not a.manager.store.nodes[d.id].HasField("manager"), "the vote is gone")
            async with identity.channel(a.addr) as channel:
                with pytest.raises(grpc.aio.AioRpcError, match="is a worker; only managers may do this"):
                    await ControlStub(channel).RemoveNode(RemoveNodeRequest(id=b.id))

    asyncio.run(scenario())


def test_the_swarms_snapshot_interval_takes_effect_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 1, 55) as (a,):
            await a.init()

            def snapshots() -> int:
                return len(list((a.directory / "raft").glob("snapshot-*")))

            assert snapshots() == 0
            cluster = a.manager.store.cluster
            assert cluster is not None
            spec = ClusterSpec()
            spec.CopyFrom(cluster.spec)
            spec.raft.snapshot_interval = 1
            await a.manager.control.update_cluster(UpdateClusterRequest(version=cluster.meta.version, spec=spec))
            await a.update(a, MANAGER)          # any other write
            await until(lambda: snapshots() == 1, "a snapshot")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("change", "told"),
    [(RaftConfig(election_tick=3), "ElectionTick"), (RaftConfig(keep_old_snapshots=2), "KeepOldSnapshots")],
)
def test_what_raft_cannot_be_told_yet_is_refused(tmp_path: Path, change: RaftConfig, told: str) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 1, 56) as (a,):
            with pytest.raises(NotSupported, match=told):
                await a.init(spec=ClusterSpec(raft=change))

    asyncio.run(scenario())


def one_more_node() -> Transaction:
    transaction = Transaction()
    transaction.put(Node(id=secrets.token_hex(12), spec=NodeSpec()))
    return transaction


@pytest.mark.parametrize("leads", [True, False])
def test_a_manager_whose_disk_is_full_stops_and_is_back_when_there_is_space(tmp_path: Path, leads: bool) -> None:
    async def scenario() -> None:
        async with hosts(tmp_path, 3, 57) as (a, b, c):
            await three_managers(a, b, c)
            full, other = (a, b) if leads else (b, a)
            full.disk.is_full = True

            async def write() -> None:
                """By whoever leads. The write that finds the disk full may fail."""
                for host in (a, b, c):
                    with suppress(NotLeader, Unavailable):
                        if host.leads:
                            await host.manager.store.commit(one_more_node())

            async with asyncio.timeout(PATIENCE_S):
                while "No space left on device" not in full.node.error:
                    await write()
                    await asyncio.sleep(0.01)
            await until(lambda: other.leads or c.leads, "the others to have a leader")
            leader = other if other.leads else c
            await leader.manager.store.commit(one_more_node())
            assert not full.active
            full.disk.is_full = False
            await until(lambda: full.active and not full.node.error, "the manager is back")
            await until(lambda: full.manager.store.index >= leader.manager.store.index, "it has what it missed")

    asyncio.run(scenario())


@pytest.mark.parametrize("loss", ["damaged", "of an older swarmpy", "gone"])
def test_a_manager_without_its_log_says_so_and_comes_back_by_being_demoted_and_promoted(
    tmp_path: Path, loss: str
) -> None:
    """Never by itself: it would have forgotten for whom it voted, and what it had promised to keep."""

    async def scenario() -> None:
        async with hosts(tmp_path, 3, 58) as (a, b, c):
            await three_managers(a, b, c)
            await c.stop()
            raft = c.directory / "raft"
            segment = next(raft.glob("log-*"))
            if loss == "damaged":
                data = bytearray(segment.read_bytes())
                data[100] ^= 1
                segment.write_bytes(data)
            else:
                shutil.rmtree(raft)
            if loss == "of an older swarmpy":
                raft.mkdir()
                (raft / "raft.db").write_bytes(b"SQLite format 3")
            told = {"damaged": "is damaged", "of an older swarmpy": "older swarmpy", "gone": "is gone"}[loss]
            await c.restart()
            await until(lambda: told in c.node.error and str(raft) in c.node.error, "the node says what is wrong")
            assert c.node.manager is None
            await a.update(c, WORKER)

            def is_worker() -> bool:
                """As the node itself has it: promoted before that, it would never have let go of what it was."""
                member = c.node._member
                return member is not None and member.state.raft_id == 0 and not raft.exists()

            await until(is_worker, "the node is a worker")
            await a.update(c, MANAGER)
            await until(lambda: c.active and c.node.manager is not None, "the node is a manager again")
            assert len(a.manager.members()) == 3

    asyncio.run(scenario())
