"""What a worker can do that somebody took over: it has its certificate, and says with it whatever it likes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from swarmpy.identity import Issuer, JoinToken, KeyPair, NodeIdentity, new_key
from swarmpy.identity.certificates import EPOCH, key_pem, load_certificate, pem, role_of, self_signed, signing_request
from swarmpy.identity.join_credential import joiner_credential
from swarmpy.identity.node_identity import open_channel
from swarmpy.manager.store import Transaction, template_of
from swarmpy.rpc.ca_pb2 import IssueRequest, IssueResponse
from swarmpy.rpc.dispatcher_pb2 import FromAgent, Hello, StatusReport, TaskStatusUpdate, ToAgent
from swarmpy.rpc.types_pb2 import (
    ASSIGNED,
    FAILED,
    REMOVE,
    RUNNING,
    Annotations,
    ContainerSpec,
    NodeDescription,
    NodeRole,
    PortConfig,
    Service,
    ServiceSpec,
    Task,
    TaskSpec,
    TaskStatus,
)
from tests.attacks.wire import METHODS, PATIENCE_S, refusal
from tests.daemon.swarm import Host, hosts

DAY_NS = 86_400 * 10**9
JOINERS = {"/swarmpy.v1.CA/Issue"}
NODES = JOINERS | {
    "/swarmpy.v1.Dispatcher/Session", "/swarmpy.v1.Logs/Publish", "/swarmpy.v1.Membership/Leave",
}  # fmt: skip


@asynccontextmanager
async def swarm(directory: Path, managers: int = 1) -> AsyncIterator[tuple[list[Host], Host, NodeIdentity]]:
    """The managers, a worker that is well, and the identity of one that is in an attacker's hands."""
    async with hosts(directory, managers + 2, 77) as made:
        leader, *others = made
        await leader.init()
        for host in others[: managers - 1]:
            await host.join(leader, NodeRole.MANAGER)
        well, taken = others[managers - 1 :]
        await well.join(leader)
        await taken.join(leader)
        identity = NodeIdentity.load(taken.directory / "certificates")
        await taken.stop()
        yield made[:managers], well, identity


def story(work: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(4 * PATIENCE_S):
            await work()

    asyncio.run(whole())


def test_what_is_the_managers_is_refused_by_every_manager(tmp_path: Path) -> None:
    async def work() -> None:
        async with swarm(tmp_path, 2) as (managers, _, identity):
            token = JoinToken.parse(managers[0].token(NodeRole.WORKER))
            for manager in managers:
                async with identity.channel(manager.addr) as worker:
                    refused = {method for method in METHODS if await refused_for(worker, method)}
                    assert refused == set(METHODS) - NODES, manager.leads
                async with open_channel(manager.addr, joiner_credential(token), identity.root_ca_pem) as joiner:
                    refused = {method for method in METHODS if await refused_for(joiner, method)}
                    assert refused == set(METHODS) - JOINERS, manager.leads

    story(work)


async def refused_for(channel: grpc.aio.Channel, method: str) -> bool:
    code, why = await refusal(channel, method)
    assert code is not grpc.StatusCode.PERMISSION_DENIED or "only managers" in why or "join token" in why, why
    return code is grpc.StatusCode.PERMISSION_DENIED


def test_a_renewal_brings_no_higher_role(tmp_path: Path) -> None:
    async def work() -> None:
        async with swarm(tmp_path) as ((leader,), _, identity):
            async with identity.channel(leader.addr) as channel:
                issue = channel.unary_unary(
                    "/swarmpy.v1.CA/Issue", IssueRequest.SerializeToString, IssueResponse.FromString
                )
                answer = await issue(IssueRequest(csr=signing_request(new_key())), timeout=PATIENCE_S)
                assert (answer.node_id, role_of(load_certificate(answer.certificate))) == (
                    identity.node_id, NodeRole.WORKER,
                )  # fmt: skip
                for request, word in (
                    (IssueRequest(csr=signing_request(new_key()), availability=77), "availability"),  # type: ignore[arg-type]
                    (IssueRequest(csr=b"x" * (1 << 20)), "csr: longer"),
                    (IssueRequest(csr=b"nonsense"), "csr: not a PEM"),
                ):
                    with pytest.raises(grpc.aio.AioRpcError, match=word) as caught:
                        await issue(request, timeout=PATIENCE_S)
                    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    story(work)


def test_certificates_that_do_not_hold_yet_or_any_more(tmp_path: Path) -> None:
    """Made with the swarm's own root, so that nothing but their time is wrong; and by a root of the same name."""

    async def work() -> None:
        async with swarm(tmp_path) as ((leader,), _, identity):
            cluster = leader.manager.store.cluster
            assert cluster is not None
            root = Issuer.load(cluster.root_ca.cert_pem.encode(), cluster.root_ca.key_pem.encode())
            double = self_signed(root.certificate.subject, new_key(), EPOCH, root.certificate.not_valid_after_utc)
            now = time.time_ns()
            for issuer, begins_ns, lets_in in (
                (root, now, True), (root, now - 3 * DAY_NS, False), (root, now + 3 * DAY_NS, False),
                (double, now, False),
            ):  # fmt: skip
                key = new_key()
                certificate = issuer.issue(
                    key.public_key(), node_id=identity.node_id, role=NodeRole.MANAGER, swarm_id=cluster.id,
                    now_ns=begins_ns, lifetime_ns=DAY_NS,
                )  # fmt: skip
                credential = KeyPair(pem(certificate), key_pem(key))
                async with open_channel(leader.addr, credential, identity.root_ca_pem) as channel:
                    code, why = await refusal(channel, "/swarmpy.v1.CA/Issue")
                if lets_in:
                    assert code is grpc.StatusCode.INVALID_ARGUMENT and why.startswith("csr")
                else:
                    assert code is grpc.StatusCode.UNAVAILABLE, why

    story(work)


# ---------------------------------------------------------------------------------------------------- the session


class Session:
    """The worker's stream to the leader."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call: grpc.aio.StreamStreamCall[Any, Any] = channel.stream_stream(
            "/swarmpy.v1.Dispatcher/Session", FromAgent.SerializeToString, ToAgent.FromString
        )(None)
        self.tasks: set[str] = set()
        self.welcomed = False

    async def say(self, message: FromAgent) -> None:
        await self._call.write(message)

    async def hear(self, enough: Callable[[ToAgent], bool]) -> None:
        """Until a message is what was waited for."""
        async with asyncio.timeout(PATIENCE_S):
            while isinstance(message := await self._call.read(), ToAgent):
                self.tasks |= {task.id for task in message.assignments.tasks}
                if enough(message):
                    return
        raise AssertionError(f"the session ended: {await self._call.code()} {await self._call.details()}")

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """How the leader ends it."""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(grpc.aio.AioRpcError):     # the code says it
                while isinstance(await self._call.read(), ToAgent):
                    continue
            return await self._call.code(), await self._call.details() or ""


async def tasks_for(leader: Host, **nodes: str) -> None:
    """A service with a task for each node, by task id."""
    spec = TaskSpec(container=ContainerSpec(image="web"))
    template = template_of(spec)
    service = Service(id="s1", template_id=template.id)
    service.spec.CopyFrom(ServiceSpec(annotations=Annotations(name="web"), task=spec))
    service.spec.mode.replicated.replicas = len(nodes)
    transaction = Transaction()
    transaction.put(template, service)
    for slot, (task_id, node_id) in enumerate(nodes.items(), 1):
        transaction.put(
            Task(
                id=task_id, service_id="s1", service_name="web", slot=slot, node_id=node_id, template_id=template.id,
                desired_state=RUNNING, status=TaskStatus(state=ASSIGNED),
            )
        )  # fmt: skip
    await leader.manager.store.commit(transaction)


HELLO = FromAgent(hello=Hello(description=NodeDescription(hostname="taken")))


def report(task_id: str, sequence: int = 1, **status: Any) -> FromAgent:
    update = TaskStatusUpdate(task_id=task_id, status=TaskStatus(**status))
    return FromAgent(report=StatusReport(sequence=sequence, updates=[update]))


def test_a_worker_sees_and_speaks_for_its_own_tasks_alone(tmp_path: Path) -> None:
    async def work() -> None:
        async with swarm(tmp_path) as ((leader,), well, identity):
            await tasks_for(leader, mine=identity.node_id, theirs=well.id)
            async with identity.channel(leader.addr) as channel:
                session = Session(channel)
                await session.say(HELLO)
                await session.hear(lambda message: message.assignments.complete)
                await session.say(report("theirs", 1, state=FAILED, error="so it seems"))
                await session.say(report("mine", 2, state=RUNNING))
                await session.hear(lambda message: message.stored.sequence == 2)
                assert session.tasks == {"mine"}
            tasks, nodes = leader.manager.store.tasks, leader.manager.store.nodes
            assert (tasks["mine"].status.state, tasks["theirs"].status.state) == (RUNNING, ASSIGNED)
            assert nodes[well.id].description.hostname == well.id[:5]

    story(work)


LARGE = "x" * (1 << 20)
LIES: dict[str, tuple[FromAgent, str]] = {
    "a state that is only desired": (report("mine", state=REMOVE), "state 800"),
    "a state that nobody knows": (report("mine", state=4242), "state 4242"),
    "a port of no protocol": (report("mine", state=RUNNING, host_ports=[PortConfig(protocol=9)]), "host_ports"),  # type: ignore[arg-type]
    "a status that is large": (
        report("mine", state=RUNNING, host_ports=[PortConfig(name=LARGE)]), "a status has 65536 bytes at most",
    ),
    "a description that is large": (
        FromAgent(description=NodeDescription(hostname=LARGE)), "a description has 65536 bytes at most",
    ),
}  # fmt: skip


def test_what_no_agent_says_ends_the_session_and_nobody_elses(tmp_path: Path) -> None:
    """None of it reaches the store, where every manager would keep it and every list would have to show it."""

    async def work() -> None:
        async with swarm(tmp_path) as ((leader,), well, identity):
            await tasks_for(leader, mine=identity.node_id, theirs=well.id)
            async with identity.channel(leader.addr) as channel:
                for name, (lie, word) in LIES.items():
                    session = Session(channel)
                    await session.say(HELLO)
                    await session.hear(lambda message: message.HasField("welcome"))
                    await session.say(lie)
                    code, why = await session.end()
                    assert code is grpc.StatusCode.INVALID_ARGUMENT, name
                    assert identity.node_id in why and word in why
                for hello, word in (
                    (Hello(advertise_addr="the moon"), "advertise_addr must be an IP address"),
                    (Hello(description=NodeDescription(hostname=LARGE)), "a description has"),
                    (Hello(tasks=[TaskStatusUpdate(task_id="mine", status=TaskStatus(state=REMOVE))]), "state 800"),
                ):
                    session = Session(channel)
                    await session.say(FromAgent(hello=hello))
                    code, why = await session.end()
                    assert code is grpc.StatusCode.INVALID_ARGUMENT and word in why
                code, why = await refusal(channel, "/swarmpy.v1.Dispatcher/Session", b"\xff\xff\xff")
                assert code is grpc.StatusCode.INVALID_ARGUMENT, why
                session = Session(channel)
                await session.say(HELLO)
                await session.say(report("mine", 1, state=RUNNING, error=LARGE))
                await session.hear(lambda message: message.stored.sequence == 1)
            store = leader.manager.store
            assert store.tasks["mine"].status.state == RUNNING and len(store.tasks["mine"].status.error) == 4096
            assert store.nodes[identity.node_id].description.hostname == "taken"
            async with asyncio.timeout(PATIENCE_S):
                while not well.active:
                    await asyncio.sleep(0.02)

    story(work)
