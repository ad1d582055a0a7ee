"""Who votes: keeping the Raft configuration and the nodes' roles of one mind.

Owns    `Node.manager`, and the decision when a member joins or leaves the log.
In      `Membership` calls of managers; on the leader, what the store wants each node to be.
Out     changes of the log's configuration, one at a time, and `Node.manager` after them.
Laws    promotion: certificate first, then the vote. Demotion: the vote first, then the certificate. A member is never
        removed when the rest could not form a majority; the leader hands over before it removes itself.
Source  SwarmKit's vocabulary (role manager); Raft thesis, 4.1 and 4.2 for membership changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from swarmpy.errors import Conflict, Forbidden, InvalidArgument, SwarmpyError
from swarmpy.identity.peer import Peer, peer_of
from swarmpy.manager.control import abort
from swarmpy.manager.replicated_log import LogMember, NotLeader, ReplicatedLog
from swarmpy.manager.store import Store, Transaction, Watch
from swarmpy.rpc.membership_pb2 import MemberJoined, MemberJoinRequest, MemberLeaveRequest, MemberLeft
from swarmpy.rpc.membership_pb2_grpc import MembershipServicer as GeneratedServicer
from swarmpy.rpc.types_pb2 import ManagerStatus, Node, NodeRole

__all__ = ["MembershipPlan", "MembershipServicer", "RoleManager", "plan_membership"]

log = logging.getLogger(__name__)

RETRY_S = 2.0

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class MembershipPlan:
    """What the leader is to do so that log and store agree."""

    retire: tuple[LogMember, ...] = ()          # out of the log
    hand_over: bool = False                     # this leader is to go: another must lead first
    record: dict[str, ManagerStatus | None] = field(default_factory=dict)   # Node.manager by node id; None clears


def plan_membership(nodes: Iterable[Node], members: Iterable[LogMember], own_id: str) -> MembershipPlan:
    """Compare the nodes' desired roles with the log's members, as the leader `own_id` sees both."""
    known = {node.id: node for node in nodes}
    members = tuple(members)
    unwanted = [m for m in members if m.node_id not in known or known[m.node_id].spec.role != NodeRole.MANAGER]
    voting = {m.node_id: ManagerStatus(raft_id=m.raft_id, addr=m.addr) for m in members if m.voter}
    record: dict[str, ManagerStatus | None] = {}
    for node in known.values():
        status = voting.get(node.id)
        present = node.manager if node.HasField("manager") else None
        if status != present and not (status is None and any(m.node_id == node.id for m in members)):
            record[node.id] = status
    return MembershipPlan(
        retire=tuple(m for m in unwanted if m.node_id != own_id),
        hand_over=any(m.node_id == own_id for m in unwanted),
        record=record,
    )


async def _change_of_managers(watch: Watch) -> None:
    """Until a node changes that is a manager, was one or is to be one. Workers come and go by the thousand."""
    async for events in watch:
        for event in events:
            if any(isinstance(row, Node) and _is_manager(row) for row in (event.object, event.old)):
                return


def _is_manager(node: Node) -> bool:
    return node.spec.role == NodeRole.MANAGER or node.HasField("manager")


class RoleManager:
    """The leader's stage that carries promotions and demotions into the log, and removed nodes out of it."""

    def __init__(self, store: Store, replicated_log: ReplicatedLog, own_id: str) -> None:
        self._store = store
        self._log = replicated_log
        self._own_id = own_id

    async def run(self) -> None:
        """While this manager leads, until cancelled."""
        with self._store.watch("nodes") as watch:
            change = asyncio.ensure_future(_change_of_managers(watch))
            try:
                while True:
                    settled = await self._reconcile()
                    done, _ = await asyncio.wait({change}, timeout=None if settled else RETRY_S)
                    if done:
                        await change            # raises what ended the watch
                        change = asyncio.ensure_future(_change_of_managers(watch))
            finally:
                change.cancel()

    async def _reconcile(self) -> bool:
        """One pass. False when something could not be done now and must be tried again."""
        if self._store.cluster is None:         # the swarm's first objects are on their way
            return True
        plan = plan_membership(self._store.nodes.values(), self._log.members(), self._own_id)
        settled = await self._record(plan)
        for member in plan.retire:
            try:
                await self._log.remove_member(member.raft_id)
            except Conflict as refusal:
                log.warning("node %s keeps its vote for now: %s", member.node_id, refusal)
                settled = False
            else:
                log.info("removed a manager from Raft", extra={"node": member.node_id})
        if plan.retire:
            after = plan_membership(self._store.nodes.values(), self._log.members(), self._own_id)
            settled = await self._record(after) and settled
        if plan.hand_over:
            log.info("this leader was demoted and hands over")
            await self._log.transfer_leadership()
            settled = False
        return settled

    async def _record(self, plan: MembershipPlan) -> bool:
        transaction = Transaction()
        for node_id, status in plan.record.items():
            node = Node()
            node.CopyFrom(self._store.nodes[node_id])
            node.ClearField("manager")
            if status is not None:
                node.manager.CopyFrom(status)
            transaction.put(node)
        try:
            await self._store.commit(transaction)
        except Conflict:
            return False                        # written to meanwhile; the watch or the retry brings us back
        return True


class MembershipServicer(GeneratedServicer):
    """The Membership service of gRPC, on every manager; see proto/membership.proto."""

    def __init__(self, store: Store, replicated_log: ReplicatedLog) -> None:
        self._store = store
        self._log = replicated_log

    async def Join(self, request: MemberJoinRequest, context: Context) -> MemberJoined:  # noqa: N802
        try:
            await self.join(peer_of(context), request)
        except SwarmpyError as refusal:
            await abort(context, refusal)
        return MemberJoined()

    async def Leave(self, request: MemberLeaveRequest, context: Context) -> MemberLeft:  # noqa: N802
        try:
            await self.leave(peer_of(context))
        except SwarmpyError as refusal:
            await abort(context, refusal)
        return MemberLeft()

    async def join(self, peer: Peer, request: MemberJoinRequest) -> None:
        """Count the peer in. Raises Forbidden for who is not wanted as a manager, NotLeader."""
        self._check_leads()
        peer.require_manager()
        if not request.raft_id or not request.addr:
            raise InvalidArgument("Membership.Join: raft_id and addr must be given")
        node = self._store.nodes.get(peer.node_id)
        if node is None or node.spec.role != NodeRole.MANAGER:
            raise Forbidden(f"node {peer.node_id} is not wanted as a manager; promote it first")
        for member in self._log.members():      # of a life whose Raft state is lost
            if member.node_id == peer.node_id and member.raft_id != request.raft_id:
                await self._log.remove_member(member.raft_id)
        await self._log.add_member(request.raft_id, peer.node_id, request.addr)
        await self._write(peer.node_id, ManagerStatus(raft_id=request.raft_id, addr=request.addr), NodeRole.MANAGER)
        log.info("a manager joined Raft", extra={"node": peer.node_id, "addr": request.addr})

    async def leave(self, peer: Peer) -> None:
        """Count the peer out. Raises Conflict when the rest would have no majority, NotLeader."""
        self._check_leads()
        node_id = peer.require_node().node_id
        for member in self._log.members():
            if member.node_id == node_id:
                await self._log.remove_member(member.raft_id)
        if node_id in self._store.nodes:
            await self._write(node_id, None, NodeRole.WORKER)
        log.info("a manager left Raft", extra={"node": node_id})

    async def _write(self, node_id: str, status: ManagerStatus | None, desired: NodeRole) -> None:
        while True:
            node = Node()
            node.CopyFrom(self._store.nodes[node_id])
            node.ClearField("manager")
            if status is not None:
                node.manager.CopyFrom(status)
            else:
                node.spec.role = desired
            transaction = Transaction()
            transaction.put(node)
            try:
                await self._store.commit(transaction)
                return
            except Conflict:
                continue                        # a status report came between: read again

    def _check_leads(self) -> None:
        leadership = self._log.leadership
        if not leadership.is_leader:
            raise NotLeader(leadership.leader_addr)
