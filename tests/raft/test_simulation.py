"""Some seeds of the simulation; `make simulate SEEDS=N` runs more. What it found has tests in test_paper.py."""

from __future__ import annotations

import pytest

from tests.raft.simulation.__main__ import run_seed


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
