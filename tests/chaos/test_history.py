"""The judge of histories is judged: by hand, and by a model that is right or that makes one known mistake."""

from __future__ import annotations

from random import Random

import pytest

from tests.chaos.history import Operation, Outcome, violation


def saw(value: str, version: int, began: float, ended: float) -> Operation:
    return Operation(Outcome.SAW, version, value, began, ended)


def wrote(value: str, version: int, began: float, ended: float, outcome: Outcome = Outcome.WROTE) -> Operation:
    return Operation(outcome, version, value, began, ended)


GOOD = {
    "nothing": [],
    "a read, a write, a read": [saw("", 5, 0, 1), wrote("a", 5, 2, 3), saw("a", 9, 4, 5)],
    "a read beside a write sees either": [wrote("a", 5, 0, 9), saw("", 5, 1, 2), saw("a", 7, 3, 4)],
    "of two writes one is refused": [wrote("a", 5, 0, 2), wrote("b", 5, 0, 2, Outcome.REFUSED), saw("a", 7, 3, 4)],
    "a lost answer": [wrote("a", 5, 0, 1, Outcome.UNKNOWN), saw("", 5, 2, 3), saw("a", 7, 4, 5)],
    "a lost request": [wrote("a", 5, 0, 1, Outcome.UNKNOWN), wrote("b", 5, 2, 3), saw("b", 7, 4, 5)],
    "a version without a write": [saw("", 5, 0, 1), saw("", 6, 2, 3), wrote("a", 6, 4, 5)],
}
BAD = {
    "a stale read": [wrote("a", 5, 0, 1), saw("", 5, 2, 3)],
    "a read that goes back": [saw("a", 7, 0, 1), saw("", 5, 2, 3), wrote("a", 5, 0, 3)],
    "a lost write": [wrote("a", 5, 0, 1), saw("", 7, 2, 3)],
    "two writes on one version": [wrote("a", 5, 0, 2), wrote("b", 5, 0, 2)],
    "a refused write took effect": [wrote("a", 5, 0, 1, Outcome.REFUSED), saw("a", 7, 2, 3)],
    "a value from nowhere": [saw("b", 7, 2, 3)],
    "a read from the future": [saw("a", 7, 0, 1), wrote("a", 5, 2, 3)],
    "an unknown write undone": [wrote("a", 5, 0, 1, Outcome.UNKNOWN), saw("a", 7, 2, 3), saw("", 8, 4, 5)],
}


@pytest.mark.parametrize("name", GOOD)
def test_what_one_copy_may_show(name: str) -> None:
    assert violation(GOOD[name]) is None


@pytest.mark.parametrize("name", BAD)
def test_what_one_copy_cannot_show(name: str) -> None:
    assert violation(BAD[name])


def history(rng: Random, mistake: str = "") -> list[Operation]:
    """Of random clients of one copy; a mistake is made once, in the middle."""
    version, value, now = 10, "", 0.0
    older = [(version, value)]
    operations = []
    slip = rng.randint(20, 40) if mistake else -1
    for number in range(60):
        began, point, ended = now - rng.random() * 3, now, now + rng.random() * 3
        now += rng.random()
        if number == slip and mistake == "stale read" and len(older) > 1:
            past = next((pair for pair in reversed(older[:-1]) if pair[1] != value), None)
            if past is not None:
                operations.append(saw(past[1], past[0], now + 20, now + 21))
        if number == slip and mistake == "lost write":
            operations.append(wrote("lost", version, point, point))
            operations.append(saw(value, version, point + 0.1, point + 0.2))
        match rng.randrange(4):
            case 0 | 1:
                operations.append(saw(value, version, began, ended))
            case 2:
                operations.append(saw(value, version, began, point))
                answered = rng.random() < 0.7
                outcome = Outcome.WROTE if answered else Outcome.UNKNOWN
                operations.append(wrote(f"v{number}", version, point, ended, outcome))
                if answered or rng.random() < 0.5:
                    version, value = version + rng.randint(1, 3), f"v{number}"
                    older.append((version, value))
            case 3:
                operations.append(wrote(f"r{number}", older[0][0] - 1, began, ended, Outcome.REFUSED))
    rng.shuffle(operations)
    return operations


@pytest.mark.parametrize("seed", range(300))
def test_histories_of_one_copy_are_accepted(seed: int) -> None:
    assert violation(history(Random(seed))) is None


@pytest.mark.parametrize("mistake", ["stale read", "lost write"])
def test_mistakes_are_found(mistake: str) -> None:
    found = sum(violation(history(Random(seed), mistake)) is not None for seed in range(300))
    made = 300
    assert found > 0.95 * made, f"{found} of {made}"
