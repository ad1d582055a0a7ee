"""Some seeds of the simulation; `make simulate SEEDS=N` runs more. What it found has tests in test_paper.py."""

from __future__ import annotations

import pytest

from swarmpy.manager.raft.messages import Entry, EntryKind
from tests.raft.cores import Cores
from tests.raft.simulation.__main__ import find, run_seed
from tests.raft.simulation.elections import BUSY, Election
from tests.raft.simulation.laws import Broken, Laws
from tests.raft.simulation.mutations import MUTATIONS


@pytest.mark.parametrize("block", range(0, 200, 20))
def test_seeds(block: int) -> None:
    for seed in range(block, block + 20):
        *_, wrong = run_seed(seed)
        assert wrong is None, wrong


def test_a_seed_replays_to_the_letter() -> None:
    runs: list[list[str]] = [[], []]
    for lines in runs:
        run_seed(3, lines.append)
    assert runs[0] == runs[1]
    assert len(runs[0]) > 100


@pytest.mark.parametrize("members", [3, 5])
def test_a_dead_leader_is_replaced_within_an_election_timeout_and_a_half_on_a_busy_machine(members: int) -> None:
    """In virtual time, so the machine of the test has no say in it."""
    took = {seed: Election(seed, members, BUSY).time_without_leader() for seed in range(25)}
    assert max(took.values()) < 1500, took


def test_leaders_hold_what_was_committed_in_terms_before_theirs() -> None:
    """And not what a later leader committed before the votes for this one arrived: seed 229 once saw that."""
    leader = Cores.of(1).elect(1)
    laws, entry = Laws(), Entry(leader.log.last_index + 1, 1, EntryKind.NORMAL, b"x")
    laws.decided(2, entry, leader.term + 2)
    laws.elected(1, leader)
    laws.decided(3, entry, leader.term - 1)
    with pytest.raises(Broken, match="lacks the committed entry"):
        laws.elected(1, leader)


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_a_planted_bug_is_found(name: str) -> None:
    """By the seed that found it first; where the core has changed since, by the first that does now."""
    seed = MUTATIONS[name].seed
    wrong = find(name, (seed, *range(500)))
    assert wrong is not None, f"{name} is not noticed: {MUTATIONS[name].breaks}"
