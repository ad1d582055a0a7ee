"""Agents against a real dispatcher over gRPC, with simulated containers."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from swarmpy.manager.store import Transaction
from swarmpy.rpc.logs_pb2 import LogRequest
from swarmpy.rpc.types_pb2 import (
    ASSIGNED,
    COMPLETE,
    FAILED,
    MANAGER,
    REJECTED,
    RUNNING,
    SHUTDOWN,
    Cluster,
    IPAMConfig,
    Network,
    Node,
    NodeDescription,
    NodeStatus,
    TaskState,
)
from swarmpy.worker import Agent

from ..dispatcher.wire import NODE_HEADER, Leader, drive, leader, until
from .simulated import RecordingMesh, SimulatedExecutor


class NoPatience(random.Random):
    """Whoever may wait for a random time waits for the shortest."""

    def uniform(self, a: float, b: float) -> float:
        return min(a, b)


class Worker:
    """A node: its disk and its containers outlive the daemons that run on it."""

    def __init__(self, node_id: str, state_dir: Path, *addrs: str) -> None:
        self.node_id = node_id
        self.state_dir = state_dir / node_id
        self.addrs = addrs
        self.executor = SimulatedExecutor()
        self.mesh = RecordingMesh()
        self.hostname = node_id
        self.rng = random.Random(7)
        self.opened: list[float] = []            # after how much silence a manager is asked, of each channel so far
        self.removed: list[str] = []
        self.roles: list[int] = []

    async def start(self) -> None:
        self.agent = Agent(
            self.state_dir, self.addrs, channel=self.channel, executor=self.executor, mesh=self.mesh,
            describe=lambda: NodeDescription(hostname=self.hostname), metadata=((NODE_HEADER, self.node_id),),
            on_removed=self.removed.append, on_node_state=lambda state: self.roles.append(state.node.spec.role),
            rng=self.rng,
        )
        await self.agent.start()
        self._run = asyncio.create_task(self.agent.run())

    def channel(self, addr: str, ask_after_s: float) -> grpc.aio.Channel:
        self.opened.append(ask_after_s)
        return grpc.aio.insecure_channel(addr)

    async def stop(self) -> None:
        """End the daemon; containers stay."""
        self._run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._run
        await self.agent.close()

    async def leave(self) -> None:
        self._run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._run
        await self.agent.leave()


@contextlib.asynccontextmanager
async def working(lead: Leader, path: Path, *node_ids: str) -> AsyncIterator[list[Worker]]:
    workers = [Worker(node_id, path, lead.addr) for node_id in node_ids]
    for worker in workers:
        await worker.start()
    try:
        yield workers
    finally:
        for worker in workers:
            await worker.stop()


def state(lead: Leader, task_id: str) -> TaskState:
    return lead.store.tasks[task_id].status.state


async def swarm(lead: Leader, *node_ids: str) -> None:
    """Nodes, the ingress network as allocated, and one service."""
    await lead.add_nodes(*node_ids)
    await lead.add_service()
    network = Network()
    network.CopyFrom(lead.store.networks["ingress"])
    network.vni = 4096
    network.ipam.append(IPAMConfig(subnet="10.0.0.0/24", gateway="10.0.0.1"))
    await lead.put(network)


def test_a_task_runs_and_its_end_is_told(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1")
            async with working(lead, tmp_path, "n1") as [worker]:
                await lead.put(lead.task("t1", "n1"), lead.task("t2", "n1", 2), lead.task("t3", "n1", 3))
                await until(lambda: all(state(lead, key) == RUNNING for key in ("t1", "t2", "t3")), "they run")
                assert lead.store.tasks["t1"].status.container.container_id == "c-t1"
                await worker.executor.end("t1")
                await worker.executor.end("t2", 3)
                await worker.executor.end("t3", 137, oom=True)
                await until(lambda: state(lead, "t1") == COMPLETE, "exit 0 is COMPLETE")
                await until(lambda: state(lead, "t2") == state(lead, "t3") == FAILED, "others FAILED")
                assert lead.store.tasks["t2"].status.error == "task: non-zero exit (3)"
                assert lead.store.tasks["t2"].status.container.exit_code == 3
                assert "memory" in lead.store.tasks["t3"].status.error

    drive(story)


async def ask_for_heartbeats(lead: Leader, period_s: float) -> None:
    cluster = Cluster()
    assert lead.store.cluster is not None
    cluster.CopyFrom(lead.store.cluster)
    cluster.spec.heartbeat_period_ns = int(period_s * 1e9)
    await lead.put(cluster)


def test_a_leader_of_many_is_asked_for_a_sign_of_life_less_often_than_it_hears_heartbeats(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1")
            worker = Worker("n1", tmp_path, lead.addr)
            worker.rng = NoPatience()
            await worker.start()
            await until(lambda: lead.store.nodes["n1"].status.state == NodeStatus.READY, "it is up")
            await ask_for_heartbeats(lead, 5.0)
            await lead.put(lead.task("t1", "n1"))
            await until(lambda: worker.opened == [2.0, 7.5] and worker.agent.connected, "it comes anew")
            await ask_for_heartbeats(lead, 4.2)
            await lead.put(lead.task("t2", "n1", 2))
            await until(lambda: state(lead, "t1") == state(lead, "t2") == RUNNING, "it goes on working")
            assert worker.opened == [2.0, 7.5], "what has changed by little is no reason to come anew"
            await ask_for_heartbeats(lead, 1.5)
            await until(lambda: worker.opened == [2.0, 7.5, 2.25] and worker.agent.connected, "it comes anew")
            await worker.stop()

    drive(story)


def test_an_image_that_is_nowhere_rejects_the_task(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1")
            async with working(lead, tmp_path, "n1") as [worker]:
                worker.executor.unpullable.add("web")
                await lead.put(lead.task("t1", "n1"))
                await until(lambda: state(lead, "t1") == REJECTED, "REJECTED")
                assert lead.store.tasks["t1"].status.error == "No such image: web"

    drive(story)


def test_a_task_is_stopped_then_removed_with_its_container(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1", "n2")
            async with working(lead, tmp_path, "n1", "n2") as [worker, other]:
                await lead.put(lead.task("t1", "n1"))
                await until(lambda: state(lead, "t1") == RUNNING, "it runs")
                await until(lambda: other.mesh.view is not None and "t1" in other.mesh.view.tasks, "in the mesh")
                await lead.desire("t1", SHUTDOWN)
                await until(lambda: state(lead, "t1") == SHUTDOWN, "it is stopped")
                assert other.mesh.view is not None and "t1" not in other.mesh.view.tasks
                assert "t1" in worker.executor.containers
                transaction = Transaction()
                transaction.remove(lead.store.tasks["t1"])
                await lead.store.commit(transaction)
                await until(lambda: "t1" not in worker.executor.containers, "its container is removed")
                await until(lambda: worker.agent.statuses == {}, "and forgotten")

    drive(story)


def test_the_mesh_of_a_node_is_what_the_store_says(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1", "n2")
            async with working(lead, tmp_path, "n1", "n2") as [worker, _]:
                await lead.put(lead.task("t1", "n2"))
                await until(lambda: worker.mesh.view is not None and "t1" in worker.mesh.view.tasks, "n1 knows t1")
                view = worker.mesh.view
                assert view is not None and view.ingress is not None
                assert view.node_id == "n1" and str(view.ingress.address) == "10.0.0.200/24"
                assert view.ingress.vni == 4096 and view.ingress.udp_port == 4789
                assert str(view.peers["n2"].ingress) == "10.0.0.201"
                assert view.services["s1"][0].published == 8080
                assert str(view.tasks["t1"].address) == "10.0.0.2" and view.tasks["t1"].node_id == "n2"

    drive(story)


def test_a_kernel_that_refuses_the_mesh_is_asked_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1")
            async with working(lead, tmp_path, "n1") as [worker]:
                worker.mesh.broken = True
                await lead.put(lead.task("t1", "n1"))
                await until(lambda: state(lead, "t1") > ASSIGNED, "the task goes on as far as it can")
                worker.mesh.broken = False
                await until(lambda: state(lead, "t1") == RUNNING, "it runs")

    drive(story)


def test_a_restarted_daemon_keeps_its_tasks_without_any_manager(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1")
            worker = Worker("n1", tmp_path, lead.addr)
            await worker.start()
            await lead.put(lead.task("t1", "n1"), lead.task("t2", "n1", 2))
            await until(lambda: state(lead, "t1") == state(lead, "t2") == RUNNING, "both run")
            await lead.step_down()
            await worker.stop()
            worker.executor.calls.clear()
            await worker.executor.end("t2", 1)
            await worker.start()
            await until(lambda: worker.agent.statuses["t2"].state == FAILED, "the lost end is noticed")
            assert worker.agent.statuses["t1"].state == RUNNING and not worker.agent.connected
            assert worker.executor.calls == [] and worker.executor.containers["t1"] == "running"
            await lead.lead()
            await until(lambda: state(lead, "t2") == FAILED, "and told when the managers are back")
            assert state(lead, "t1") == RUNNING
            await worker.stop()

    drive(story)


def test_what_was_decided_while_a_node_was_away_is_done_when_it_is_back(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1")
            worker = Worker("n1", tmp_path, lead.addr)
            await worker.start()
            await lead.put(lead.task("t1", "n1"), lead.task("t2", "n1", 2))
            await until(lambda: state(lead, "t1") == state(lead, "t2") == RUNNING, "both run")
            await worker.stop()
            transaction = Transaction()
            transaction.remove(lead.store.tasks["t1"])
            await lead.store.commit(transaction)
            await lead.put(lead.task("t3", "n1", 3))
            worker.executor.containers["stray"] = "running"
            await worker.start()
            await until(lambda: state(lead, "t3") == RUNNING, "the new task runs")
            await until(lambda: set(worker.executor.containers) == {"t2", "t3"}, "the old and the stray are gone")
            await worker.stop()

    drive(story)


def test_the_leader_is_found_through_another_manager_and_remembered(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as lead, leader() as follower:
            await swarm(lead, "n1")
            await follower.step_down()
            follower.log.lead(False)
            follower.log._leadership = follower.log.leadership.__class__(3, False, lead.addr)
            worker = Worker("n1", tmp_path, follower.addr)
            await worker.start()
            await until(lambda: worker.agent.connected, "it follows leader-addr")
            await until(lambda: worker.agent.managers == (lead.addr,), "it learns the members")
            await until((tmp_path / "n1" / "managers.json").exists, "and writes them down")
            await worker.stop()

    drive(story)


def test_what_the_hosts_own_manager_knows_of_the_leader_outweighs_the_present_session(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as old, leader() as new:
            await swarm(old, "n1")
            await swarm(new, "n1")
            async with working(old, tmp_path, "n1") as [worker]:
                await until(lambda: old.store.nodes["n1"].status.state == NodeStatus.READY, "a session with the old")
                worker.agent.follow_leader(new.addr)
                await until(lambda: new.store.nodes["n1"].status.state == NodeStatus.READY, "one with the new")

    drive(story)


def test_a_node_that_is_removed_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1")
            worker = Worker("n1", tmp_path, lead.addr)
            await worker.start()
            await lead.put(lead.task("t1", "n1"))
            await until(lambda: state(lead, "t1") == RUNNING, "it runs")
            task = lead.store.tasks["t1"]
            transaction = Transaction()
            transaction.remove(task)
            transaction.remove(lead.store.nodes["n1"])
            await lead.store.commit(transaction)
            await until(lambda: worker.removed != [], "it is told")
            await worker.leave()
            assert worker.executor.containers == {} and worker.mesh.closed == "closed"

    drive(story)


def test_a_node_that_leaves_says_so_and_is_down_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1")
            worker = Worker("n1", tmp_path, lead.addr)
            await worker.start()
            await until(lambda: lead.store.nodes["n1"].status.state == NodeStatus.READY, "READY")
            await worker.agent.depart()
            await until(lambda: lead.store.nodes["n1"].status.state == NodeStatus.DOWN, "DOWN")
            assert lead.store.nodes["n1"].status.message == "the node left the swarm"
            statistics = lead.dispatcher.statistics()
            assert statistics is not None and statistics.sessions == 0
            await worker.leave()

    drive(story)


def test_a_node_that_leaves_waits_for_a_session_under_way(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1")
            worker = Worker("n1", tmp_path, lead.addr)
            await worker.start()
            await worker.agent.depart()
            await until(lambda: lead.store.nodes["n1"].status.state == NodeStatus.DOWN, "DOWN")
            await worker.leave()

    drive(story)


def test_a_node_that_leaves_as_its_session_ends_says_so_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarmpy.worker.agent.DEPART_S", 10.0)

    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1")
            worker = Worker("n1", tmp_path, lead.addr)
            await worker.start()
            await until(lambda: worker.agent.connected, "a session")
            worker.agent.follow_leader(lead.addr)
            worker.agent.reconnect()
            await worker.agent.depart()
            await until(lambda: lead.store.nodes["n1"].status.state == NodeStatus.DOWN, "DOWN")
            assert lead.store.nodes["n1"].status.message == "the node left the swarm"
            await worker.leave()

    drive(story)


def test_a_node_hears_of_its_role(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1")
            async with working(lead, tmp_path, "n1") as [worker]:
                await until(lambda: lead.store.nodes["n1"].status.state == NodeStatus.READY, "READY")
                node = Node()
                node.CopyFrom(lead.store.nodes["n1"])
                node.spec.role = MANAGER
                await lead.put(node)
                await until(lambda: worker.roles[-1:] == [1], "the role arrives")

    drive(story)


def test_a_changed_description_reaches_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarmpy.worker.agent.DESCRIBE_S", 0.01)

    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1")
            async with working(lead, tmp_path, "n1") as [worker]:
                await until(lambda: lead.store.nodes["n1"].description.hostname == "n1", "as in Hello")
                worker.hostname = "renamed"
                await until(lambda: lead.store.nodes["n1"].description.hostname == "renamed", "as it is now")

    drive(story)


def test_a_task_starts_when_it_is_on_disk(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1")
            async with working(lead, tmp_path, "n1") as [worker]:
                await until(lambda: worker.agent.connected, "connected")
                with sqlite3.connect(worker.state_dir / "tasks.db", isolation_level=None, timeout=30) as other:
                    other.execute("BEGIN EXCLUSIVE")
                    await lead.put(lead.task("t1", "n1"))
                    await lead.pass_time(0)
                    assert worker.executor.calls == []
                    other.execute("ROLLBACK")
                await until(lambda: state(lead, "t1") == RUNNING, "it runs")

    drive(story)


def test_logs_of_all_tasks_are_merged_and_end(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1", "n2")
            async with working(lead, tmp_path, "n1", "n2") as workers:
                await lead.put(lead.task("t1", "n1"), lead.task("t2", "n2", 2))
                await until(lambda: state(lead, "t1") == state(lead, "t2") == RUNNING, "both run")
                for worker, task_id in zip(workers, ("t1", "t2"), strict=True):
                    worker.executor.lines[task_id] = [b"line %d\n" % number for number in range(3000)]
                request = LogRequest(service_ids=["s1"], stdout=True, stderr=True, tail=-1)
                seen: dict[str, int] = {}
                async for batch in lead.dispatcher.subscribe_logs(request):
                    assert not batch.warnings
                    for message in batch.messages:
                        seen[message.task_id] = seen.get(message.task_id, 0) + 1
                assert seen == {"t1": 3000, "t2": 3000}

    drive(story)


def test_following_logs_picks_up_new_tasks_and_ends_with_the_service(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1")
            async with working(lead, tmp_path, "n1") as [worker]:
                worker.executor.lines = {"t1": [b"one\n"], "t2": [b"two\n"]}
                await lead.put(lead.task("t1", "n1"))
                await until(lambda: state(lead, "t1") == RUNNING, "it runs")
                seen: list[bytes] = []

                async def follow() -> None:
                    request = LogRequest(service_ids=["s1"], follow=True, stdout=True, tail=-1)
                    async for batch in lead.dispatcher.subscribe_logs(request):
                        seen.extend(message.data for message in batch.messages)

                following = asyncio.create_task(follow())
                await until(lambda: seen == [b"one\n"], "the first task's line arrives")
                await lead.put(lead.task("t2", "n1", 2))
                await until(lambda: seen == [b"one\n", b"two\n"], "and the new task's")
                transaction = Transaction()
                transaction.remove(lead.store.services["s1"])
                transaction.remove(lead.store.tasks["t1"], lead.store.tasks["t2"])
                await lead.store.commit(transaction)
                await following

    drive(story)


def test_logs_of_a_node_that_is_away_are_missed_aloud(tmp_path: Path) -> None:
    async def story() -> None:
        async with leader() as lead:
            await swarm(lead, "n1")
            await lead.put(lead.task("t1", "n1", state=RUNNING))
            request = LogRequest(task_ids=["t1"], stdout=True, tail=-1)
            warnings = [text async for batch in lead.dispatcher.subscribe_logs(request) for text in batch.warnings]
            assert warnings == ["logs of 1 tasks on node n1 are missing: the node is not connected"]

    drive(story)
