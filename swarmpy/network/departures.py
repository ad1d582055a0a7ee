"""Links of containers that have gone, on their way out of the kernel.

The kernel waits some 20 ms when a network device goes, until no processor can be looking at it any more (rcu_barrier
in net/core/dev.c, netdev_run_todo). Who ends a container does not wait with it. Links that go at the same time are made
one group and deleted together, for which the kernel waits once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable, Sequence

from swarmpy.network import rtnetlink
from swarmpy.network.kernel import Handles
from swarmpy.network.links import ignoring

__all__ = ["Departures"]

log = logging.getLogger(__name__)

GROUP = 0x7377  # of links that are about to be deleted: ip-link(8), "group"; no number is reserved for anybody


class Departures:
    """Departures under way, by owner. On one event loop."""

    def __init__(self) -> None:
        self._gathered: list[str] = []
        self._turn = asyncio.Lock()
        self._under_way: dict[str, set[asyncio.Task[None]]] = {}

    def begin(self, owner: str, links: Sequence[str], then: Callable[[], Awaitable[None]]) -> None:
        """The links named `links` will be gone, and then `then` is done."""
        self._gathered += links
        task = asyncio.create_task(self._depart(then), name=f"links of {owner[:12]}")
        self._under_way.setdefault(owner, set()).add(task)
        task.add_done_callback(lambda task: self._over(owner, task))

    async def over(self, owner: str | None = None) -> None:
        """No departure of `owner`, or of anybody, is under way that had begun."""
        owners = list(self._under_way) if owner is None else [owner]
        tasks = {task for name in owners for task in self._under_way.get(name, ())}
        if tasks:
            await asyncio.wait(tasks)

    async def _depart(self, then: Callable[[], Awaitable[None]]) -> None:
        """Who comes to its turn first takes along all that have gathered; they find nothing left to do."""
        async with self._turn:
            links, self._gathered = self._gathered, []
            if links:
                await asyncio.to_thread(_delete, links)
        await then()

    def _over(self, owner: str, task: asyncio.Task[None]) -> None:
        self._under_way[owner].discard(task)
        if not self._under_way[owner]:
            del self._under_way[owner]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("links of ended containers are left until the next start of the daemon: %s", error)


def _delete(names: Sequence[str]) -> None:
    """None of the links is there. One that has just gone by itself, with its container's namespace, is none."""
    present = [index for index in map(Handles.index_of, names) if index is not None]
    with rtnetlink.RtNetlink() as here:
        if len(present) == 1:
            changes = [rtnetlink.delete_link(present[0])]
        elif present:
            changes = [*(rtnetlink.join_group(index, GROUP) for index in present), rtnetlink.delete_group(GROUP)]
        else:
            changes = []
        for change in changes:
            with ignoring(errno.ENODEV):
                here.change(change)
