"""A crowd that wakes at once leaves the loop to others in between, and nobody is forgotten."""

from __future__ import annotations

import asyncio

from swarmpy.manager.dispatcher.pace import Pace


def test_a_few_have_their_turn_in_each_turn_of_the_loop_in_order() -> None:
    async def scenario() -> None:
        pace, order, turns = Pace(at_once=3), list[int](), list[int]()

        async def member(number: int) -> None:
            await pace.turn()
            order.append(number)
            turns.append(turn)

        turn = 0
        crowd = [asyncio.create_task(member(number)) for number in range(20)]
        crowd[7].cancel()
        while not all(one.done() for one in crowd):
            await asyncio.sleep(0)
            turn += 1
        assert order == [number for number in range(20) if number != 7]
        assert all(turns.count(each) <= 6 for each in turns), "three that wait, and three that come"
        assert turn >= 6

    asyncio.run(scenario())


def test_one_that_comes_alone_does_not_wait() -> None:
    async def scenario() -> None:
        pace = Pace(at_once=1)
        for _ in range(3):
            waiting = pace.turn()
            try:
                waiting.send(None)
            except StopIteration:
                pass
            else:
                raise AssertionError("it waits")
            await asyncio.sleep(0)

    asyncio.run(scenario())


def test_cancelled_places_are_not_counted() -> None:
    async def scenario() -> None:
        pace = Pace(at_once=1)
        crowd = [asyncio.create_task(pace.turn()) for _ in range(10)]
        await asyncio.sleep(0)
        for one in crowd[:9]:
            one.cancel()
        async with asyncio.timeout(5):
            await crowd[9]

    asyncio.run(scenario())
