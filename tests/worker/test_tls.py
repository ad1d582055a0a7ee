"""Agent and dispatcher over mutual TLS: a node is who its certificate says, whatever it claims."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import grpc

from swarmpy.identity import Issued, Issuer, NodeIdentity, PeerGuard, create_root, new_key, peer_of
from swarmpy.identity.certificates import key_pem, pem
from swarmpy.identity.node_identity import SERVER_OPTIONS
from swarmpy.manager.dispatcher import Dispatcher
from swarmpy.rpc.types_pb2 import MANAGER, RUNNING, WORKER, NodeRole
from swarmpy.worker import Agent, describe_host

from ..dispatcher.wire import NODE_HEADER, drive, leader, until
from .simulated import RecordingMesh, SimulatedExecutor


def identity(root: Issuer, directory: Path, node_id: str, role: NodeRole) -> NodeIdentity:
    key = new_key()
    leaf = root.issue(
        key.public_key(), node_id=node_id, role=role, swarm_id="s", now_ns=time.time_ns(), lifetime_ns=3600 * 10**9
    )
    return NodeIdentity.create(directory / node_id, Issued(key_pem(key), pem(leaf), pem(root.certificate)))


def test_a_node_gets_the_tasks_of_its_certificate(tmp_path: Path) -> None:
    async def story() -> None:
        root = create_root("s", time.time_ns())
        manager, worker = identity(root, tmp_path, "m1", MANAGER), identity(root, tmp_path, "n1", WORKER)
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
            mesh = RecordingMesh()
            agent = Agent(
                tmp_path / "state", [f"127.0.0.1:{port}"], channel=worker.session_channel, executor=SimulatedExecutor(),
                mesh=mesh, describe=lambda: describe_host("h1", "1", {"a": "b"}, worker.root_ca_pem, worker.issuer),
                metadata=((NODE_HEADER, "n2"),),
            )
            await agent.start()
            running = asyncio.create_task(agent.run())
            first, second = lead.task("t1", "n1"), lead.task("t2", "n2", 2)
            for task in (first, second):
                del task.networks[:]
            await lead.put(first, second)
            await until(lambda: lead.store.tasks["t1"].status.state == RUNNING, "its own task runs")
            assert agent.node_id == "n1" and set(agent.statuses) == {"t1"}
            description = lead.store.nodes["n1"].description
            assert description.resources.memory_bytes > 0 and description.resources.nano_cpus > 0
            assert description.engine_labels == {"a": "b"} and description.cert_issuer_subject
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            await agent.close()
            await lead.step_down()
            await server.stop(None)

    drive(story)
