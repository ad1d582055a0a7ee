"""A manager: the log, the store on it, the services other nodes call, and the stages while it leads.

Owns    the gRPC server on this node's listen address, and the order in which the parts start and end.
In      an identity with a manager's certificate, and a replicated log that drives `store`.
Out     Control, Dispatcher, CA, Membership, Logs and the log's own service, all behind one `PeerGuard`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import grpc
import grpc.aio

from swarmpy.errors import Conflict, Forbidden, SwarmpyError, Unavailable
from swarmpy.identity.joining import leader_of
from swarmpy.identity.node_identity import NodeIdentity, server_options
from swarmpy.identity.peer import Peer, PeerGuard, peer_of
from swarmpy.identity.unlock_key import new_unlock_key
from swarmpy.manager.allocator import Allocator
from swarmpy.manager.ca import (
    CertificateAuthority,
    RootRotator,
    begin_rotation,
    granted_role,
    join_roots_of,
    new_join_token,
)
from swarmpy.manager.control import CheckRunnable, Control, ControlServicer, LeaderControl, NewSecrets, received
from swarmpy.manager.dispatcher import Dispatcher
from swarmpy.manager.leader import LeaderStages, Stage
from swarmpy.manager.membership import MembershipServicer, RoleManager
from swarmpy.manager.orchestrator import Orchestrator, TaskReaper
from swarmpy.manager.replicated_log import LogMember, NotLeader, ReplicatedLog
from swarmpy.manager.scheduler import Scheduler
from swarmpy.manager.store import Store, ids_from
from swarmpy.rpc.ca_pb2 import IssueRequest, IssueResponse
from swarmpy.rpc.ca_pb2_grpc import add_CAServicer_to_server
from swarmpy.rpc.control_pb2_grpc import add_ControlServicer_to_server
from swarmpy.rpc.logs_pb2 import LogMessage, LogRequest
from swarmpy.rpc.logs_pb2_grpc import LogsStub
from swarmpy.rpc.membership_pb2 import MemberJoinRequest, MemberLeaveRequest
from swarmpy.rpc.membership_pb2_grpc import MembershipStub, add_MembershipServicer_to_server
from swarmpy.rpc.types_pb2 import NodeRole

__all__ = ["Manager", "ManagerAddresses"]

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

JOIN_PATIENCE_S = 60.0              # an election, and a snapshot of a large store
HAND_OVER_PATIENCE_S = 3.0
STOP_GRACE_S = 0.5
RAFT_METHODS = "/swarmpy.v1.Raft/"
# Who else than managers may call, and what. What is not here is for managers alone.
JOINERS_METHODS = ("/swarmpy.v1.CA/",)
NODES_METHODS = (
    *JOINERS_METHODS, "/swarmpy.v1.Dispatcher/", "/swarmpy.v1.Logs/Publish",
    "/swarmpy.v1.Membership/Leave",     # of itself; repeated by one that is no manager any more
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ManagerAddresses:
    listen: str                     # ip:port
    advertise: str                  # ip:port


class Manager:
    """Implements `api.swarm_node.SwarmManager`. `start` before anything else, `close` at the end."""

    def __init__(
        self,
        identity: NodeIdentity,
        addresses: ManagerAddresses,
        store: Store,
        replicated_log: ReplicatedLog,
        serve_log: Callable[[grpc.aio.Server], None],
        check_runnable: CheckRunnable,
        random: Random,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """`serve_log` puts the log's own service on a server; `random` should be a `SystemRandom`.

        `check_runnable` knows what nodes can run, and raises for a service that they cannot.
        """
        self._identity = identity
        self._addresses = addresses
        self._store = store
        self._log = replicated_log
        new_secrets = NewSecrets(
            new_join_token, new_unlock_key, lambda root_ca, config: begin_rotation(root_ca, config, clock())
        )
        leader = LeaderControl(store, replicated_log, clock, new_secrets, check_runnable)
        self._control = Control(leader, replicated_log, identity.channel)
        self._forget_identity = identity.on_change(self._control.renewed)
        self._dispatcher = Dispatcher(store, replicated_log, lambda context: peer_of(context).require_node().node_id)
        self._stages = LeaderStages(replicated_log, self._make_stages(random, clock))
        self._leading: asyncio.Task[None] | None = None
        guard = PeerGuard(identity, lambda: join_roots_of(store.cluster), clock, self._admit)
        self._server = grpc.aio.server(interceptors=[guard], options=server_options())
        self._ca = CertificateAuthority(store, lambda: replicated_log.leadership, clock, ids_from(random))
        add_CAServicer_to_server(self._ca, self._server)
        add_ControlServicer_to_server(ControlServicer(leader, _managers_only), self._server)
        add_MembershipServicer_to_server(MembershipServicer(store, replicated_log), self._server)
        self._dispatcher.add_to_server(self._server)
        serve_log(self._server)

    def _make_stages(self, random: Random, clock: Callable[[], int]) -> Mapping[str, Callable[[], Stage]]:
        return {
            "allocator": lambda: Allocator(self._store, clock, ids_from(random)),
            "scheduler": lambda: Scheduler(self._store, clock),
            "orchestrator": lambda: Orchestrator(self._store, clock, ids_from(random)),
            "reaper": lambda: TaskReaper(self._store),
            "dispatcher": lambda: self._dispatcher,
            "root rotation": lambda: RootRotator(self._store),
            "membership": lambda: RoleManager(self._store, self._log, self._identity.node_id),
        }

    @property
    def store(self) -> Store:
        return self._store

    @property
    def control(self) -> Control:
        return self._control

    def members(self) -> tuple[LogMember, ...]:
        return self._log.members()

    @property
    def has_leader(self) -> bool:
        """Whether this manager knows of a leader at the moment."""
        leadership = self._log.leadership
        return leadership.is_leader or leadership.leader_addr is not None

    async def read_barrier(self) -> None:
        await self._log.read_barrier()

    async def issue(self, request: IssueRequest) -> IssueResponse:
        """A certificate for this node itself, from the root that its own store has.

        Raises NotLeader unless this manager leads, Forbidden when the store has no such node.
        """
        return await self._ca.issue(Peer(self._identity.node_id, self._identity.role), request)

    # ------------------------------------------------------------------------------------------ life

    async def start(self) -> None:
        """Serve. Raises Conflict when the listen address cannot be had."""
        credentials = self._identity.server_credentials(self._join_root_pem, self._cross_pem)
        try:
            self._server.add_secure_port(self._addresses.listen, credentials)
        except RuntimeError as failure:
            raise Conflict(
                f"cannot listen on {self._addresses.listen}: the address is in use or not of this host;"
                " give another --listen-addr"
            ) from failure
        await self._server.start()
        self._leading = asyncio.create_task(self._stages.run())

    async def join(self, managers: Sequence[str], raft_id: int) -> None:
        """Have the leader count this manager in, as `raft_id`. Returns when it votes.

        Raises Unavailable when no leader is found in a minute, Forbidden when this node is not to be a manager.
        """
        request = MemberJoinRequest(raft_id=raft_id, addr=self._addresses.advertise)
        await self._ask_leader(managers, lambda stub, left_s: stub.Join(request, timeout=left_s), JOIN_PATIENCE_S)

    async def leave(self, managers: Sequence[str]) -> None:
        """Have the leader count this manager out: another one, if this one leads.

        Raises Conflict when the rest would have no majority, Unavailable when no other leader is found.
        """
        await self.hand_over()
        request = MemberLeaveRequest()
        others = [addr for addr in managers if addr != self._addresses.advertise]
        ask: _Ask = lambda stub, left_s: stub.Leave(request, timeout=left_s)  # noqa: E731
        await self._ask_leader(others, ask, HAND_OVER_PATIENCE_S)

    async def hand_over(self) -> None:
        """If this manager leads, let another lead, as far as there is one that can in three seconds."""
        if not self._log.leadership.is_leader:
            return
        try:
            async with asyncio.timeout(HAND_OVER_PATIENCE_S):
                await self._log.transfer_leadership()
        except (TimeoutError, SwarmpyError) as failure:
            log.warning("could not hand over the lead: %s", str(failure) or "no other manager took it in time")

    async def wait_to_lead(self, patience_s: float) -> None:
        """Return once this manager leads. Raises Unavailable when it does not in time."""
        leads = asyncio.Event()
        self._log.on_leadership(lambda leadership: leads.set() if leadership.is_leader else leads.clear())
        try:
            async with asyncio.timeout(patience_s):
                await leads.wait()
        except TimeoutError:
            raise Unavailable(f"this manager did not come to lead within {patience_s:.0f} s") from None

    async def close(self) -> None:
        """Stop leading, serving and voting, in this order. What is committed stays on the disk."""
        self._forget_identity()
        if self._leading is not None:
            self._leading.cancel()
            await asyncio.wait({self._leading})
        await self._control.close()
        await self._log.close()
        await self._server.stop(STOP_GRACE_S)

    # ------------------------------------------------------------------------------------------ logs

    async def logs(self, request: LogRequest) -> AsyncIterator[LogMessage]:
        """Lines from all nodes. Raises Unavailable without a leader, or at the end when lines of a node are missing."""
        warnings: list[str] = []
        leadership = self._log.leadership
        if leadership.is_leader:
            async for batch in self._dispatcher.subscribe_logs(request):
                warnings += batch.warnings
                for message in batch.messages:
                    yield message
        elif leadership.leader_addr is None:
            raise NotLeader(None)
        else:
            async with self._identity.channel(leadership.leader_addr) as channel:
                try:
                    async for batch in LogsStub(channel).Subscribe(request):
                        warnings += batch.warnings
                        for message in batch.messages:
                            yield message
                except grpc.aio.AioRpcError as failure:
                    raise received(failure) from failure
        for warning in warnings:
            log.warning("logs of a service are incomplete: %s", warning)

    # ------------------------------------------------------------------------------------------ peers

    def _admit(self, peer: Peer, method: str) -> Peer:
        """The peer as it stands now, if it may call `method`. Raises Forbidden."""
        peer = self._present(peer, method)
        if not method.startswith(JOINERS_METHODS):
            peer.require_node()
        if not method.startswith(NODES_METHODS):
            peer.require_manager()
        return peer

    def _present(self, peer: Peer, method: str) -> Peer:
        """The leader's second look at a node: is it still one, and still a manager?

        The Raft stream is judged by certificate alone: a manager that lags must hear a leader it does not know yet. So
        is every call on a manager that does not lead, for all it does is name the leader.
        """
        if not peer.node_id or method.startswith(RAFT_METHODS) or not self._log.leadership.is_leader:
            return peer
        node = self._store.nodes.get(peer.node_id)
        if node is None:
            raise Forbidden(f"node {peer.node_id} was removed from the swarm; join again with a token")
        return peer if granted_role(node) == peer.role else replace(peer, role=NodeRole.WORKER)

    def _join_root_pem(self) -> bytes:
        roots = join_roots_of(self._store.cluster)
        return roots.pem if roots is not None else b""

    def _cross_pem(self) -> bytes:
        cluster = self._store.cluster
        return cluster.root_ca.rotation.cross_pem.encode() if cluster is not None else b""

    async def _ask_leader(self, managers: Sequence[str], ask: _Ask, patience_s: float) -> None:
        """Call the leader, found by way of any of `managers`, for at most `patience_s`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        told = "no other manager is known"
        queue: list[str] = []
        while (left_s := deadline - loop.time()) > 0:
            if not queue:
                queue = [addr for addr in managers if addr != self._addresses.advertise]
            if not queue:
                break
            addr = queue.pop(0)
            try:
                async with self._identity.channel(addr) as channel:
                    await ask(MembershipStub(channel), left_s)
                    return
            except grpc.aio.AioRpcError as failure:
                refusal = received(failure)
                told = f"{addr}: {refusal}"
                if not isinstance(refusal, Unavailable):
                    raise refusal from failure
                leader = leader_of(failure)
                if leader is not None and leader != self._addresses.advertise:
                    queue.insert(0, leader)
                await asyncio.sleep(0.1)        # between attempts; an election takes longer than this
        raise Unavailable(f"the leader of the swarm was not found in time ({told})")


_Ask = Callable[[Any, float], Awaitable[Any]]


def _managers_only(context: Context) -> None:
    peer_of(context).require_manager()
