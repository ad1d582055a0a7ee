"""What a node is made of: the one file that knows every room by name.

    Host (daemon/host.py)      runtime, images, network, engine: always
    EngineAgent                worker agent and routing mesh: while the host is a node
    open_raft                  the replicated log of a manager (daemon/raft_log.py)
    Node                       what the API sees of the swarm (daemon/node.py)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import SystemRandom

import grpc.aio
from aiohttp import web

from swarmpy.api.app import create_app
from swarmpy.api.swarm_events import publish_swarm_events
from swarmpy.daemon.config import Config
from swarmpy.daemon.host import Host
from swarmpy.daemon.interfaces import host_interfaces
from swarmpy.daemon.node import Node
from swarmpy.daemon.parts import AgentNews, LogStart, OpenLog
from swarmpy.daemon.raft_log import open_raft
from swarmpy.daemon.swarm_state import SwarmState
from swarmpy.identity import NodeIdentity
from swarmpy.manager.store import Store
from swarmpy.network import Mesh
from swarmpy.rpc.dispatcher_pb2 import NodeState
from swarmpy.rpc.types_pb2 import NodeDescription
from swarmpy.worker import Agent, describe_host
from swarmpy.worker.containers import EngineExecutor

__all__ = ["make_app", "make_node"]

log = logging.getLogger(__name__)

WORKER_DIR = "worker"                   # under <data>/swarm: tasks and managers the agent remembers


def make_node(config: Config, host: Host) -> Node:
    """This host's place in a swarm, not yet started."""
    interfaces = partial(host_interfaces, config.network_prefix)
    return Node(config.swarm_dir, EngineParts(host), interfaces, clock=time.time_ns, random=SystemRandom())


def make_app(host: Host, node: Node) -> web.Application:
    """The Engine API over both."""
    return create_app(host.engine, node)


class EngineParts:
    """`Parts`, from this host's engine."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def open_log(
        self,
        store: Store,
        identity: NodeIdentity,
        state: SwarmState,
        directory: Path,
        start: LogStart,
        on_end: Callable[[str, bool], None],
    ) -> OpenLog:
        return await open_raft(store, identity, state, directory, start, on_end)

    async def start_agent(self, identity: NodeIdentity, state: SwarmState, news: AgentNews) -> EngineAgent:
        agent = EngineAgent(self._host, identity, state, news)
        await agent.start()
        return agent

    async def end_tasks(self) -> None:
        agent = Agent(
            self._host.config.swarm_dir / WORKER_DIR,
            (),
            channel=_no_channel,
            executor=EngineExecutor(self._host.engine, hostname=self._host.config.node_name),
            mesh=Mesh(self._host.config.network_prefix),
            describe=NodeDescription,
        )
        await agent.start()
        try:
            await agent.leave()
        except BaseException:
            await agent.close()             # given up: the tasks that are left go on, and nobody else acts on them
            raise

    async def follow(self, store: Store) -> None:
        await publish_swarm_events(store, self._host.engine.events)


class EngineAgent:
    """`SwarmAgent`: the worker's agent over this host's engine, and its share of the routing mesh."""

    def __init__(self, host: Host, identity: NodeIdentity, state: SwarmState, news: AgentNews) -> None:
        config = host.config
        self._host = host
        self._identity = identity
        self._on_broken = news.on_broken
        self._closing = False
        self._agent = Agent(
            config.swarm_dir / WORKER_DIR,
            state.managers,
            channel=identity.session_channel,
            executor=EngineExecutor(host.engine, hostname=config.node_name),
            mesh=Mesh(config.network_prefix),
            describe=self._describe,
            advertise_addr=state.data_path_addr,
            on_node_state=lambda told: _pass_on(told, news),
            on_removed=news.on_refused,
        )
        self._running: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        return self._agent.connected

    @property
    def managers(self) -> tuple[str, ...]:
        return self._agent.managers

    def follow_leader(self, addr: str) -> None:
        self._agent.follow_leader(addr)

    async def start(self) -> None:
        await self._agent.start()
        self._forget_identity = self._identity.on_change(self._agent.reconnect)
        self._running = asyncio.create_task(self._agent.run(), name="agent")
        self._running.add_done_callback(self._ended)

    async def close(self, *, remove_tasks: bool) -> None:
        self._closing = True
        self._forget_identity()
        if remove_tasks:
            await self._agent.depart()
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        await (self._agent.leave() if remove_tasks else self._agent.close())

    def _ended(self, running: asyncio.Task[None]) -> None:
        if self._closing:
            return
        failure = None if running.cancelled() else running.exception()
        log.critical("the agent broke; tasks go on without it until it is made anew", exc_info=failure)
        self._on_broken(f"the agent broke: {failure!r}" if failure is not None else "the agent was cancelled by nobody")

    def _describe(self) -> NodeDescription:
        config = self._host.config
        roots, issuer = self._identity.root_ca_pem, self._identity.issuer
        return describe_host(config.node_name, self._host.engine.version, dict(config.labels), roots, issuer)


def _no_channel(addr: str, _: float) -> grpc.aio.Channel:
    raise AssertionError(f"an agent that only ends its tasks speaks to nobody, and not to {addr}")


def _pass_on(told: NodeState, news: AgentNews) -> None:
    if told.root_ca_pem:
        news.on_roots(told.root_ca_pem.encode(), told.as_of)
    if told.HasField("node"):
        news.on_node(told.node)
