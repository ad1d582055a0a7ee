"""The stages as transcripts: what a swarm does, told line by line, in `stories/*.txt`.

A story is a list of commands, each followed by `----` and by all that happened because of it, until every stage rests.
Nodes report at once. `SWARMPY_REWRITE_STORIES=1 pytest tests/orchestrator/test_stories.py` writes down what happens
now, so that a change of behaviour is seen in review as a change of story.
"""

from __future__ import annotations

import os
import string
from collections.abc import Callable
from pathlib import Path

import pytest

from swarmpy.manager.store import Event, EventKind
from swarmpy.rpc.types_pb2 import (
    COMPLETE,
    FAILED,
    RUNNING,
    Node,
    NodeSpec,
    NodeStatus,
    Service,
    ServiceSpec,
    Task,
    TaskState,
    UpdateStatus,
)
from tests.orchestrator.simulation import Simulation, apply_option, service_spec, simulate

STORIES = sorted((Path(__file__).parent / "stories").glob("*.txt"))


class Teller:
    """Turns log entries into lines: one for each object and command, with the whole way it went."""

    def __init__(self, sim: Simulation) -> None:
        self._watch = sim.store.watch("nodes", "services", "tasks")
        sim.laws.watchers.append(lambda: self._note(self._watch.take()))
        self._letters: dict[str, str] = {}
        self._used: dict[tuple[str, int], int] = {}
        self._ways: dict[tuple[str, str], list[str]] = {}
        self._removed: list[str] = []

    def tell(self) -> str:
        """All that happened since the last time, and forget it."""
        lines = [f"{label}  {' -> '.join(way)}" for (label, _), way in self._ways.items()]
        lines += [f"{label}  deleted" for label in self._removed]
        self._ways, self._removed = {}, []
        return "\n".join(sorted(lines))

    def _note(self, events: tuple[Event, ...]) -> None:
        for event in events:
            row, old = event.object, event.old
            if isinstance(row, Task):
                self._note_task(event.kind, row, old if isinstance(old, Task) else None)
            elif isinstance(row, Node) and isinstance(old, Node):
                self._go(row.id, "", *(NodeStatus.State.Name(node.status.state) for node in (old, row)))
                availability = (NodeSpec.Availability.Name(node.spec.availability) for node in (old, row))
                self._go(row.id, "availability", *availability)
            elif isinstance(row, Service):
                before = old.update_status if isinstance(old, Service) else UpdateStatus()
                self._go(row.spec.annotations.name, "update", *(
                    UpdateStatus.State.Name(status.state) for status in (before, row.update_status)
                ))

    def _note_task(self, kind: EventKind, task: Task, old: Task | None) -> None:
        label = f"{task.service_name}.{task.slot}  task {self._letter(task)}"
        if kind is EventKind.REMOVE:
            self._removed.append(label)
            return
        if old is None:
            self._ways[label, "desired"] = [f"desired {TaskState.Name(task.desired_state)}"]
            self._ways[label, ""] = [TaskState.Name(task.status.state)]
            return
        states = (TaskState.Name(state) for state in (old.desired_state, task.desired_state))
        self._go(label, "desired", *states)
        on = f" {task.node_id}" if task.node_id and not old.node_id else ""
        self._go(label, "", TaskState.Name(old.status.state), TaskState.Name(task.status.state) + on)
        if task.status.error and task.status.error != old.status.error:
            self._ways.setdefault((label, "error"), [f"error: {task.status.error}"])

    def _go(self, label: str, what: str, old: str, new: str) -> None:
        if old != new.split()[0]:
            self._ways.setdefault((label, what), [f"{what} {old}".strip()]).append(new)

    def _letter(self, task: Task) -> str:
        if task.id not in self._letters:
            place = self._used.get((task.service_id, task.slot), 0)
            self._used[task.service_id, task.slot] = place + 1
            self._letters[task.id] = string.ascii_lowercase[place]
        return self._letters[task.id]


class Player:
    """Understands the commands of a story."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim

    async def play(self, line: str) -> None:
        verb, *rest = line.split()
        await getattr(self, f"do_{verb}")(*rest)
        await self._sim.settle()

    async def do_cluster(self, *options: str) -> None:
        settings = dict(option.split("=") for option in options)
        await self._sim.cluster(history=int(settings.get("history", 5)))
        for number in range(1, int(settings["workers"]) + 1):
            await self._sim.add_node(f"w{number}")

    async def do_create(self, name: str, *options: str) -> None:
        spec = service_spec(name, restart_delay=1)
        self._apply(options)(spec)
        await self._sim.create_service(spec)

    async def do_update(self, name: str, *options: str) -> None:
        await self._sim.update_service(name, self._apply(options))

    async def do_remove(self, name: str) -> None:
        service = self._sim.store.services.by_name(name)
        assert service is not None
        await self._sim.remove(service)

    async def do_silence(self, node: str) -> None:
        await self._sim.silence(node)

    async def do_back(self, node: str) -> None:
        await self._sim.back(node)

    async def do_stall(self, node: str) -> None:
        self._sim.agents[node].stalled = True

    async def do_go(self, node: str) -> None:
        self._sim.agents[node].stalled = False

    async def do_drain(self, node: str) -> None:
        await self._sim.availability(node, NodeSpec.DRAIN)

    async def do_label(self, node: str, label: str) -> None:
        await self._sim.label(node, *label.split("="))

    async def do_lose(self, node: str) -> None:
        await self._sim.remove_node(node)

    async def do_fail(self, slot: str) -> None:
        await self._end(slot, FAILED)

    async def do_complete(self, slot: str) -> None:
        await self._end(slot, COMPLETE)

    async def do_wait(self, seconds: str) -> None:
        await self._sim.advance(float(seconds))

    async def do_crash(self, stage: str) -> None:
        await self._sim.crash(stage)

    async def _end(self, slot: str, state: TaskState) -> None:
        name, number = slot.split(".")
        task = next(task for task in self._sim.running(name) if task.slot == int(number))
        assert task.status.state == RUNNING
        await self._sim.end(task.node_id, task.id, state)

    @staticmethod
    def _apply(options: tuple[str, ...]) -> Callable[[ServiceSpec], None]:
        def change(spec: ServiceSpec) -> None:
            for option in options:
                apply_option(spec, *option.split("=", 1))

        return change


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_story(path: Path) -> None:
    told: list[str] = []
    before = path.read_text()

    async def story(sim: Simulation) -> None:
        teller, player = Teller(sim), Player(sim)
        for paragraph in before.strip().split("\n\n"):
            head = paragraph.split("\n----")[0]
            for line in head.splitlines():
                if not line.startswith("#"):
                    await player.play(line)
            told.append(f"{head}\n----\n{teller.tell()}".rstrip())

    simulate(story)
    now = "\n\n".join(told) + "\n"
    if os.environ.get("SWARMPY_REWRITE_STORIES"):
        path.write_text(now)
    else:
        assert now == before
