"""Slots: a replica of a service is a numbered slot, and a slot outlives its tasks.

Owns    what the tasks of a slot say of it, and which slots are filled or retired for a number of replicas. Pure; and
        `SlotIndex`, the slots of one service, kept up task by task so that no look at a slot costs more than the slot.

A task is *wanted* while its desired state has not passed RUNNING, and has *ended* once it is observed in a final state.
A *live* task is wanted and has not ended. A slot is *filled* by a live task, or by one that has ended and is not to be
restarted; retiring a slot for good makes its tasks desired REMOVE, so they no longer fill it.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from swarmpy.manager.store import Versions
from swarmpy.rpc.types_pb2 import PENDING, REMOVE, RUNNING, Service, Task

__all__ = ["ReplicaPlan", "Slot", "SlotIndex", "has_ended", "is_live", "is_wanted", "plan_replicas"]


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

    def is_current(self, service: Service, versions: Versions, *, start_first: bool) -> bool:
        """Whether what fills the slot is what the service asks for now, or becomes so without the updater.

        An old task beside a new one goes when the new one runs; only with start-first may the new one come to run.
        """
        filling = self.live or self.tasks[-1:]
        current = [task for task in filling if versions.is_current(service, task)]
        if not current or len(current) == len(filling):
            return bool(current)
        return start_first or any(task.status.state == RUNNING for task in current)


class SlotIndex:
    """The slots of one service by number. Only tasks are kept; a `Slot` is made when it is asked for."""

    def __init__(self, tasks: Iterable[Task] = ()) -> None:
        grouped: dict[int, list[Task]] = {}
        for task in tasks:
            grouped.setdefault(task.slot, []).append(task)
        self._tasks = {number: tuple(sorted(grouped[number], key=_age)) for number in sorted(grouped)}
        self._filled = {slot.number for slot in self.slots() if slot.filled}
        self._lowest = 1                # all numbers below are filled

    def free(self, count: int) -> tuple[int, ...]:
        """The lowest numbers that no filled slot has, as many as asked for."""
        while self._lowest in self._filled:
            self._lowest += 1
        numbers = (number for number in itertools.count(self._lowest) if number not in self._filled)
        return tuple(itertools.islice(numbers, count))

    @property
    def filled(self) -> Collection[int]:
        """Numbers of the filled slots."""
        return self._filled

    def __len__(self) -> int:
        """How many slots have a task, filled or not."""
        return len(self._tasks)

    def __iter__(self) -> Iterator[int]:
        return iter(self._tasks)

    def __contains__(self, number: object) -> bool:
        return number in self._tasks

    def __getitem__(self, number: int) -> Slot:
        return Slot(number, self._tasks[number])

    def get(self, number: int) -> Slot | None:
        """None for a slot without a task."""
        tasks = self._tasks.get(number)
        return None if tasks is None else Slot(number, tasks)

    def slots(self) -> Iterator[Slot]:
        """All of them. Change nothing meanwhile."""
        return (Slot(number, tasks) for number, tasks in self._tasks.items())

    def put_progress(self, task: Task) -> bool:
        """Put a task that went on by itself, if it is all its slot has; whether it was.

        Nothing else of the slot is then another than before: most changes of tasks are of this kind.
        """
        number = task.slot
        tasks = self._tasks.get(number)
        if tasks is None or len(tasks) != 1:
            return False
        before = tasks[0]
        if (
            before.id != task.id
            or task.status.state > RUNNING
            or before.status.state < PENDING
            or before.desired_state != task.desired_state
        ):
            return False
        self._tasks[number] = (task,)
        return True

    def put(self, task: Task) -> Slot:
        """A task is new or changed. Returns its slot as it is now."""
        tasks = [other for other in self._tasks.get(task.slot, ()) if other.id != task.id]
        tasks.append(task)
        if len(tasks) > 1:
            tasks.sort(key=_age)
        self._tasks[task.slot] = tuple(tasks)
        return self._noted(Slot(task.slot, tasks))

    def remove(self, task: Task) -> Slot | None:
        """A task is gone. Returns what is left of its slot; None when that is nothing."""
        tasks = tuple(other for other in self._tasks.get(task.slot, ()) if other.id != task.id)
        if not tasks:
            self._tasks.pop(task.slot, None)
            self._empty(task.slot)
            return None
        self._tasks[task.slot] = tasks
        return self._noted(Slot(task.slot, tasks))

    def _noted(self, slot: Slot) -> Slot:
        if slot.filled:
            self._filled.add(slot.number)
        else:
            self._empty(slot.number)
        return slot

    def _empty(self, number: int) -> None:
        self._filled.discard(number)
        self._lowest = min(self._lowest, number)


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """Numbers of the slots to fill with a task, and of those to empty for good."""

    fill: tuple[int, ...] = ()
    retire: tuple[int, ...] = ()
    more: bool = False              # to be filled, once these are


def plan_replicas(replicas: int, slots: SlotIndex, at_once: int | None = None) -> ReplicaPlan:
    """Choose which slots to fill or retire, and of those to fill `at_once` at most. Numbers count from 1, with gaps.

    Costs nothing while as many are filled as asked for, and a look at all of them where some are to be retired.
    """
    filled = slots.filled
    missing = replicas - len(filled)
    if not missing:
        return ReplicaPlan()
    if missing > 0:
        fill = slots.free(missing if at_once is None else min(missing, at_once))
        return ReplicaPlan(fill=fill, more=len(fill) < missing)
    return ReplicaPlan(retire=_retired(-missing, [slots[number] for number in sorted(filled)]))


def _retired(count: int, slots: Iterable[Slot]) -> tuple[int, ...]:
    """Which slots go: first those that do not run, then on the nodes with most; the highest numbers first."""
    by_node: dict[str, list[int]] = {}
    idle: list[int] = []
    for slot in slots:
        current = slot.current
        if current.status.state == RUNNING:
            by_node.setdefault(current.node_id, []).append(slot.number)
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
