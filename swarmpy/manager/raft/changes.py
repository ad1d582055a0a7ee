"""Changing the members, step by step: each waits for the one before, and for what it presupposes.

Owns    no state: the core says what may be changed when, and the caller may repeat any of this.
Source  Raft thesis, 3.10 (leadership transfer), 4 (membership changes).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swarmpy.errors import Conflict, Unavailable
from swarmpy.manager.raft.core import Raft, Refused
from swarmpy.manager.raft.driver import Driver
from swarmpy.manager.raft.leader import Leader
from swarmpy.manager.raft.membership import Change, ChangeKind, Peer

__all__ = ["Changes", "NotLeading"]


class NotLeading(Refused):
    """This member does not lead, or does no longer."""


class Changes:
    """`patience_s` is for a learner to catch up, and for a change to be committed."""

    def __init__(self, driver: Driver, patience_s: float) -> None:
        self._driver = driver
        self._patience_s = patience_s

    async def add(self, raft_id: int, peer: Peer) -> None:
        """Make `raft_id` a voter. Raises NotLeading, Conflict, Unavailable."""
        driver = self._driver
        membership = await driver.ask(lambda core: core.membership)
        if raft_id not in membership:
            await self._make(Change(ChangeKind.ADD_LEARNER, raft_id, peer))
        elif membership.peers[raft_id] != peer:
            await self._make(Change(ChangeKind.MOVE, raft_id, peer))
        if raft_id in membership.voters:
            return
        target = await driver.ask(lambda core: core.log.last_index)
        await self._until(
            lambda core: not core.is_leader or _has_caught_up(core, raft_id, target),
            f"raft member {raft_id} at {peer.addr} did not catch up;"
            " see that it runs and can be reached, and try again",
        )
        await self._make(Change(ChangeKind.PROMOTE, raft_id))

    async def remove(self, raft_id: int) -> None:
        """Raises NotLeading, Unavailable, and Conflict when the rest could not form a majority."""
        if await self._driver.ask(lambda core: _may_remove(core, raft_id)):
            await self._make(Change(ChangeKind.REMOVE, raft_id))

    async def transfer(self) -> None:
        """Return once another member leads. Nothing happens when this one does not lead or is alone."""
        heir = await self._driver.ask(_begin_transfer)
        if heir is None:
            return
        await self._until(
            lambda core: core.leader not in (None, core.raft_id) or not _is_transferring(core),
            f"raft member {heir} did not take over the leadership",
        )
        if await self._driver.ask(lambda core: core.is_leader):
            raise Unavailable(f"raft member {heir} did not take over the leadership in time; try again")

    async def _make(self, change: Change) -> None:
        """Commit one change of the members, after any other that is under way."""
        committed: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def propose(core: Raft) -> bool:
            if not _leader(core).may_change:
                return False
            self._driver.expect(core.propose_change(change), committed)
            return True

        while not await self._driver.ask(propose):
            await self._until(
                lambda core: not isinstance(core.role, Leader) or core.role.may_change,
                "another change of the managers has not ended: a majority of them must be reachable",
            )
        await committed

    async def _until(self, condition: Callable[[Raft], bool], otherwise: str) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await self._driver.when(condition)
        except TimeoutError:
            raise Unavailable(otherwise) from None


def _leader(core: Raft) -> Leader:
    if not isinstance(core.role, Leader):
        raise NotLeading("this member does not lead")
    return core.role


def _has_caught_up(core: Raft, member: int, target: int) -> bool:
    progress = _leader(core).progress.get(member)
    return progress is not None and progress.match >= target


def _may_remove(core: Raft, member: int) -> bool:
    """Whether `member` is there to be removed. Raises Conflict when the rest could not form a majority."""
    leader, membership = _leader(core), core.membership
    rest = membership.voters - {member}
    reachable = sum(map(leader.is_active, rest))
    if member in membership.voters and reachable < len(rest) // 2 + 1:
        raise Conflict(
            f"raft member {member} cannot be removed: of the {len(rest)} managers left only {reachable} can be "
            f"reached, which is no majority; bring more of them back first"
        )
    return member in membership


def _begin_transfer(core: Raft) -> int | None:
    """Begin to hand over to the most up to date of the others; None when there is nothing to hand over, or nobody."""
    if not isinstance(core.role, Leader):
        return None
    progress = core.role.progress
    heirs = [member for member in progress if member in core.membership.voters and core.role.is_active(member)]
    if not heirs:
        if len(core.membership.voters) > 1:
            raise Unavailable("no other manager can be reached to take over the leadership")
        return None
    heir = max(heirs, key=lambda member: progress[member].match)
    core.transfer(heir)
    return heir


def _is_transferring(core: Raft) -> bool:
    return isinstance(core.role, Leader) and core.role.transferee is not None
