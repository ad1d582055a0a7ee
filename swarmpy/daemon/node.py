"""This host's place in a swarm, as the API sees it: alone, joining, worker, manager.

```
              init                     certificate says manager
   alone ------------> manager  <------------------------------- worker
     |  ^                |  ^   ------------------------------->   |
     |  | leave          |  |      certificate says worker         |
     |  +----------------+--|--------------------------------------+
     +------ join ----------+------------------------------------->+

                                      unlock
   start, with autolock ---> locked ----------> manager
```

Owns    the one `Member` there may be, and the moves from alone and back. Moves are made one at a time.
Laws    `state.json` is written last and removed first: a crash in the middle of a move leaves the host alone, and what
        the move had begun is cleared away at the next start.
Source  Docker Engine API: POST /swarm/init, /swarm/join, /swarm/leave.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from swarmpy.api.swarm_node import InitRequest, JoinRequest, LocalState, SwarmManager
from swarmpy.daemon.addresses import Interface, NodeAddresses, resolve_addresses, with_default_port
from swarmpy.daemon.init_swarm import check_init, new_swarm
from swarmpy.daemon.interfaces import check_local, route_source
from swarmpy.daemon.member import MAX_RAFT_ID, Member
from swarmpy.daemon.parts import Parts
from swarmpy.daemon.raft_log import adopt_raft_key
from swarmpy.daemon.swarm_state import SwarmState, forget_swarm, load_state, save_state
from swarmpy.errors import Conflict, Internal, SwarmpyError, Unavailable
from swarmpy.identity import JoinToken, Locked, NodeIdentity, UnlockKey, stored_node_id
from swarmpy.identity.joining import join_swarm
from swarmpy.manager.store import ids_from
from swarmpy.rpc.types_pb2 import NodeRole

__all__ = ["Node"]

log = logging.getLogger(__name__)

SETTLE_PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class LockedNode:
    """What can be known of a node without the unlock key."""

    node_id: str
    state: SwarmState


class Node:
    """Implements `api.swarm_node.SwarmNode`."""

    def __init__(
        self,
        directory: Path,
        parts: Parts,
        interfaces: Callable[[], tuple[Interface, ...]],
        *,
        clock: Callable[[], int],
        random: Random,
    ) -> None:
        """`directory` is `<data>/swarm`; `interfaces` may block; `random` should be a `SystemRandom`."""
        self._directory = directory
        self._parts = parts
        self._interfaces = interfaces
        self._clock = clock
        self._random = random
        self._move = asyncio.Lock()
        self._joining = False
        self._member: Member | None = None
        self._broken = ""
        self._locked: LockedNode | None = None

    # ------------------------------------------------------------------------------------------ what it is

    @property
    def node_id(self) -> str:
        if self._locked is not None:
            return self._locked.node_id
        return self._member.identity.node_id if self._member else ""

    @property
    def node_addr(self) -> str:
        if self._locked is not None:
            return self._locked.state.advertise_ip
        return self._member.state.advertise_ip if self._member else ""

    @property
    def local_state(self) -> LocalState:
        if self._broken:
            return LocalState.ERROR
        if self._locked is not None:
            return LocalState.LOCKED
        if self._member is None:
            return LocalState.PENDING if self._joining else LocalState.INACTIVE
        if self._member.error:
            return LocalState.ERROR
        return LocalState.ACTIVE if self._member.active else LocalState.PENDING

    @property
    def error(self) -> str:
        if self._locked is not None:
            return str(Locked())
        return self._broken or (self._member.error if self._member else "")

    @property
    def manager(self) -> SwarmManager | None:
        return self._member.manager if self._member else None

    @property
    def remote_managers(self) -> tuple[tuple[str, str], ...]:
        member = self._member
        if self._locked is not None:
            return tuple(("", addr) for addr in self._locked.state.managers)
        if member is None:
            return ()
        if member.manager is not None:
            return tuple((peer.node_id, peer.addr) for peer in member.manager.members())
        return tuple(("", addr) for addr in member.managers)

    # ------------------------------------------------------------------------------------------ life

    async def start(self) -> None:
        """Resume what this host was, or wait for the unlock key.

        A damaged state makes it ERROR, never alone: its tasks would be forgotten.
        """
        async with self._move:
            try:
                state = await asyncio.to_thread(load_state, self._directory)
                if state is None:
                    await asyncio.to_thread(forget_swarm, self._directory)
                else:
                    await self._resume(state)
            except SwarmpyError as failure:
                self._broken = str(failure)
                log.error("this host cannot take up its place in the swarm: %s", failure)

    async def _resume(self, state: SwarmState) -> None:
        await asyncio.to_thread(adopt_raft_key, self._directory, self._certificates)
        try:
            identity = await asyncio.to_thread(NodeIdentity.load, self._certificates)
        except Locked as locked:
            self._locked = LockedNode(await asyncio.to_thread(stored_node_id, self._certificates), state)
            log.warning("%s", locked)
        else:
            self._member = self._new_member(identity, state)
            self._member.start()

    async def close(self, *, hand_over: bool = True) -> None:
        """Hand over the lead, then end the swarm's parts. Containers go on."""
        async with self._move:
            if self._member is not None:
                await self._member.close(hand_over=hand_over)

    async def reload(self) -> None:
        """Take up a certificate that was replaced on the disk. Raises what reading it raises; then nothing changed."""
        if self._member is not None:
            await self._member.identity.reload()

    # ------------------------------------------------------------------------------------------ moves

    async def init(self, request: InitRequest) -> str:
        check_init(request)
        async with self._move:
            if self._locked is not None:
                raise Locked
            if self._member is not None and request.force_new_cluster:
                return await self._force_new_cluster(self._member)
            self._check_alone()
            addresses = await self._addresses(request.listen_addr, request.advertise_addr, request.data_path_addr)
            swarm = new_swarm(request, self._clock(), ids_from(self._random))
            state = SwarmState(
                listen_addr=addresses.listen,
                advertise_addr=addresses.advertise,
                data_path_addr=addresses.data_path,
                managers=(addresses.advertise,),
                raft_id=self._random.randint(1, MAX_RAFT_ID),
            )
            await asyncio.to_thread(forget_swarm, self._directory)
            identity = await asyncio.to_thread(NodeIdentity.create, self._certificates, swarm.issued)
            member = self._new_member(identity, state)
            try:
                await member.found(swarm)
            except BaseException:
                await self._abandon(member)
                raise
            self._member = member
        await self._settled(member)
        log.info("began a swarm", extra={"node": self.node_id, "addr": state.advertise_addr})
        return identity.node_id

    async def join(self, request: JoinRequest) -> None:
        token = JoinToken.parse(request.join_token)
        remotes = tuple(with_default_port(addr) for addr in request.remote_addrs)
        async with self._move:
            self._check_alone()
            source = "" if request.advertise_addr else await asyncio.to_thread(route_source, remotes[0])
            addresses = await self._addresses(
                request.listen_addr, request.advertise_addr, request.data_path_addr, source
            )
            self._joining = True
            try:
                await asyncio.to_thread(forget_swarm, self._directory)
                issued = await join_swarm(token, remotes, request.availability)
                identity = await asyncio.to_thread(NodeIdentity.create, self._certificates, issued)
                state = SwarmState(addresses.listen, addresses.advertise, addresses.data_path, remotes)
                await asyncio.to_thread(save_state, self._directory, state)
            finally:
                self._joining = False
            member = self._member = self._new_member(identity, state)
            member.start()
        await self._settled(member)
        log.info("joined a swarm", extra={"node": self.node_id, "role": NodeRole.Name(identity.role).lower()})

    async def leave(self, *, force: bool) -> None:
        async with self._move:
            member = self._member
            if self._locked is not None and not force:
                raise Unavailable(f"{Locked()}; or leave with --force, which gives up what it keeps")
            if member is None and self._locked is None and not self._broken:
                raise Unavailable("This node is not part of a swarm")
            if member is not None:
                if member.identity.role == NodeRole.MANAGER and not force:
                    raise Conflict(_why_not_leave(member))
                await self._leave_raft(member)
                await member.close(hand_over=False, remove_tasks=True)
            else:
                try:
                    await self._parts.end_tasks()
                except Internal as failure:     # what this node kept is damaged: that is why it is left by force
                    log.error("the tasks that this host ran could not be ended: %s", failure)
            self._member, self._locked, self._broken = None, None, ""
            await asyncio.to_thread(forget_swarm, self._directory)
        log.info("left the swarm")

    async def unlock(self, key: str) -> None:
        async with self._move:
            if self._locked is None:
                if self._member is None:
                    raise Unavailable("This node is not part of a swarm")
                raise Conflict("swarm is not locked")
            identity = await asyncio.to_thread(NodeIdentity.load, self._certificates, UnlockKey.parse(key))
            member = self._member = self._new_member(identity, self._locked.state)
            self._locked = None
            member.start()
            log.info("unlocked", extra={"node": self.node_id})
        await member.begun()                    # not until it has a leader: that may take another one to be unlocked

    async def take_unlock_key(self) -> None:
        if self._member is not None:
            await self._member.take_unlock_key()

    async def _force_new_cluster(self, member: Member) -> str:
        if member.identity.role != NodeRole.MANAGER:
            raise Conflict("ForceNewCluster: only a manager has the swarm's state; run it on one")
        if not member.state.voter:
            raise Conflict("ForceNewCluster: this manager may lack some of the swarm's state; run it on another one")
        await member.refound()
        log.warning("the swarm goes on with this manager alone", extra={"node": self.node_id})
        return self.node_id

    # ------------------------------------------------------------------------------------------ pieces

    @property
    def _certificates(self) -> Path:
        return self._directory / "certificates"

    def _new_member(self, identity: NodeIdentity, state: SwarmState) -> Member:
        return Member(self._directory, identity, state, self._parts, clock=self._clock, random=self._random)

    def _check_alone(self) -> None:
        if self._broken:
            raise Conflict(f"this host has a damaged state of a swarm ({self._broken}); leave it with --force first")
        if self._locked is not None:
            raise Locked
        if self._member is not None:
            raise Conflict(
                'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another'
                " one."
            )

    async def _addresses(self, listen: str, advertise: str, data_path: str, source: str = "") -> NodeAddresses:
        interfaces = await asyncio.to_thread(self._interfaces)
        addresses = resolve_addresses(listen, advertise, data_path, interfaces, source)
        await asyncio.to_thread(check_local, addresses.listen)
        return addresses

    async def _abandon(self, member: Member) -> None:
        """Undo a founding that failed."""
        await member.close(hand_over=False)
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    async def _settled(self, member: Member) -> None:
        """Wait until the member has taken up its role, or as long as a client waits."""
        try:
            async with asyncio.timeout(SETTLE_PATIENCE_S):
                await member.settle()
        except TimeoutError:
            reason = f" ({member.error})" if member.error else ""
            raise Unavailable(
                "Timeout was reached before node joined. The attempt to join the swarm will continue in the background."
                f' Use the "docker info" command to see the current swarm status of your node.{reason}'
            ) from None

    async def _leave_raft(self, member: Member) -> None:
        """Have the other managers go on without this one, as far as they can."""
        if member.manager is None or len(member.manager.members()) < 2:
            return
        try:
            await member.manager.leave(member.managers)
        except SwarmpyError as failure:
            log.warning("left without the other managers' consent; demote and remove this node there: %s", failure)


def _why_not_leave(member: Member) -> str:
    told = "You are attempting to leave the swarm on a node that is participating as a manager. "
    voters = [peer for peer in member.manager.members() if peer.voter] if member.manager else []
    if len(voters) <= 1:
        told += "Removing the last manager erases all current state of the swarm. "
    elif sum(peer.reachable for peer in voters) - 1 <= (len(voters) - 1) // 2:
        told += "Removing this node leaves too few reachable managers for a majority. "
    return told + (
        "The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. "
        "Use `--force` to suppress this message."
    )
