"""Agent and dispatcher over mutual TLS: a node is who its certificate says, whatever it claims."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc

from swarmpy.identity import Issued, Issuer, NodeIdentity, PeerGuard, create_root, new_key, peer_of
from swarmpy.identity.certificates import key_pem, pem
from swarmpy.identity.node_identity import SERVER_OPTIONS
from swarmpy.manager.dispatcher import Dispatcher
from swarmpy.rpc.types_pb2 import MANAGER, RUNNING, WORKER, NodeRole
from swarmpy.worker import Agent, describe_host

from ..dispatcher.wire import NODE_HEADER, Leader, drive, leader, until
from ..tcp_way import way_to
from .simulated import RecordingMesh, SimulatedExecutor


def identity(root: Issuer, directory: Path, node_id: str, role: NodeRole) -> NodeIdentity:
    key = new_key()
    leaf = root.issue(
        key.public_key(), node_id=node_id, role=role, swarm_id="s", now_ns=time.time_ns(), lifetime_ns=3600 * 10**9
    )
    return NodeIdentity.create(directory / node_id, Issued(key_pem(key), pem(leaf), pem(root.certificate)))


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[tuple[Leader, str, NodeIdentity]]:
    """A leader with the nodes n1 and n2, behind TLS; its address, and who n1 is."""
    root = create_root("s", time.time_ns())
    manager, worker = identity(root, directory, "m1", MANAGER), identity(root, directory, "n1", WORKER)
    async with leader() as lead:
        await lead.step_down()
        lead.dispatcher = Dispatcher(lead.store, lead.log, lambda context: peer_of(context).require_node().node_id)
        guard = PeerGuard(manager, lambda: None, time.time_ns)
        server = grpc.aio.server(interceptors=[guard], options=SERVER_OPTIONS)
        lead.dispatcher.add_to_server(server)
        port = server.add_secure_port("127.0.0.1:0", manager.server_credentials(lambda: b""))
        await server.start()
        await lead.lead()
        await lead.add_nodes("n1", "n2")
        await lead.add_service()
        yield lead, f"127.0.0.1:{port}", worker
        await lead.step_down()
        await server.stop(None)


@asynccontextmanager
async def working(directory: Path, addr: str, worker: NodeIdentity, claims: str) -> AsyncIterator[Agent]:
    agent = Agent(
        directory / "state", [addr], channel=worker.session_channel, executor=SimulatedExecutor(), mesh=RecordingMesh(),
        describe=lambda: describe_host("h1", "1", {"a": "b"}, worker.root_ca_pem, worker.issuer),
        metadata=((NODE_HEADER, claims),),
    )
    await agent.start()
    running = asyncio.create_task(agent.run())
    try:
        yield agent
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await agent.close()


def test_a_node_gets_the_tasks_of_its_certificate(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path) as (lead, addr, worker), working(tmp_path, addr, worker, claims="n2") as agent:
            first, second = lead.task("t1", "n1"), lead.task("t2", "n2", 2)
            for task in (first, second):
                del task.networks[:]
            await lead.put(first, second)
            await until(lambda: lead.store.tasks["t1"].status.state == RUNNING, "its own task runs")
            assert agent.node_id == "n1" and set(agent.statuses) == {"t1"}
            description = lead.store.nodes["n1"].description
            assert description.resources.memory_bytes > 0 and description.resources.nano_cpus > 0
            assert description.engine_labels == {"a": "b"} and description.cert_issuer_subject

    drive(story)


def test_a_leader_that_stands_still_is_left_though_its_kernel_acknowledges_all(tmp_path: Path) -> None:
    async def story() -> None:
        goes_on = asyncio.Event()
        goes_on.set()
        async with (
            serving(tmp_path) as (_, addr, worker),
            way_to(addr, goes_on.wait) as way,
            working(tmp_path, way, worker, claims="n1") as agent,
        ):
            await until(lambda: agent.connected, "a session")
            goes_on.clear()
            await until(lambda: not agent.connected, "it is left")
            goes_on.set()

    drive(story)
