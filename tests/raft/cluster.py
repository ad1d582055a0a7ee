"""Real members in one process: real gRPC on loopback, real files, a state machine that is a list."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio

from swarmpy.errors import Conflict
from swarmpy.identity import NodeIdentity, PeerGuard, peer_of
from swarmpy.identity.node_identity import SERVER_OPTIONS
from swarmpy.manager.raft import Network, Options, RaftLog, RaftService
from swarmpy.rpc.types_pb2 import NodeRole
from tests.identity.swarm import Swarm

KEYS = (bytes(range(32)),)
FAST = Options(tick_s=0.02, snapshot_interval=1_000_000, read_timeout_s=5, change_timeout_s=20)


PATIENCE_S = 20.0


class Gate:
    """Work on another thread that stops here until it is let through."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        assert self._open.wait(PATIENCE_S), "nobody opened the gate"

    async def reached(self) -> None:
        """Return once somebody stands before it."""
        assert await asyncio.to_thread(self._reached.wait, PATIENCE_S), "nobody came to the gate"
        self._reached.clear()

    def open(self) -> None:
        """Whoever stands here, or comes, goes through."""
        self._open.set()


class Journal:
    """A state machine that keeps every entry, and refuses those that begin with `no`."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.restored = 0
        self.before_write: Callable[[], None] = lambda: None      # on their threads
        self.before_load: Callable[[], None] = lambda: None

    def apply(self, index: int, data: bytes) -> object:
        if data.startswith(b"no"):
            return Conflict("the journal does not take this")
        self.entries.append(data)
        return len(self.entries)

    def snapshot(self) -> Callable[[], bytes]:
        entries = list(self.entries)

        def write() -> bytes:
            self.before_write()
            return b"".join(struct.pack("<I", len(entry)) + entry for entry in entries)

        return write

    def load(self, index: int, data: bytes) -> Callable[[], None]:
        self.before_load()
        entries = []
        position = 0
        while position < len(data):
            (length,) = struct.unpack_from("<I", data, position)
            entries.append(data[position + 4 : position + 4 + length])
            position += 4 + length

        def replace() -> None:
            self.restored += 1
            self.entries = entries

        return replace


@dataclass
class Member:
    """One member with its server; `stop` and `start` keep address and directory."""

    raft_id: int
    directory: Path
    options: Options
    identity: NodeIdentity
    swarm: Swarm
    addr: str = ""
    port: int = 0
    wire_port: int = 0
    journal: Journal = field(default_factory=Journal)
    server: grpc.aio.Server | None = None
    log: RaftLog = field(init=False)

    @property
    def node_id(self) -> str:
        return f"node-{self.raft_id}"

    async def listen(self) -> Network:
        service = RaftService(self.identity, lambda context: peer_of(context).require_manager().node_id)
        guard = PeerGuard(self.identity, self.swarm.join_roots, time.time_ns)
        self.server = grpc.aio.server(interceptors=[guard], options=SERVER_OPTIONS)
        service.register(self.server)
        credentials = self.identity.server_credentials(lambda: self.swarm.join_roots().pem)
        self.port = self.server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        self.addr = f"127.0.0.1:{self.port}"
        await self.server.start()
        return Network(service, self.identity, "127.0.0.1", self.wire_port)

    async def bootstrap(self) -> None:
        network = await self.listen()
        self.log = await RaftLog.bootstrap(
            self.directory, KEYS, self.journal, network,
            raft_id=self.raft_id, node_id=self.node_id, addr=self.addr, options=self.options,
        )  # fmt: skip

    async def join(self) -> None:
        network = await self.listen()
        self.log = await RaftLog.join(
            self.directory, KEYS, self.journal, network,
            raft_id=self.raft_id, node_id=self.node_id, addr=self.addr, options=self.options,
        )  # fmt: skip

    async def restart(self, *, force_new_cluster: bool = False) -> None:
        network = await self.listen()
        self.journal = Journal()
        force = self.addr if force_new_cluster else None
        self.log = await RaftLog.open(
            self.directory, KEYS, self.journal, network, force_new_cluster=force, options=self.options
        )

    async def stop(self) -> None:
        if self.server is not None:
            server, self.server = self.server, None
            await self.log.close()
            await server.stop(None)


class Cluster:
    """Members by raft id; everything is stopped on exit."""

    def __init__(self, directory: Path, options: Options = FAST) -> None:
        self.directory = directory
        self.options = options
        self.swarm = Swarm()
        self.members: dict[int, Member] = {}

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(member.stop() for member in self.members.values()))

    def new(self, raft_id: int) -> Member:
        identity = self.swarm.node(self.directory / "certificates", f"node-{raft_id}", NodeRole.MANAGER)
        member = Member(raft_id, self.directory / str(raft_id), self.options, identity, self.swarm)
        self.members[raft_id] = member
        return member

    async def grow(self, size: int) -> Member:
        """Have `size` voters; returns the leader."""
        if not self.members:
            await self.new(1).bootstrap()
        leader = await self.leader()
        for raft_id in range(len(self.members) + 1, size + 1):
            member = self.new(raft_id)
            await member.join()
            await leader.log.add_member(raft_id, member.node_id, member.addr)
        return leader

    def running(self) -> list[Member]:
        return [member for member in self.members.values() if member.server is not None]

    async def leader(self) -> Member:
        await until(lambda: any(member.log.leadership.is_leader for member in self.running()), "a leader")
        return next(member for member in self.running() if member.log.leadership.is_leader)


async def until(condition: Callable[[], bool], what: str, within_s: float = 10) -> None:
    """Poll `condition` until it holds."""
    deadline = asyncio.get_running_loop().time() + within_s
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"waited {within_s} s for {what}")
        await asyncio.sleep(0.005)
