"""The dispatcher over real gRPC: sessions, assignments, reports, the mesh and what a change of leader does."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from swarmpy.errors import Conflict
from swarmpy.manager.dispatcher.dispatcher import peer_address
from swarmpy.manager.dispatcher.sessions import DEFAULT_PERIOD_NS, STALL_NS
from swarmpy.manager.store import Transaction
from swarmpy.rpc.dispatcher_pb2 import TaskStatusUpdate
from swarmpy.rpc.types_pb2 import (
    ASSIGNED,
    FAILED,
    MANAGER,
    PREPARING,
    RUNNING,
    SHUTDOWN,
    ManagerStatus,
    Node,
    NodeStatus,
    TaskStatus,
)

from .wire import FakeAgent, drive, leader, until

S = 1_000_000_000


def test_a_node_that_says_hello_is_ready_and_gets_its_tasks() -> None:
    async def story() -> None:
        async with leader() as lead:
            await lead.add_nodes("n1", "n2")
            await lead.add_service()
            await lead.put(lead.task("t1", "n1"), lead.task("t2", "n2", 2))
            agent = FakeAgent(lead.addr, "n1")
            await agent.hello()
            node = lead.store.nodes["n1"]
            assert node.status.state == NodeStatus.READY, "before it is welcomed"
            await until(lambda: agent.desired == {"t1": RUNNING}, "n1 gets t1 alone")
            assert node.status.addr == "127.0.0.1" and node.description.hostname == "n1"
            assert agent.heard[0].welcome.node_id == "n1"
            assert agent.heard[0].welcome.heartbeat_period_ns == DEFAULT_PERIOD_NS
            assert agent.heard[1].managers.addrs == [lead.addr]
            await lead.put(lead.task("t3", "n1", 3))
            await lead.desire("t1", SHUTDOWN)
            await until(lambda: agent.desired == {"t1": SHUTDOWN, "t3": RUNNING}, "the diff arrives")
            transaction = Transaction()
            transaction.remove(lead.store.tasks["t3"])
            await lead.store.commit(transaction)
            await until(lambda: agent.desired == {"t1": SHUTDOWN}, "the removal arrives")
            templates = [row.id for message in agent.heard for row in message.assignments.templates]
            assert len(templates) == 1
            await agent.close()

    drive(story)


def test_reports_are_answered_when_stored_and_never_move_a_task_back() -> None:
    async def story() -> None:
        async with leader() as lead:
            await lead.add_nodes("n1", "n2")
            await lead.add_service()
            await lead.put(lead.task("t1", "n1"), lead.task("t2", "n2", 2))
            agent = FakeAgent(lead.addr, "n1")
            await agent.hello([TaskStatusUpdate(task_id="t1", status=TaskStatus(state=PREPARING))])
            await until(lambda: lead.store.tasks["t1"].status.state == PREPARING, "Hello's states count")
            await agent.report(t1=RUNNING, t2=FAILED, gone=RUNNING)
            last = await agent.report(t1=PREPARING)
            await until(lambda: agent.stored == last, "both reports are answered")
            assert lead.store.tasks["t1"].status.state == RUNNING
            assert lead.store.tasks["t2"].status.state == ASSIGNED
            last = await agent.report(t1=FAILED)
            await until(lambda: agent.stored == last, "the failure is stored")
            last = await agent.report(t1=RUNNING)
            await until(lambda: agent.stored == last, "a late report is answered too")
            assert lead.store.tasks["t1"].status.state == FAILED
            assert [message.assignments.tasks[0].id for message in agent.heard if message.assignments.tasks] == ["t1"]
            await agent.close()

    drive(story)


def test_many_reports_share_a_transaction_and_survive_conflicting_writers() -> None:
    async def story() -> None:
        async with leader() as lead:
            await lead.add_nodes("n1")
            await lead.add_service()
            tasks = [lead.task(f"t{number}", "n1", number) for number in range(200)]
            await lead.put(*tasks)
            agent = FakeAgent(lead.addr, "n1")
            await agent.hello()
            await until(lambda: len(agent.desired) == 200, "all tasks arrive")
            await until(lambda: lead.store.nodes["n1"].status.state == NodeStatus.READY, "n1 is READY")
            before = len(lead.log.entries)
            for task in tasks:
                last = await agent.report(**{task.id: RUNNING})

            async def meddle() -> None:
                for task in tasks[::10]:
                    while True:
                        try:
                            await lead.desire(task.id, SHUTDOWN)
                            break
                        except Conflict:
                            continue

            await asyncio.gather(meddle(), until(lambda: agent.stored == last, "all reports are stored"))
            assert all(lead.store.tasks[task.id].status.state == RUNNING for task in tasks)
            assert len(lead.log.entries) - before < 180
            await agent.close()

    drive(story)


def test_a_second_session_replaces_the_first() -> None:
    async def story() -> None:
        async with leader() as lead:
            await lead.add_nodes("n1")
            first, second = FakeAgent(lead.addr, "n1"), FakeAgent(lead.addr, "n1")
            await first.hello()
            await second.hello()
            await until(lambda: first.ended, "the first session ends")
            assert first.error is not None and first.error.code() is grpc.StatusCode.ABORTED
            assert not second.ended
            await first.close()
            await second.close()

    drive(story)


def test_a_silent_node_is_down_and_comes_back() -> None:
    async def story() -> None:
        async with leader() as lead:
            await lead.add_nodes("n1", "n2")
            loud, silent = FakeAgent(lead.addr, "n1"), FakeAgent(lead.addr, "n2")
            await loud.hello()
            await silent.hello()
            await until(lambda: lead.store.nodes["n2"].status.state == NodeStatus.READY, "n2 is READY")
            for _ in range(30):
                await loud.beat()
                await lead.pass_time(STALL_NS)
            await until(lambda: lead.store.nodes["n2"].status.state == NodeStatus.DOWN, "n2 is DOWN")
            assert "no heartbeat for" in lead.store.nodes["n2"].status.message
            assert lead.store.nodes["n1"].status.state == NodeStatus.READY
            await until(lambda: silent.ended, "its session ends")
            assert silent.error is not None and silent.error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            again = FakeAgent(lead.addr, "n2")
            await again.hello()
            await until(lambda: lead.store.nodes["n2"].status.state == NodeStatus.READY, "n2 is READY again")
            for agent in (loud, silent, again):
                await agent.close()

    drive(story)


def test_a_silent_node_is_not_given_up_while_its_host_answers() -> None:
    async def story() -> None:
        async with leader() as lead:
            await lead.add_nodes("n1", "n2")
            stopped, dead = FakeAgent(lead.addr, "n1", "192.0.2.1"), FakeAgent(lead.addr, "n2", "192.0.2.2")
            await stopped.hello()
            await dead.hello()
            await until(lambda: lead.store.nodes["n2"].status.state == NodeStatus.READY, "n2 is READY")
            lead.answering.add("192.0.2.1")
            lead.missed = 1
            while lead.store.nodes["n2"].status.state != NodeStatus.DOWN:
                await lead.pass_time(STALL_NS)
            assert set(lead.asked) == {("192.0.2.1", 2377), ("192.0.2.2", 2377)}
            assert lead.asked.count(("192.0.2.1", 2377)) == 2
            assert lead.asked.count(("192.0.2.2", 2377)) <= 3, "asked twice in the period it has"
            assert lead.store.nodes["n1"].status.state == NodeStatus.READY
            while lead.store.nodes["n1"].status.state != NodeStatus.DOWN:
                await lead.pass_time(STALL_NS)
            assert lead.store.nodes["n1"].status.message.endswith("though its host answers")
            await stopped.close()
            await dead.close()

    drive(story)


def test_a_manager_is_asked_where_it_listens() -> None:
    async def story() -> None:
        async with leader() as lead:
            await lead.step_down()
            address = ManagerStatus(raft_id=7, addr="[2001:db8::1]:4242")
            await lead.put(Node(id="m2", status=NodeStatus(state=NodeStatus.READY, addr="192.0.2.1"), manager=address))
            await lead.lead()
            while lead.store.nodes["m2"].status.state != NodeStatus.DOWN:
                await lead.pass_time(STALL_NS)
            assert set(lead.asked) == {("2001:db8::1", 4242)}

    drive(story)


def test_a_stopping_task_is_withdrawn_everywhere_before_its_owner_hears() -> None:
    async def story() -> None:
        async with leader() as lead:
            await lead.add_nodes("n1", "n2")
            await lead.add_service()
            await lead.put(lead.task("t1", "n1"))
            owner, other = FakeAgent(lead.addr, "n1"), FakeAgent(lead.addr, "n2")
            await owner.hello()
            await other.hello()
            await owner.report(t1=RUNNING)
            await until(lambda: owner.endpoints == other.endpoints == {"t1"}, "both have the endpoint")
            await owner.applied()
            await other.applied()
            await lead.desire("t1", SHUTDOWN)
            await until(lambda: owner.endpoints == other.endpoints == set(), "both are told to withdraw it")
            await owner.applied()
            await lead.pass_time(0)
            assert owner.desired == {"t1": RUNNING}
            await other.applied()
            await until(lambda: owner.desired == {"t1": SHUTDOWN}, "now the owner hears")
            await owner.close()
            await other.close()

    drive(story)


def test_a_node_that_does_not_answer_delays_a_stop_by_two_seconds_only() -> None:
    async def story() -> None:
        async with leader() as lead:
            await lead.add_nodes("n1", "n2")
            await lead.add_service()
            await lead.put(lead.task("t1", "n1", state=RUNNING))
            owner, other = FakeAgent(lead.addr, "n1"), FakeAgent(lead.addr, "n2")
            await owner.hello()
            await other.hello()
            await until(lambda: owner.endpoints == other.endpoints == {"t1"}, "both have the endpoint")
            await lead.desire("t1", SHUTDOWN)
            await until(lambda: other.endpoints == set(), "the withdrawal is out")
            assert owner.desired == {"t1": RUNNING}
            lead.clock.ahead += 2 * S
            await until(lambda: owner.desired == {"t1": SHUTDOWN}, "the wait is over")
            await owner.close()
            await other.close()

    drive(story)


def test_only_the_leader_serves_and_sessions_end_with_its_term() -> None:
    async def story() -> None:
        async with leader() as lead:
            await lead.add_nodes("n1")
            agent = FakeAgent(lead.addr, "n1")
            await agent.hello()
            lead.log.lead(False)
            await lead.step_down()
            await until(lambda: agent.ended, "the session ends")
            assert agent.error is not None and agent.error.code() is grpc.StatusCode.FAILED_PRECONDITION
            refused = FakeAgent(lead.addr, "n1")
            await until(lambda: refused.ended, "a follower refuses")
            assert refused.error is not None and refused.error.code() is grpc.StatusCode.FAILED_PRECONDITION
            await agent.close()
            await refused.close()

    drive(story)


def test_nodes_that_do_not_come_back_to_a_new_leader_are_unknown_then_down() -> None:
    async def story() -> None:
        async with leader() as lead:
            await lead.step_down()
            await lead.put(Node(id="n1", status=NodeStatus(state=NodeStatus.READY, addr="192.0.2.1")))
            await lead.lead()
            states = []
            for _ in range(30):
                await lead.pass_time(STALL_NS)
                states.append(lead.store.nodes["n1"].status.state)
            assert list(dict.fromkeys(states)) == [NodeStatus.READY, NodeStatus.UNKNOWN, NodeStatus.DOWN]

    drive(story)


def test_a_removed_node_is_sent_away() -> None:
    async def story() -> None:
        async with leader() as lead:
            await lead.add_nodes("n1")
            agent = FakeAgent(lead.addr, "n1")
            await agent.hello()
            await until(lambda: lead.store.nodes["n1"].status.state == NodeStatus.READY, "n1 is READY")
            transaction = Transaction()
            transaction.remove(lead.store.nodes["n1"])
            await lead.store.commit(transaction)
            await until(lambda: agent.ended, "the session ends")
            assert agent.error is not None and agent.error.code() is grpc.StatusCode.NOT_FOUND
            stranger = FakeAgent(lead.addr, "n9")
            await until(lambda: stranger.ended, "a stranger is refused")
            assert stranger.error is not None and stranger.error.code() is grpc.StatusCode.NOT_FOUND
            await agent.close()
            await stranger.close()

    drive(story)


def test_a_changed_role_reaches_the_node() -> None:
    async def story() -> None:
        async with leader() as lead:
            await lead.add_nodes("n1")
            agent = FakeAgent(lead.addr, "n1")
            await agent.hello()
            await until(lambda: lead.store.nodes["n1"].status.state == NodeStatus.READY, "n1 is READY")
            node = Node()
            node.CopyFrom(lead.store.nodes["n1"])
            node.spec.role = MANAGER
            await lead.put(node)
            news = "the role arrives"
            await until(lambda: any(message.node.node.spec.role == MANAGER for message in agent.heard), news)
            await agent.close()

    drive(story)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:4711", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[fe80::1%25eth0]:4711", "fe80::1"),
        ("unix:/run/x.sock", ""),
    ],
)
def test_a_peer_is_known_by_its_address(peer: str, address: str) -> None:
    assert peer_address(peer) == address
