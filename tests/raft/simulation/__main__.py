"""Run many seeds, or replay one: `python -m tests.raft.simulation --seeds 1000 --jobs 2`, `... --seed 17 --trace`."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable

from tests.raft.simulation.world import World

REPLAY = "python -m tests.raft.simulation --seed {seed} --trace"


def run_seed(seed: int, trace: Callable[[str], None] | None = None) -> tuple[int, int, str | None]:
    """(writes answered, reads answered, what went wrong)."""
    world = World(seed, trace)
    try:
        world.run()
    except AssertionError as broken:
        place = traceback.format_exc() if trace else ""
        return 0, 0, f"seed {seed} at {world.now} ms: {broken}\nreplay: {REPLAY.format(seed=seed)}\n{place}"
    return world.laws.writes, world.laws.reads, None


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulate Raft clusters under faults.")
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="run this one alone")
    parser.add_argument("--trace", action="store_true", help="print every message and change of role")
    options = parser.parse_args()
    if options.seed is not None:
        *_, wrong = run_seed(options.seed, print if options.trace else None)
        print(wrong or f"seed {options.seed} holds")
        return 1 if wrong else 0
    began = time.monotonic()
    seeds = range(options.first, options.first + options.seeds)
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
