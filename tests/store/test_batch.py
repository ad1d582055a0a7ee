"""Many units at once: the stale ones come back, the others are in."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from swarmpy.manager.store import MemoryLog, NotLeader, Store, Transaction, commit_units
from swarmpy.rpc.types_pb2 import Node


def unit(*nodes: Node) -> Transaction:
    transaction = Transaction()
    transaction.put(*nodes)
    return transaction


def make_store() -> tuple[Store, MemoryLog]:
    ticks = itertools.count(1)
    store = Store(lambda: next(ticks))
    log = MemoryLog(store)
    store.bind(log)
    return store, log


def test_a_stale_unit_does_not_take_the_rest_with_it() -> None:
    async def story() -> None:
        store, log = make_store()
        taken = Node(id="taken")
        await store.commit(unit(taken))
        units = [unit(Node(id=f"a{number}"), Node(id=f"b{number}")) for number in range(1500)]
        stale = unit(Node(id="good"), taken)
        units.insert(700, stale)
        assert await commit_units(store, units) == [stale]
        assert len(store.nodes) == 3001 and "good" not in store.nodes
        assert len(log.entries) < 50

    asyncio.run(story())


def test_losing_the_lead_ends_it() -> None:
    async def story() -> None:
        store, log = make_store()
        log.lead(False)
        with pytest.raises(NotLeader):
            await commit_units(store, [unit(Node(id="n"))])
        assert await commit_units(store, []) == []

    asyncio.run(story())
