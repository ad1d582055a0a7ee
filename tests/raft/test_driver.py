"""RaftLog from the outside: real disks, real streams, one and three members."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from swarmpy.errors import Conflict, Unavailable
from swarmpy.manager.raft import Corrupt, Options
from swarmpy.manager.raft.link import _Backoff
from swarmpy.manager.raft.messages import Snapshot
from swarmpy.manager.raft.progress import Window
from swarmpy.manager.raft.storage import Storage
from swarmpy.manager.replicated_log import Leadership, NotLeader
from tests.raft.cluster import FAST, Cluster, Gate, Member, until


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
            await until(lambda: told[-1].leader_addr == heir.addr, "it to be told who leads")
            assert told[-1].term > told[0].term
            await heir.log.propose(b"from the heir")

    run(scenario())


def test_a_follower_names_a_leader_once_that_one_serves(tmp_path: Path) -> None:
    """A request sent on earlier would be refused: the leader has not applied what was committed before its term."""

    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            leader = await cluster.grow(3)
            await leader.log.propose(b"before")
            named: list[tuple[str, int]] = []

            def note(member: Member, leadership: Leadership) -> None:
                if leadership.leader_addr not in (None, leader.addr):
                    named.append((str(leadership.leader_addr), member.log.applied_index))

            for member in cluster.running():
                member.log.on_leadership(partial(note, member))
            before = leader.log.applied_index
            await leader.stop()
            heir = await cluster.leader()
            await until(lambda: len({addr for addr, _ in named}) == 1 and len(named) >= 2, "both to name the heir")
            assert {addr for addr, _ in named} == {heir.addr}
            assert all(applied > before for _, applied in named)

    run(scenario())


def test_a_member_that_comes_back_is_met_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader may die next, and then the two that are left must hear each other, whatever pauses had come to."""

    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            leader = await cluster.grow(3)
            away, other = (member for member in cluster.running() if member is not leader)
            pauses: list[None] = []
            pause = _Backoff.sleep

            async def pause_long(self: _Backoff, or_until: asyncio.Event | None = None) -> bool:
                pauses.append(None)
                self._next_s = 3600.0
                return await pause(self, or_until)

            monkeypatch.setattr(_Backoff, "sleep", pause_long)
            await away.stop()
            await until(lambda: bool(pauses), "the other to have tried in vain")
            await away.restart()
            await until(lambda: other.log._peers.is_inbound(away.raft_id), "the member to be back")
            await leader.stop()
            await (await cluster.leader()).log.propose(b"next")

    run(scenario())


def test_snapshots_bring_in_a_newcomer_and_shorten_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        options = replace(
            FAST, snapshot_interval=100, log_entries_for_slow_followers=10, window=Window(chunk_bytes=1 << 10)
        )
        async with Cluster(tmp_path, options) as cluster:
            leader = await cluster.grow(1)
            await asyncio.gather(*(leader.log.propose(b"%0100d" % number) for number in range(1000)))
            await cluster.grow(2)
            newcomer = cluster.members[2]
            await newcomer.log.read_barrier()
            assert newcomer.journal.restored == 1
            assert newcomer.journal.entries == leader.journal.entries
            await newcomer.stop()
            await newcomer.restart()
            await until(lambda: newcomer.journal.entries == leader.journal.entries, "the restarted member")
            assert newcomer.journal.restored == 1

    run(scenario())


async def restarts_from_its_snapshot(leader: Member, entries: int) -> None:
    await until(lambda: any(leader.directory.glob("snapshot-*")), "the snapshot")
    await leader.stop()
    await leader.restart()
    assert leader.journal.restored == 1
    await until(lambda: leader.journal.entries == [b"%d" % number for number in range(entries)], "all is there")


def test_a_snapshot_that_takes_long_holds_up_no_entry(tmp_path: Path) -> None:
    async def scenario() -> None:
        options = replace(FAST, snapshot_interval=10, log_entries_for_slow_followers=0)
        async with Cluster(tmp_path, options) as cluster:
            leader = await cluster.grow(1)
            gate = leader.journal.before_write = Gate()
            await asyncio.gather(*(leader.log.propose(b"%d" % number) for number in range(20)))
            await gate.reached()
            await asyncio.gather(*(leader.log.propose(b"%d" % number) for number in range(20, 40)))
            await leader.log.read_barrier()
            gate.open()
            await leader.log.propose(b"40")
            await restarts_from_its_snapshot(leader, entries=41)

    run(scenario())


def test_a_snapshot_whose_file_takes_long_holds_up_no_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    prepare = Storage.prepare

    def prepare_slowly(storage: Storage, snapshot: Snapshot) -> None:
        begun.set()
        go_on.wait(30)
        prepare(storage, snapshot)

    monkeypatch.setattr(Storage, "prepare", prepare_slowly)

    async def scenario() -> None:
        options = replace(FAST, snapshot_interval=10, log_entries_for_slow_followers=0)
        async with Cluster(tmp_path, options) as cluster:
            leader = await cluster.grow(1)
            await asyncio.gather(*(leader.log.propose(b"%d" % number) for number in range(20)))
            try:
                await until(begun.is_set, "the file to be begun")
                await asyncio.gather(*(leader.log.propose(b"%d" % number) for number in range(20, 40)))
                await leader.log.read_barrier()
                assert not any(leader.directory.glob("snapshot-*"))
            finally:
                go_on.set()
            await restarts_from_its_snapshot(leader, entries=40)

    run(scenario())


def test_a_follower_that_reads_a_snapshot_goes_on_following(tmp_path: Path) -> None:
    """It answers heartbeats, stores and acknowledges; it applies once the snapshot is in."""

    async def scenario() -> None:
        options = replace(FAST, snapshot_interval=100, log_entries_for_slow_followers=0)
        async with Cluster(tmp_path, options) as cluster:
            leader = await cluster.grow(1)
            await asyncio.gather(*(leader.log.propose(b"%d" % number) for number in range(200)))
            await until(lambda: any(leader.directory.glob("snapshot-*")), "a snapshot")
            newcomer = cluster.new(2)
            gate = newcomer.journal.before_load = Gate()
            await newcomer.join()
            await leader.log.add_member(2, newcomer.node_id, newcomer.addr)
            await gate.reached()
            await asyncio.gather(*(leader.log.propose(b"%d" % number) for number in range(200, 250)))
            assert newcomer.log.applied_index == 0, "the leader needed its vote for these, and had it"
            gate.open()
            await newcomer.log.read_barrier()
            assert newcomer.journal.entries == leader.journal.entries

    run(scenario())


def test_what_a_follower_holds_while_it_reads_a_snapshot_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries beyond that count as lost on the way, and come again; a majority goes on without it."""
    monkeypatch.setattr("swarmpy.manager.raft.driver._UNAPPLIED_LIMIT_BYTES", 1000)

    async def scenario() -> None:
        options = replace(FAST, snapshot_interval=100, log_entries_for_slow_followers=0)
        async with Cluster(tmp_path, options) as cluster:
            leader = await cluster.grow(2)
            await asyncio.gather(*(leader.log.propose(b"%d" % number) for number in range(200)))
            await until(lambda: any(leader.directory.glob("snapshot-*")), "a snapshot")
            leader.log.set_snapshots(1_000_000, 1_000_000)
            newcomer = cluster.new(3)
            gate = newcomer.journal.before_load = Gate()
            await newcomer.join()
            adding = asyncio.create_task(leader.log.add_member(3, newcomer.node_id, newcomer.addr))
            await gate.reached()
            for number in range(100):
                await leader.log.propose(b"%100d" % number)
            held = await newcomer.log._driver.ask(lambda core: core.log.size(core.log.first_index, core.log.last_index))
            assert held < 5000
            gate.open()
            await adding
            await newcomer.log.read_barrier()
            assert newcomer.journal.entries == leader.journal.entries

    run(scenario())


def test_a_removed_member_learns_it_and_stops(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            leader = await cluster.grow(3)
            await leader.log.remove_member(3)
            ended = await asyncio.wait_for(cluster.members[3].log.ended, 10)
            assert ended.removed
            assert [member.raft_id for member in leader.log.members()] == [1, 2]
            await leader.log.remove_member(3)    # again: nothing to do
            with pytest.raises(Unavailable, match="was removed"):
                await cluster.members[3].log.propose(b"x")
            with pytest.raises(Conflict, match="new raft id"):
                await leader.log.add_member(3, "node-3", cluster.members[3].addr)

    run(scenario())


def test_a_removed_member_that_was_down_learns_it_when_it_is_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            leader = await cluster.grow(3)
            await cluster.members[3].stop()
            await leader.log.remove_member(3)
            await cluster.members[3].restart()
            ended = await asyncio.wait_for(cluster.members[3].log.ended, 10)
            assert ended.removed
            assert leader.log.leadership.is_leader

    run(scenario())


def test_no_removal_that_leaves_no_majority(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            leader = await cluster.grow(3)
            await cluster.members[3].stop()
            await until(lambda: not leader.log.members()[2].reachable, "member 3 to be missed")
            with pytest.raises(Conflict, match="no majority"):
                await leader.log.remove_member(2)

    run(scenario())


def test_a_leader_can_be_removed_by_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            leader = await cluster.grow(3)
            await leader.log.remove_member(1)
            assert (await asyncio.wait_for(leader.log.ended, 10)).removed
            await leader.stop()
            heir = await cluster.leader()
            await heir.log.propose(b"on we go")

    run(scenario())


def test_a_minority_accepts_no_write_and_answers_no_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path, replace(FAST, read_timeout_s=0.5)) as cluster:
            leader = await cluster.grow(3)
            await asyncio.gather(cluster.members[2].stop(), cluster.members[3].stop())
            with pytest.raises(NotLeader) as refused:
                await leader.log.propose(b"lost?")
            assert refused.value.lost
            with pytest.raises(Unavailable, match="majority"):
                await leader.log.read_barrier()

    run(scenario())


def test_force_new_cluster_goes_on_alone_with_all_data_and_keeps_the_old_ones_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            leader = await cluster.grow(3)
            await asyncio.gather(*(leader.log.propose(b"%d" % number) for number in range(50)))
            follower = cluster.members[2]
            await follower.log.read_barrier()
            await asyncio.gather(*(member.stop() for member in cluster.members.values()))
            await follower.restart(force_new_cluster=True)
            await until(lambda: follower.log.leadership.is_leader, "leadership of the new cluster")
            assert follower.journal.entries == [b"%d" % number for number in range(50)]
            assert [member.raft_id for member in follower.log.members()] == [2]
            await follower.log.propose(b"alone")
            await cluster.members[1].restart()
            await cluster.members[3].restart()
            await until(lambda: any(cluster.members[m].log.leadership.is_leader for m in (1, 3)), "the old majority")
            assert follower.log.leadership.is_leader
            newcomer = cluster.new(4)
            await newcomer.join()
            await follower.log.add_member(4, newcomer.node_id, newcomer.addr)
            await newcomer.log.read_barrier()
            assert newcomer.journal.entries == follower.journal.entries

    run(scenario())


def test_a_damaged_log_is_refused_with_advice(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            leader = await cluster.grow(1)
            await leader.log.propose(b"x")
            await leader.stop()
            (segment,) = (tmp_path / "1").glob("log-*")
            with segment.open("r+b") as file:
                file.seek(100)
                file.write(b"noise")
            with pytest.raises(Corrupt, match="docker node demote"):
                await leader.restart()
            assert leader.server is not None
            await leader.server.stop(None)
            leader.server = None

    run(scenario())


def test_a_member_whose_disk_fails_stops_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            leader = await cluster.grow(1)

            def full(self: Storage, writes: object) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(Storage, "write", full)
            with pytest.raises(Unavailable, match="No space left"):
                await leader.log.propose(b"x")
            assert not (await leader.log.ended).removed
            assert not leader.log.leadership.is_leader

    run(scenario())


@pytest.mark.root
def test_a_follower_whose_file_system_is_full_stops_and_comes_back_with_all_it_had_promised(tmp_path: Path) -> None:
    """A real one, with room for two segments of the log."""

    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            leader = await cluster.grow(3)
            follower = cluster.members[3]
            await asyncio.gather(*(leader.log.propose(b"\1" * (512 << 10)) for _ in range(20)))
            ended = await asyncio.wait_for(follower.log.ended, 20)
            assert "No space left on device" in str(ended)
            assert str(follower.directory / "log-") in str(ended)
            assert not ended.removed
            await leader.log.propose(b"without it")
            await follower.stop()
            _mount(follower.directory, "remount,size=100m")
            await follower.restart()
            await until(lambda: follower.journal.entries == leader.journal.entries, "the follower to catch up")

    (tmp_path / "3").mkdir()
    _mount(tmp_path / "3", "size=9m")
    try:
        run(scenario())
    finally:
        subprocess.run(["umount", tmp_path / "3"], check=True)


def _mount(directory: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=True)


def test_a_follower_whose_log_is_damaged_is_refused_and_joins_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            leader = await cluster.grow(3)
            follower = cluster.members[3]
            await asyncio.gather(*(leader.log.propose(b"%d" % number) for number in range(50)))
            await follower.stop()
            segment = next(follower.directory.glob("log-*"))
            data = bytearray(segment.read_bytes())
            data[200] ^= 1
            segment.write_bytes(data)
            with pytest.raises(Corrupt, match="docker node demote"):
                await follower.restart()
            assert follower.server is not None
            await follower.server.stop(None)
            follower.server = None
            await leader.log.remove_member(3)
            newcomer = cluster.new(4)
            await newcomer.join()
            await leader.log.add_member(4, newcomer.node_id, newcomer.addr)
            await newcomer.log.read_barrier()
            assert newcomer.journal.entries == leader.journal.entries

    run(scenario())


def test_a_member_ends_also_when_nobody_waits_for_its_end_any_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            leader = await cluster.grow(1)
            closing = asyncio.create_task(leader.log.close())
            await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait({closing})
            assert closing.cancelled()
            await until(lambda: not leader.log._driver._thread.is_alive(), "the member's thread to end")
            await leader.log.close()

    run(scenario())


def test_a_directory_that_holds_a_log_is_not_founded_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster(tmp_path) as cluster:
            leader = await cluster.grow(1)
            await leader.stop()
            with pytest.raises(Conflict, match="already holds"):
                await leader.bootstrap()
            assert leader.server is not None
            await leader.server.stop(None)
            leader.server = None

    run(scenario())


def test_followers_elect_at_once_when_the_leaders_process_is_gone(tmp_path: Path) -> None:
    """At the default ticks an election timeout is 1 to 2 s; a broken stream makes it a fraction of that."""

    async def scenario() -> None:
        async with Cluster(tmp_path, Options()) as cluster:
            leader = await cluster.grow(3)
            loop = asyncio.get_running_loop()
            began = loop.time()
            await leader.stop()
            heir = await cluster.leader()
            await heir.log.propose(b"next")
            assert loop.time() - began < 1.5

    run(scenario())
