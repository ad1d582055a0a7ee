"""Committing many small decisions at once.

A stage decides in *units*: writes that only make sense together. Units travel in transactions of many, because one log
entry for each would be slow; and a unit whose objects somebody else changed meanwhile must not take the rest down with
it. So a refused transaction is halved until the stale unit is alone, and that one is dropped: what made it stale is in
the stage's own watch, and it will decide again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from swarmpy.errors import Conflict
from swarmpy.manager.store.store import Store
from swarmpy.manager.store.transaction import Transaction

__all__ = ["commit_units"]

_WRITES_PER_TRANSACTION = 1000      # some 400 kB of tasks

_IN_FLIGHT = 8                      # transactions: enough to fill the log's batches, and little memory


async def commit_units(store: Store, units: Sequence[Transaction]) -> list[Transaction]:
    """Commit every unit that can be, each whole, and return those refused with Conflict.

    Units must not touch each other's objects. A few transactions are in flight at once. Raises NotLeader, and what
    else `Store.commit` raises, once all have ended.
    """
    in_flight = asyncio.Semaphore(_IN_FLIGHT)

    async def commit(pack: Sequence[Transaction]) -> list[Transaction]:
        async with in_flight:
            return await _commit(store, pack)

    results = await asyncio.gather(*map(commit, _packs(units)), return_exceptions=True)
    refused: list[Transaction] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        refused += result
    return refused


async def _commit(store: Store, units: Sequence[Transaction]) -> list[Transaction]:
    try:
        await store.commit(Transaction.joined(units))
    except Conflict:
        if len(units) == 1:
            return list(units)
        middle = len(units) // 2
        return [*await _commit(store, units[:middle]), *await _commit(store, units[middle:])]
    return []


def _packs(units: Sequence[Transaction]) -> list[Sequence[Transaction]]:
    packs: list[Sequence[Transaction]] = []
    start = size = 0
    for place, unit in enumerate(units):
        if size and size + len(unit) > _WRITES_PER_TRANSACTION:
            packs.append(units[start:place])
            start, size = place, 0
        size += len(unit)
    if start < len(units):
        packs.append(units[start:])
    return packs
