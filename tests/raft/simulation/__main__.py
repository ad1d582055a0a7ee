"""Run many seeds, or replay one: `python -m tests.raft.simulation --seeds 1000 --jobs 2`, `... --seed 17 --trace`."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial

from tests.raft.simulation.elections import report
from tests.raft.simulation.mutations import MUTATIONS, planted
from tests.raft.simulation.world import World

REPLAY = "python -m tests.raft.simulation --seed {seed} --trace"


def run_seed(seed: int, trace: Callable[[str], None] | None = None) -> tuple[int, int, str | None]:
    """(writes answered, reads answered, what went wrong)."""
    world = World(seed, trace)
    try:
        world.run()
    except Exception as broken:  # noqa: BLE001  a core that fails is as wrong as one that breaks a law
        place = traceback.format_exc() if trace else ""
        what = str(broken) if isinstance(broken, AssertionError) else repr(broken)
        return 0, 0, f"seed {seed} at {world.now} ms: {what}\nreplay: {REPLAY.format(seed=seed)}\n{place}"
    return world.laws.writes, world.laws.reads, None


def find(name: str, seeds: Iterable[int]) -> str | None:
    """The first of `seeds` that finds the bug called `name`, and how; None when none does."""
    with planted(name):
        for seed in seeds:
            *_, wrong = run_seed(seed)
            if wrong is not None:
                return wrong
    return None


def plant_all(seeds: range, jobs: int) -> int:
    """Plant every bug; returns how many were not found."""
    missed = 0
    with multiprocessing.Pool(jobs) as pool:
        found = pool.imap(partial(find, seeds=seeds), MUTATIONS)
        for mutation, wrong in zip(MUTATIONS.values(), found, strict=True):
            missed += wrong is None
            print(f"{mutation.name}: {wrong.splitlines()[0] if wrong else 'NOT FOUND'}", flush=True)
    print(f"{len(MUTATIONS)} bugs planted, {missed} not found")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulate Raft clusters under faults.")
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="run this one alone")
    parser.add_argument("--trace", action="store_true", help="print every message and change of role")
    parser.add_argument("--mutations", action="store_true", help="plant bugs in the core; each must be found")
    parser.add_argument("--elections", action="store_true", help="how long dead leaders take to be replaced")
    options = parser.parse_args()
    if options.seed is not None:
        *_, wrong = run_seed(options.seed, print if options.trace else None)
        print(wrong or f"seed {options.seed} holds")
        return 1 if wrong else 0
    began = time.monotonic()
    seeds = range(options.first, options.first + options.seeds)
    if options.elections:
        for members in (3, 5):
            for line in report(members, seeds):
                print(line, flush=True)
        return 0
    if options.mutations:
        return 1 if plant_all(seeds, options.jobs) else 0
    writes = reads = failures = 0
    with multiprocessing.Pool(options.jobs) as pool:
        for wrote, read, wrong in pool.imap_unordered(run_seed, seeds, chunksize=4):
            writes, reads = writes + wrote, reads + read
            if wrong:
                failures += 1
                print(wrong, flush=True)
    took = time.monotonic() - began
    print(f"{len(seeds)} seeds, {writes} writes and {reads} reads answered, {failures} failures, {took:.1f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
