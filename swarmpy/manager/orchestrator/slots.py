"""Slots: a replica of a service is a numbered slot, and a slot outlives its tasks. Pure.

A task is *wanted* while its desired state has not passed RUNNING, and has *ended* once it is observed in a final state.
A *live* task is wanted and has not ended. A slot is *filled* by a live task, or by one that has ended and is not to be
restarted; retiring a slot for good makes its tasks desired REMOVE, so they no longer fill it.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from swarmpy.rpc.types_pb2 import REMOVE, RUNNING, Task

__all__ = ["ReplicaPlan", "Slot", "group_slots", "has_ended", "is_live", "is_wanted", "plan_replicas"]


def is_wanted(task: Task) -> bool:
    return task.desired_state <= RUNNING


def has_ended(task: Task) -> bool:
    return task.status.state > RUNNING


def is_live(task: Task) -> bool:
    return task.desired_state <= RUNNING and task.status.state <= RUNNING


class Slot:
    """One slot with all its tasks that are in the store, the oldest first. Not changed once made."""

    __slots__ = ("filled", "live", "number", "tasks")

    def __init__(self, number: int, tasks: Sequence[Task]) -> None:
        self.number = number
        self.tasks = tasks
        self.live = [task for task in tasks if task.desired_state <= RUNNING and task.status.state <= RUNNING]
        self.filled = bool(self.live) or tasks[-1].desired_state < REMOVE or any(map(is_wanted, tasks))

    @property
    def current(self) -> Task:
        """The task the slot is judged by: a running one, or else the newest wanted one, or the newest."""
        wanted = [task for task in self.tasks if is_wanted(task)]
        running = [task for task in wanted if task.status.state == RUNNING]
        return (running or wanted or self.tasks)[-1]

    def has_template(self, template_id: str) -> bool:
        """Whether what fills the slot was made from a template."""
        return any(task.template_id == template_id for task in self.live or self.tasks[-1:])


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """Numbers of the slots to fill with a task, and of those to empty for good."""

    fill: tuple[int, ...]
    retire: tuple[int, ...]


def group_slots(tasks: Iterable[Task]) -> dict[int, Slot]:
    """Tasks of one service by slot number, in order of number."""
    grouped: dict[int, list[Task]] = {}
    for task in tasks:
        grouped.setdefault(task.slot, []).append(task)
    for slot in grouped.values():
        if len(slot) > 1:
            slot.sort(key=_age)
    return {number: Slot(number, grouped[number]) for number in sorted(grouped)}


def plan_replicas(replicas: int, slots: Mapping[int, Slot]) -> ReplicaPlan:
    """Choose which slots to fill or retire. Numbers count from 1 and may have gaps."""
    filled = {number for number, slot in slots.items() if slot.filled}
    missing = replicas - len(filled)
    if missing >= 0:
        free = (number for number in itertools.count(1) if number not in filled)
        return ReplicaPlan(fill=tuple(itertools.islice(free, missing)), retire=())
    return ReplicaPlan(fill=(), retire=_retired(-missing, [slots[number] for number in filled]))


def _retired(count: int, slots: Collection[Slot]) -> tuple[int, ...]:
    """Which slots go: first those that do not run, then on the nodes with most; the highest numbers first."""
    by_node: dict[str, list[int]] = {}
    idle: list[int] = []
    for slot in sorted(slots, key=lambda slot: slot.number):
        if slot.current.status.state == RUNNING:
            by_node.setdefault(slot.current.node_id, []).append(slot.number)
        else:
            idle.append(slot.number)
    retired = idle[::-1][:count]
    crowded = [(-len(numbers), -numbers[-1], node_id) for node_id, numbers in by_node.items()]
    heapq.heapify(crowded)
    while len(retired) < count:
        *_, node_id = heapq.heappop(crowded)
        numbers = by_node[node_id]
        retired.append(numbers.pop())
        if numbers:
            heapq.heappush(crowded, (-len(numbers), -numbers[-1], node_id))
    return tuple(retired)


def _age(task: Task) -> tuple[int, int, str]:
    return task.meta.created_ns, task.spec_version, task.id
