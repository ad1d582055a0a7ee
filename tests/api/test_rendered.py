"""Texts of rows that are kept: as long as the row is the one in the store, and no longer."""

from __future__ import annotations

import asyncio
import json

import pytest

from swarmpy.api import rendered
from swarmpy.api.rendered import Rendered, json_list
from swarmpy.api.swarm_json.task import spec_to_text, task_to_json, task_to_text
from swarmpy.manager.store import MemoryLog, Store, Transaction, template_of
from swarmpy.rpc.types_pb2 import Annotations, ContainerSpec, Node, Service, ServiceSpec, Task, TaskSpec


class Render:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, row: Node) -> str:
        self.made.append(row.status.addr)
        return f"{row.id} at {row.status.addr}"


def test_a_text_is_made_once_for_each_version_of_a_row() -> None:
    kept, render = Rendered[Node](), Render()
    old, new = Node(id="n"), Node(id="n")
    old.status.addr, new.status.addr = "a", "b"
    assert [kept.text(row, render) for row in (old, old, new, new)] == ["n at a", "n at a", "n at b", "n at b"]
    assert render.made == ["a", "b"]


def test_no_more_texts_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "MOST_KEPT", 2)
    kept, render = Rendered[Node](), Render()
    rows = [Node(id=name) for name in "abc"]
    for row in (*rows, rows[2]):
        assert kept.text(row, render) == f"{row.id} at "
    assert len(render.made) == 3


def test_the_text_of_a_task_says_what_its_json_says() -> None:
    store = Store(lambda: 1)
    store.bind(MemoryLog(store, node_id="m1"))
    spec = TaskSpec(container=ContainerSpec(image="web", env=["A=b"]))
    template = template_of(spec)
    service = Service(
        id="s", template_id=template.id, spec=ServiceSpec(annotations=Annotations(name="web"), task=spec)
    )
    transaction = Transaction()
    transaction.put(template, service, Task(id="t", service_id="s", slot=3, template_id=template.id))
    asyncio.run(store.commit(transaction))
    task = store.tasks["t"]
    text = task_to_text(task, spec_to_text(store.templates[template.id]), store)
    assert text == json.dumps(task_to_json(task, store))


def turns_of_others(rows: int) -> tuple[int, str | None]:
    """How many turns somebody else has while a list of so many rows is made, half of which are shown; and the list."""

    async def scenario() -> tuple[int, str | None]:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        others = asyncio.create_task(other())
        await asyncio.sleep(0)
        answer = await json_list(str(number) if number % 2 else None for number in range(rows))
        others.cancel()
        return turns, answer.text

    return asyncio.run(scenario())


def test_others_have_turns_while_a_list_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "TURN_S", -1.0)           # every row takes long
    assert turns_of_others(6) == (6, "[1, 3, 5]")
    monkeypatch.setattr(rendered, "TURN_S", 60.0)
    assert turns_of_others(6) == (0, "[1, 3, 5]")
