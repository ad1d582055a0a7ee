"""RaftLog from the outside: real disks, real streams, one and three members."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path

import pytest

from swarmpy.errors import Conflict
from swarmpy.manager.replicated_log import Leadership, NotLeader
from tests.raft.cluster import Cluster, until


def run(scenario: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


def test_one_member_commits_and_remembers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            leader = await cluster.grow(1)
            assert await leader.log.propose(b"one") == 1
            answers = await asyncio.gather(*(leader.log.propose(b"%d" % number) for number in range(100)))
            assert answers == list(range(2, 102))    # in call order
            with pytest.raises(Conflict, match="does not take"):
                await leader.log.propose(b"no")
            await leader.log.read_barrier()
            index = leader.log.applied_index
            await leader.stop()
            await leader.restart()
            await until(lambda: leader.log.leadership.is_leader, "leadership after the restart")
            assert leader.log.applied_index == index + 1    # the new term's first entry
            assert leader.journal.entries == [b"one", *(b"%d" % number for number in range(100))]

    run(scenario())


def test_three_members_agree_and_survive_the_loss_of_the_leader(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            first = await cluster.grow(3)
            assert [(m.raft_id, m.voter, m.reachable) for m in first.log.members()] == [
                (1, True, True), (2, True, True), (3, True, True),
            ]  # fmt: skip
            await asyncio.gather(*(first.log.propose(b"%d" % number) for number in range(500)))
            await cluster.members[3].log.read_barrier()
            assert len(cluster.members[3].journal.entries) == 500
            with pytest.raises(NotLeader, match=first.addr):
                await cluster.members[2].log.propose(b"x")
            await first.stop()
            second = await cluster.leader()
            assert second is not first
            await second.log.propose(b"after")
            await first.restart()
            await until(lambda: first.journal.entries == second.journal.entries, "the old leader to catch up")

    run(scenario())


def test_leadership_is_told_and_handed_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            leader = await cluster.grow(3)
            told: list[Leadership] = []
            leader.log.on_leadership(told.append)
            await leader.log.transfer_leadership()
            heir = await cluster.leader()
            assert heir is not leader
            assert told[0].is_leader
            assert not told[-1].is_leader
            assert told[-1].leader_addr == heir.addr
            assert told[-1].term > told[0].term
            await heir.log.propose(b"from the heir")

    run(scenario())
