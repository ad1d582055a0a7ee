"""The life of a large swarm, phase by phase, each ended by what the API or the nodes themselves say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.scale.reads import KINDS, Reads
from bench.scale.report import Phase, Sample, reads_of
from bench.scale.swarm import Swarm

__all__ = ["Life", "Size"]

POLL_S = 0.1
CREATING = 4                     # services created, or removed, at the same time
IMAGE = "scale:1"


@dataclass(frozen=True, slots=True)
class Size:
    nodes: int
    tasks: int
    services: int
    doomed: int                  # nodes that fall silent
    removed: int                 # services removed in the end

    def replicas(self, number: int) -> int:
        """Of service `number`: as even as can be."""
        return self.tasks // self.services + (number < self.tasks % self.services)


@dataclass
class Life:
    """Measures one phase after the other on a swarm. `deadline_s` is each phase's."""

    swarm: Swarm
    reads: Reads
    size: Size
    failed: asyncio.Future[None]
    deadline_s: float
    all_reads: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    samples: list[Sample] = field(default_factory=list)
    _began_s: float = 0.0
    _cpu_s: float = 0.0
    _peak: int = 0
    _next_look_s: float = 0.0

    async def join(self) -> Phase:
        """Every node has a certificate, and a session."""
        self._begin()
        await self._until(lambda: self.swarm.told("joined"), self.size.nodes, "nodes to have a certificate")
        issued_s = self._elapsed()
        await self._until(lambda: self.swarm.told("welcomed"), self.size.nodes, "nodes to be welcomed")
        return self._end("join", self.size.nodes, "nodes", issued_s=issued_s)

    async def start(self) -> Phase:
        """All services are created through the API, and all their tasks are seen running there."""
        self.samples.clear()
        self._begin()
        creating = asyncio.create_task(self._create_all())
        try:
            await self._until(lambda: self.swarm.told("tasks"), self.size.tasks, "tasks to be assigned", keep=True)
            assigned_s = self._elapsed()
            await self._until(lambda: self.reads.running, self.size.tasks, "tasks to run", keep=True)
            await creating
        finally:
            creating.cancel()
        return self._end("start", self.size.tasks, "tasks", assigned_s=assigned_s)

    async def update(self) -> Phase:
        """One service gets another image, a quarter of it at a time."""
        self._begin()
        name, replicas = self.reads.service_name, self.size.replicas(0)
        service = await self.swarm.api.call("GET", f"/services/{name}")
        spec = service["Spec"]
        spec["TaskTemplate"]["ContainerSpec"]["Image"] = "scale:2"
        await self.swarm.api.call(
            "POST", f"/services/{service['ID']}/update", spec, version=service["Version"]["Index"]
        )
        while True:
            self._look()
            shown = await self.swarm.api.call("GET", f"/services/{name}")
            if shown.get("UpdateStatus", {}).get("State") == "completed":
                break
            self._check("the update to end")
            await asyncio.sleep(POLL_S)
        return self._end("update", replicas, "tasks")

    async def death(self) -> Phase:
        """A tenth of the nodes is not heard of any more; all their tasks run elsewhere."""
        self._begin()
        lost = sum(process.told.get("tasks", 0) for process in self.swarm.doomed)
        for process in self.swarm.doomed:
            process.fall_silent()
        await self._until(lambda: self.reads.down, self.size.doomed, "silent nodes to be given up")
        noticed_s = self._elapsed()
        await self._until(lambda: self.reads.running, self.size.tasks, "lost tasks to run elsewhere")
        return self._end("death", lost, "tasks", noticed_s=noticed_s)

    async def remove(self) -> Phase:
        """Services are removed through the API, and the living nodes hold none of their tasks."""
        self._begin()
        gone = sum(self.size.replicas(number) for number in range(self.size.removed))
        before = self._living_tasks()
        removing = asyncio.create_task(
            self._each(self.size.removed, lambda number: self.swarm.api.call("DELETE", f"/services/{_name(number)}"))
        )
        self.reads.service_name = _name(self.size.services - 1) if self.size.removed < self.size.services else ""
        try:
            await self._until(lambda: before - self._living_tasks(), gone, "tasks to be gone")
            await removing
        finally:
            removing.cancel()
        return self._end("remove", gone, "tasks")

    # ------------------------------------------------------------------------------------------ inside

    def _living_tasks(self) -> int:
        return sum(process.told.get("tasks", 0) for process in self.swarm.living)

    async def _create_all(self) -> None:
        await self._each(self.size.services, self._create)

    async def _create(self, number: int) -> None:
        replicas = self.size.replicas(number)
        await self.swarm.api.call("POST", "/services/create", {
            "Name": _name(number),
            "TaskTemplate": {"ContainerSpec": {"Image": IMAGE, "Command": ["serve"]}},
            "Mode": {"Replicated": {"Replicas": replicas}},
            "UpdateConfig": {"Parallelism": max(1, replicas // 4), "Monitor": 10**9},
        })  # fmt: skip
        self.reads.service_name = self.reads.service_name or _name(number)

    async def _each(self, count: int, work: Callable[[int], object]) -> None:
        """`work` for every number below `count`, a few at a time."""
        numbers = iter(range(count))

        async def some() -> None:
            for number in numbers:
                await work(number)  # type: ignore[misc]

        await asyncio.gather(*(some() for _ in range(CREATING)))

    async def _until(self, done: Callable[[], int], wanted: int, what: str, *, keep: bool = False) -> None:
        while (so_far := done()) < wanted:
            self._look(keep=keep)
            self._check(f"{so_far} of {wanted} {what}")
            await asyncio.sleep(POLL_S)
        self._look(keep=keep)

    def _check(self, what: str) -> None:
        if self.failed.done():
            self.failed.result()
        if self._elapsed() > self.deadline_s:
            told = self.swarm.trouble()
            raise RuntimeError(
                f"after {self.deadline_s:g} s, {self._spent_s():.0f} s of them the managers' processor time: {what};"
                f" nodes had trouble {told.total()} times: {told.most_common(3)}"
            )

    def _begin(self) -> None:
        self.reads.take()
        self._began_s = time.monotonic()
        self._next_look_s, self._peak = 0.0, 0
        self._cpu_s = sum(manager.cost().cpu_s for manager in self.swarm.managers)

    def _spent_s(self) -> float:
        return sum(manager.cost().cpu_s for manager in self.swarm.managers) - self._cpu_s

    def _elapsed(self) -> float:
        return time.monotonic() - self._began_s

    def _look(self, *, keep: bool = False) -> None:
        """At memory and time, once a second."""
        at_s = self._elapsed()
        if at_s < self._next_look_s:
            return
        self._next_look_s = at_s + 1.0
        costs = [manager.cost() for manager in self.swarm.managers]
        resident = max(cost.rss_bytes for cost in costs)
        self._peak = max(self._peak, resident)
        if keep:
            cpu_s = sum(cost.cpu_s for cost in costs)
            self.samples.append(Sample(at_s, cpu_s, resident, self.swarm.told("tasks"), self.reads.running))

    def _end(self, name: str, count: int, unit: str, **notes: float) -> Phase:
        seconds = self._elapsed()
        self._next_look_s = 0.0
        self._look()
        taken = self.reads.take()
        for kind, times in taken.items():
            self.all_reads[kind] += times
        cpu_s = self._spent_s()
        notes["broken"] = self.swarm.told("broken")
        pss = max(manager.pss_bytes() for manager in self.swarm.managers)
        return Phase(name, count, unit, seconds, count / seconds, cpu_s, self._peak, pss, reads_of(taken), notes)


def _name(number: int) -> str:
    return f"service{number:04d}"
