"""Whole nodes in one process, on addresses 127.x.y.z: real Raft, disks, certificates and gRPC, and an agent that runs
no containers. Enough to see how nodes become and cease to be what they are."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from random import SystemRandom

import grpc
import grpc.aio

from swarmpy.api.swarm_node import InitRequest, JoinRequest, LocalState, SwarmManager
from swarmpy.daemon.node import Node
from swarmpy.daemon.parts import AgentNews, LogStart, OpenLog
from swarmpy.daemon.raft_log import open_raft
from swarmpy.daemon.swarm_state import SwarmState
from swarmpy.errors import Conflict
from swarmpy.identity import NodeIdentity
from swarmpy.identity.joining import leader_of
from swarmpy.manager.manager import Manager
from swarmpy.manager.raft.files import File, Files
from swarmpy.manager.store import Store
from swarmpy.rpc.control_pb2 import UpdateNodeRequest
from swarmpy.rpc.dispatcher_pb2 import FromAgent, Heartbeat, Hello
from swarmpy.rpc.dispatcher_pb2_grpc import DispatcherStub
from swarmpy.rpc.types_pb2 import ClusterSpec, NodeRole, NodeSpec
from swarmpy.worker import describe_host

PORT = 2377
PATIENCE_S = 30.0


class BareAgent:
    """Keeps a session with the leader and passes on what it tells of this node."""

    def __init__(
        self,
        identity: NodeIdentity,
        managers: Sequence[str],
        news: AgentNews,
    ) -> None:
        self._identity = identity
        self.managers = tuple(managers)
        self._news = news
        self.told: list[str] = []
        self.closed = False
        self._connected = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    def follow_leader(self, addr: str) -> None:
        self.told.append(addr)

    def breaks(self, why: str) -> None:
        """As an agent does whose own code fails."""
        self._task.cancel()
        self._news.on_broken(why)

    async def close(self, *, remove_tasks: bool) -> None:
        self.closed = True
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        queue: list[str] = []
        while True:
            queue = queue or list(self.managers)
            addr = queue.pop(0)
            try:
                with self._identity.changes() as changed:
                    async with self._identity.channel(addr) as channel:
                        await _until_either(self._session(channel), changed.wait())
            except grpc.aio.AioRpcError as failure:
                if leader := leader_of(failure):
                    queue.insert(0, leader)
                if failure.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND):
                    self._news.on_refused(failure.details() or "")
            self._connected.clear()
            await asyncio.sleep(0.05)

    async def _session(self, channel: grpc.aio.Channel) -> None:
        call = DispatcherStub(channel).Session()
        roots, issuer = self._identity.root_ca_pem, self._identity.issuer
        hello = Hello(description=describe_host(self._identity.node_id[:5], "1", {}, roots, issuer))
        await call.write(FromAgent(hello=hello))
        beating: asyncio.Task[None] | None = None
        try:
            async for message in call:
                kind = message.WhichOneof("message")
                if kind == "welcome":
                    self._connected.set()
                    beating = asyncio.create_task(_beat(call, message.welcome.heartbeat_period_ns / 1e9))
                elif kind == "node":
                    self._news.on_roots(message.node.root_ca_pem.encode(), message.node.as_of)
                    self._news.on_node(message.node.node)
                elif kind == "managers":
                    self.managers = tuple(message.managers.addrs)
        finally:
            call.cancel()
            if beating is not None:
                beating.cancel()


async def _until_either(work: Coroutine[None, None, None], other: Coroutine[None, None, object]) -> None:
    """Until one of them ends; raises what `work` ended with."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(other)
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        working.cancel()
        waiting.cancel()
        await asyncio.wait({working, waiting})


async def _beat(call: grpc.aio.StreamStreamCall[FromAgent, object], period_s: float) -> None:
    while True:
        await asyncio.sleep(period_s)
        await call.write(FromAgent(heartbeat=Heartbeat()))


class FillingDisk(Files):
    """Of a manager's log: may become full."""

    def __init__(self) -> None:
        self.is_full = False

    def create(self, path: Path) -> File:
        self._take()
        return super().create(path)

    def write(self, file: File, data: memoryview, at: int) -> int:
        self._take()
        return super().write(file, data, at)

    def _take(self) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")


class BareParts:
    def __init__(self, disk: Files) -> None:
        self._disk = disk

    async def open_log(
        self,
        store: Store,
        identity: NodeIdentity,
        state: SwarmState,
        directory: Path,
        start: LogStart,
        on_end: Callable[[str, bool], None],
    ) -> OpenLog:
        return await open_raft(store, identity, state, directory, start, on_end, self._disk)

    async def start_agent(
        self,
        identity: NodeIdentity,
        state: SwarmState,
        news: AgentNews,
    ) -> BareAgent:
        return BareAgent(identity, state.managers, news)

    async def end_tasks(self) -> None:
        return

    async def follow(self, store: Store) -> None:
        return


class Host:
    """One host: a directory, an address, and while it runs a node."""

    def __init__(self, directory: Path, ip: str) -> None:
        self.directory = directory
        self.ip = ip
        self.addr = f"{ip}:{PORT}"
        self.disk = FillingDisk()
        self.node = self._new()

    def _new(self) -> Node:
        return Node(self.directory, BareParts(self.disk), tuple, clock=time.time_ns, random=SystemRandom())

    async def init(self, **changes: object) -> str:
        fields: dict[str, object] = {
            "listen_addr": self.addr, "advertise_addr": self.addr, "data_path_addr": "", "data_path_port": 0,
            "default_addr_pool": (), "subnet_size": 0, "force_new_cluster": False,
            "availability": NodeSpec.ACTIVE, "spec": ClusterSpec(),
        }
        return await self.node.init(InitRequest(**{**fields, **changes}))  # type: ignore[arg-type]  # real fields

    async def join(self, at: Host, role: NodeRole = NodeRole.WORKER, token: str = "", listen_addr: str = "") -> None:
        await self.node.join(
            JoinRequest(
                listen_addr=listen_addr or self.addr,
                advertise_addr=self.addr,
                data_path_addr="",
                remote_addrs=(at.addr,),
                join_token=token or at.token(role),
                availability=NodeSpec.ACTIVE,
            )
        )

    async def restart(self) -> None:
        await self.stop()
        self.node = self._new()
        await self.node.start()

    async def stop(self) -> None:
        await self.node.close()

    def token(self, role: NodeRole) -> str:
        cluster = self.manager.store.cluster
        assert cluster is not None
        return cluster.root_ca.join_token_manager if role == NodeRole.MANAGER else cluster.root_ca.join_token_worker

    @property
    def id(self) -> str:
        return self.node.node_id

    @property
    def manager(self) -> Manager:
        manager: SwarmManager | None = self.node.manager
        assert isinstance(manager, Manager), f"{self.ip} is no manager: {self.node.local_state} {self.node.error}"
        return manager

    @property
    def leads(self) -> bool:
        manager = self.node.manager
        return manager is not None and any(peer.leader and peer.node_id == self.id for peer in manager.members())

    @property
    def active(self) -> bool:
        return self.node.local_state is LocalState.ACTIVE

    async def update(self, other: Host, role: NodeRole) -> None:
        """Promote or demote `other`, through this manager."""
        while True:
            await self.manager.read_barrier()
            node = self.manager.store.nodes[other.id]
            spec = NodeSpec()
            spec.CopyFrom(node.spec)
            spec.role = role
            request = UpdateNodeRequest(id=other.id, version=node.meta.version, spec=spec)
            try:
                await self.manager.control.update_node(request)
                return
            except Conflict as refusal:
                if "out of sequence" not in str(refusal):
                    raise


@asynccontextmanager
async def hosts(directory: Path, count: int, net: int) -> AsyncIterator[list[Host]]:
    """`count` hosts on 127.x.`net`.1 and up, where no other test run of this machine is; stopped at the end."""
    with free_second_octet() as octet:
        made = [Host(directory / str(n), f"127.{octet}.{net}.{n}") for n in range(1, count + 1)]
        try:
            yield made
        finally:
            await asyncio.gather(*(host.node.close(hand_over=False) for host in made))


@contextmanager
def free_second_octet() -> Iterator[int]:
    """One of 1 to 254 that is ours alone until the end: held by the name of a socket, which dies with its process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as holder:
        for octet in range(1, 255):
            try:
                holder.bind(f"\0swarmpy-tests-127.{octet}")
            except OSError:
                continue
            yield octet
            return
        raise AssertionError("254 test runs hold all of 127.0.0.0/8")


async def until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Poll until `condition()`; fails with `what` after `patience_s`."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience_s:.0f} s: {what}"
        await asyncio.sleep(0.02)
