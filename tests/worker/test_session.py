"""One stream to a manager, from the agent's end."""

from __future__ import annotations

import asyncio
import random
import socket

import grpc
import pytest

from swarmpy.rpc.dispatcher_pb2 import ToAgent, Welcome
from swarmpy.rpc.types_pb2 import PREPARING, NodeDescription, TaskStatus
from swarmpy.worker.reporter import Reporter
from swarmpy.worker.session import Session

from ..dispatcher.wire import NODE_HEADER, drive, leader, until


def welcomed(_: Welcome) -> None:
    """Nothing else has to know."""


async def hear(_: ToAgent) -> None:
    """What is heard does not matter here."""


def test_a_host_without_a_manager_is_no_manager_that_is_busy() -> None:
    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed_soon:
            addr = f"127.0.0.1:{closed_soon.getsockname()[1]}"
        async with grpc.aio.insecure_channel(addr) as channel:
            session = Session(channel, Reporter(), random.Random(1), ())
            with pytest.raises(grpc.aio.AioRpcError) as refused:          # and not TimeoutError, which waits for one
                await session.serve(NodeDescription(), "", (), welcomed, hear)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE

    drive(story)


def test_a_state_on_the_way_is_told_though_there_is_always_something_else_to_say() -> None:
    async def story() -> None:
        async with leader() as lead, grpc.aio.insecure_channel(lead.addr) as channel:
            await lead.add_nodes("n1")
            await lead.add_service()
            await lead.put(lead.task("t1", "n1"))
            reporter = Reporter()
            session = Session(channel, reporter, random.Random(1), ((NODE_HEADER, "n1"),))
            serving = asyncio.create_task(session.serve(NodeDescription(hostname="n1"), "", (), welcomed, hear))
            reporter.changed("t1", TaskStatus(state=PREPARING), on_its_way=True)
            version = 0

            def is_told() -> bool:
                nonlocal version
                version += 1
                session.mesh_applied(version)
                return lead.store.tasks["t1"].status.state == PREPARING

            await until(is_told, "PREPARING is told")
            serving.cancel()
            await asyncio.wait({serving})

    drive(story)
