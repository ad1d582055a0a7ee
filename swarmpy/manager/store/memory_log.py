"""A replicated log of one member, in this process and without a disk.

It keeps every promise of `ReplicatedLog` but durability, for simulations and for tests of what stands above the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swarmpy.errors import NotSupported, SwarmpyError
from swarmpy.manager.replicated_log import Leadership, LogMember, NotLeader, StateMachine

__all__ = ["MemoryLog"]


class MemoryLog:
    """Commits every proposal at the next turn of the event loop, while it leads."""

    def __init__(self, machine: StateMachine, *, node_id: str = "", addr: str = "127.0.0.1:2377") -> None:
        self._machine = machine
        self._node_id, self._addr = node_id, addr
        self._leadership = Leadership(term=1, is_leader=True, leader_addr=addr)
        self._callbacks: list[Callable[[Leadership], None]] = []
        self.entries: list[bytes] = []      # entry i has index i + 1

    @property
    def leadership(self) -> Leadership:
        return self._leadership

    @property
    def applied_index(self) -> int:
        return len(self.entries)

    async def propose(self, data: bytes) -> object:
        self._check_leader()
        await asyncio.sleep(0)              # as a real log does, let others run before the entry is applied
        if not self._leadership.is_leader:
            raise NotLeader(self._leadership.leader_addr, lost=True)
        self.entries.append(data)
        result = self._machine.apply(len(self.entries), data)
        if isinstance(result, SwarmpyError):
            raise result
        return result

    async def read_barrier(self) -> None:
        self._check_leader()

    def members(self) -> tuple[LogMember, ...]:
        leads = self._leadership.is_leader
        return (LogMember(1, self._node_id, self._addr, voter=True, reachable=True, leader=leads),)

    def on_leadership(self, callback: Callable[[Leadership], None]) -> None:
        self._callbacks.append(callback)
        callback(self._leadership)

    def lead(self, leads: bool) -> None:
        """Win or lose the lead."""
        term = self._leadership.term + 1
        self._leadership = Leadership(term=term, is_leader=leads, leader_addr=self._addr if leads else None)
        for callback in self._callbacks:
            callback(self._leadership)

    async def add_member(self, raft_id: int, node_id: str, addr: str) -> None:
        raise NotSupported(f"a log in memory has one member; {addr} cannot be added")

    async def remove_member(self, raft_id: int) -> None:
        raise NotSupported(f"a log in memory has one member; {raft_id} cannot be removed")

    async def transfer_leadership(self) -> None:
        return

    async def close(self) -> None:
        self.lead(False)

    def _check_leader(self) -> None:
        if not self._leadership.is_leader:
            raise NotLeader(self._leadership.leader_addr)
