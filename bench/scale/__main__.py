"""`python -m bench.scale --nodes 5000 --tasks 1000000`: one life of a large swarm; writes build/scale.json.

Needs root. Fails when a phase does not end in time; a goal that is missed is printed. Nothing is left afterwards, also
when it is told to end (SIGINT, SIGTERM).
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.scale.phases import Life, Size
from bench.scale.reads import Reads
from bench.scale.report import FULL, Goal, Phase, Sample, goals, line, write
from bench.scale.swarm import nodes, swarm_of

__all__ = ["main", "measure"]

LIVING_PROCESSES = 2
MOST_TROUBLE = 5                 # kinds of trouble of nodes that are told after a phase


async def measure(
    size: Size, managers: int, heartbeat_s: float, start_s: float, deadline_s: float
) -> tuple[list[Phase], list[Sample], list[Goal]]:
    """One life of a swarm. RuntimeError when a phase does not end in time."""
    loop = asyncio.get_running_loop()
    life_task = asyncio.current_task()
    assert life_task is not None
    loop.add_signal_handler(signal.SIGTERM, life_task.cancel)
    failed: asyncio.Future[None] = loop.create_future()
    living = size.nodes - size.doomed
    shares = [living // LIVING_PROCESSES + (number < living % LIVING_PROCESSES) for number in range(LIVING_PROCESSES)]
    phases: list[Phase] = []
    async with swarm_of(managers, heartbeat_s) as swarm:
        reads = Reads(swarm.api)
        life = Life(swarm, reads, size, failed, deadline_s)
        async with nodes(swarm, shares, size.doomed, start_s, failed):
            reading = asyncio.create_task(reads.run())
            told: Counter[str] = Counter()
            try:
                for phase in (life.join, life.start, life.update, life.death, life.remove):
                    phases.append(await phase())
                    print(line(phases[-1]), flush=True)
                    had, told = told, swarm.trouble()
                    for text, times in (told - had).most_common(MOST_TROUBLE):
                        print(f"    {times} x {text}", flush=True)
            finally:
                reading.cancel()
                await asyncio.wait({reading})
    return phases, life.samples, goals(phases, life.all_reads, growth(life.samples, size.tasks))


def growth(samples: Sequence[Sample], tasks: int) -> float:
    """What the managers' processors spent on the last third of the tasks, of what they spent on the first."""

    def cpu_at(running: int) -> float:
        return next((sample.cpu_s for sample in samples if sample.running >= running), samples[-1].cpu_s)

    first = cpu_at(tasks // 3) - samples[0].cpu_s
    last = samples[-1].cpu_s - cpu_at(tasks - tasks // 3)
    return last / first if first > 0 else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--nodes", type=int, default=FULL[0])
    parser.add_argument("--tasks", type=int, default=FULL[1])
    parser.add_argument("--services", type=int, default=0, help="default: one for every 1000 tasks, and at least 4")
    parser.add_argument("--managers", type=int, default=1)
    parser.add_argument(
        "--heartbeat-s", type=float, default=5.0, help="of nodes (5: Docker's default, and what 5,000 nodes are told)"
    )
    parser.add_argument("--start-s", type=float, default=1.0, help="from assignment to running, on a node (1)")
    parser.add_argument("--deadline-s", type=float, default=3600.0, help="of each phase (3600)")
    parser.add_argument("--remove", type=float, default=0.1, help="share of the services removed in the end (0.1)")
    parser.add_argument("--out", type=Path, default=Path("build/scale.json"))
    given = parser.parse_args(arguments)
    services = given.services or max(4, given.tasks // 1000)
    size = Size(given.nodes, given.tasks, services, given.nodes // 10, max(1, int(services * given.remove)))
    phases, samples, met = asyncio.run(
        measure(size, given.managers, given.heartbeat_s, given.start_s, given.deadline_s)
    )
    settings = {name: value for name, value in vars(given).items() if name != "out"} | {"services": services}
    write(given.out, settings, phases, samples, met)
    smaller = size.nodes < FULL[0] or size.tasks < FULL[1]
    for goal in met:
        verdict = ("met, by a smaller swarm" if smaller else "met") if goal.met else "MISSED"
        print(f"goal: {goal.name}: {goal.figure:.4g} {goal.unit} (goal {goal.goal:g} {goal.unit}: {verdict})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
