"""The other members, as the event loop knows them: a Link to each, and who has a stream to this one.

Owns    the links, addresses that members told, and who this member says it is.
Laws    Every member has a link from this one, so that each can tell which of the others are there. A link follows its
        member's address. One to a member that is out stays as long as that one is there to be told so, or a moment;
        no wire of it is let in any more, and after a moment none is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random

from swarmpy.identity import NodeIdentity
from swarmpy.manager.raft.driver import Driver
from swarmpy.manager.raft.link import Link
from swarmpy.manager.raft.membership import Membership
from swarmpy.manager.raft.service import Hello
from swarmpy.manager.raft.storage import Identity
from swarmpy.manager.raft.wire import Incoming, Outgoing

__all__ = ["Peers"]

_FAREWELL_S = 10.0    # for a removed member to hear of it


class Peers:
    """The Receiver of a RaftService, and the LinkOwner of its links."""

    def __init__(self, me: Identity, identity: NodeIdentity, driver: Driver, random: Random) -> None:
        self.me = me
        self._identity = identity
        self._driver = driver
        self._random = random
        self._membership = Membership()
        self._links: dict[int, Link] = {}
        self._learned: dict[int, str] = {}      # of peers that spoke to us, for those not in the membership
        self._inbound: set[int] = set()         # peers with a stream to us
        self._closing: set[asyncio.Task[None]] = set()

    def is_inbound(self, member: int) -> bool:
        return member in self._inbound

    def addr_of(self, member: int) -> str | None:
        peer = self._membership.peers.get(member)
        return peer.addr if peer is not None else self._learned.get(member)

    # Links.

    def meet(self, membership: Membership) -> None:
        """These are the members now."""
        self._membership = membership
        for member, peer in membership.peers.items():
            link = self._links.get(member)
            if link is not None and link.addr != peer.addr:
                self._unlink(member)
            if member != self.me.raft_id:
                self._link(member)
        if (self._links.keys() | self._inbound) - membership.peers.keys():
            asyncio.get_running_loop().call_later(_FAREWELL_S, self._part)

    def send(self, messages: Iterable[tuple[int, bytes, bool]]) -> None:
        """Messages that no wire takes: (member, message, whether it is bulk)."""
        for member, message, bulk in messages:
            link = self._link(member)
            if link is not None:
                link.send(message, bulk=bulk)

    def wires_broke(self, members: Iterable[int]) -> None:
        for member in members:
            if member in self._links:
                self._links[member].wire_broke()

    async def close(self) -> None:
        for member in list(self._links):
            self._unlink(member)
        if self._closing:
            await asyncio.gather(*self._closing)

    def _link(self, member: int) -> Link | None:
        """The link to `member`, made if there is none and its address is known."""
        link, addr = self._links.get(member), self.addr_of(member)
        if link is None and addr is not None:
            hello = Hello(self.me.cluster_id, self.me.raft_id, member, self.me.addr)
            link = self._links[member] = Link(hello, addr, self._identity, self, self._random)
        return link

    def _part(self) -> None:
        """Those who are out have had their moment."""
        for member in self._membership.removed & self._inbound:
            self._driver.drop_incoming(member)
        self._unlink_strangers()

    def _unlink_strangers(self) -> None:
        for member in self._links.keys() - self._membership.peers.keys() - self._inbound:
            self._unlink(member)

    def _unlink(self, member: int) -> None:
        link = self._links.pop(member)
        self._driver.drop_outgoing(member)
        task = asyncio.get_running_loop().create_task(link.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # LinkOwner.

    def lost(self, member: int) -> None:
        self._driver.unreachable(member)

    def opened(self, wire: Outgoing) -> None:
        self._driver.add_wire(wire)

    def closed(self, member: int) -> None:
        self._driver.drop_outgoing(member)

    # Receiver.

    def objection(self, hello: Hello) -> str | None:
        if hello.to != self.me.raft_id:
            return f"this is raft member {self.me.raft_id}, not {hello.to}"
        if self.me.cluster_id and hello.cluster_id != self.me.cluster_id:
            return f"raft member {hello.sender} belongs to another cluster"
        return None

    def connected(self, hello: Hello) -> None:
        if not self.me.cluster_id:
            self.me = replace(self.me, cluster_id=hello.cluster_id)
            self._driver.set_identity(self.me)
        self._learned[hello.sender] = hello.addr
        self._inbound.add(hello.sender)
        if hello.sender in self._links:
            self._links[hello.sender].came()

    def objection_to_wire(self, member: int) -> str | None:
        return f"raft member {member} was removed" if member in self._membership.removed else None

    def wired(self, wire: Incoming) -> None:
        self._driver.add_wire(wire)

    def received(self, sender: int, messages: Sequence[bytes]) -> None:
        self._driver.received(sender, messages)

    def parted(self, sender: int) -> None:
        self._inbound.discard(sender)
        self._driver.drop_incoming(sender)
        self._unlink_strangers()

    def disconnected(self, sender: int) -> None:
        """A peer's stream to us broke. When it was the leader's process that died, the next election need not wait."""
        self.parted(sender)
        self._driver.disconnected(sender)
