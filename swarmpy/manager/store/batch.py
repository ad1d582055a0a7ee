"""Committing many small decisions, a few at a time.

A stage decides in *units*: writes that only make sense together. Units travel in transactions of many, because one log
entry for each would be slow; and a unit whose objects somebody else changed meanwhile must not take the rest down with
it. So a refused transaction is halved until the stale unit is alone, and that one is dropped: what made it stale is in
the stage's own watch, and it will decide again.

Units are taken as there is room for them, so a stage that decides as it is asked for the next unit never holds up the
event loop for longer than one transaction takes, however much there is to decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

from swarmpy.errors import Conflict
from swarmpy.manager.store.store import Store
from swarmpy.manager.store.transaction import Transaction

__all__ = ["commit_units"]

_WRITES_PER_TRANSACTION = 100       # some 40 kB of tasks; applied in 2 ms, in which nobody else has a turn

_IN_FLIGHT = 2                      # transactions: one is written while the next is decided; a read waits for both


async def commit_units(store: Store, units: Iterable[Transaction]) -> list[Transaction]:
    """Commit every unit that can be, each whole, and return those refused with Conflict.

    Units must not touch each other's objects. Raises NotLeader, and what else `Store.commit` raises, once no
    transaction is in flight any more; units that were not taken by then are left alone.
    """
    refused: list[Transaction] = []
    in_flight: set[asyncio.Task[list[Transaction]]] = set()
    try:
        for pack in _packs(units):
            in_flight.add(asyncio.create_task(_commit(store, pack)))
            await asyncio.sleep(0)
            if len(in_flight) == _IN_FLIGHT:
                done, in_flight = await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    refused += each.result()
    except asyncio.CancelledError:
        for each in in_flight:
            each.cancel()
        raise
    finally:
        last = await asyncio.gather(*in_flight, return_exceptions=True)
    for result in last:
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


def _packs(units: Iterable[Transaction]) -> Iterator[Sequence[Transaction]]:
    pack: list[Transaction] = []
    size = 0
    for unit in units:
        if size and size + len(unit) > _WRITES_PER_TRANSACTION:
            yield pack
            pack, size = [], 0
        pack.append(unit)
        size += len(unit)
    if pack:
        yield pack
