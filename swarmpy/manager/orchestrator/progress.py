"""How far the update of a service is: counts over its slots, kept up slot by slot.

Owns    which slots are outdated, between versions, done or failed under the present spec of one service. Derived from
        the service and its tasks: made anew when the spec changes or the update begins, and never written down.
In      slots, each time one of their tasks changes.
Out     the numbers that `update` decides by. What is asked for does not cost more the more slots there are.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable

from swarmpy.manager.orchestrator.slots import Slot, has_ended, is_live
from swarmpy.manager.store import Versions
from swarmpy.rpc.types_pb2 import COMPLETE, FAILED, REJECTED, REMOVE, RUNNING, Service, Task, UpdateConfig, UpdateStatus

__all__ = ["Progress", "config_of", "counts_for_update", "is_under_way", "may_update"]

_DEFAULT = UpdateConfig(parallelism=1)
_DEFAULT_MONITOR_NS = 5 * 10**9
_FAILURE = frozenset({COMPLETE, FAILED, REJECTED})


def config_of(service: Service) -> UpdateConfig:
    """The configuration that holds for the update under way, or the next one."""
    if service.update_status.state in (UpdateStatus.ROLLBACK_STARTED, UpdateStatus.ROLLBACK_PAUSED):
        return service.spec.rollback if service.spec.HasField("rollback") else _DEFAULT
    return service.spec.update if service.spec.HasField("update") else _DEFAULT


def is_under_way(service: Service) -> bool:
    """Whether an update or a rollback goes on."""
    return service.update_status.state in (UpdateStatus.UPDATING, UpdateStatus.ROLLBACK_STARTED)


def may_update(service: Service) -> bool:
    """Whether slots may still change their version under the present spec: it is not updated yet, or being updated."""
    return service.update_status.state == UpdateStatus.UNKNOWN or is_under_way(service)


def counts_for_update(service: Service, task: Task, versions: Versions) -> bool:
    """Whether the update that the service is at has made the task, or found it made already.

    A newer spec that asks for the same tasks (a scaling) goes on with what the update before has begun: what still
    lives of that counts, and what fails from now on.
    """
    if not task.by_update or task.desired_state == REMOVE or not versions.is_current(service, task):
        return False
    return (
        task.spec_version == service.spec_version
        or is_live(task)
        or (task.status.state in _FAILURE and task.ended_ns > service.update_status.started_ns)
    )


class Progress:
    """One service under one spec; see `is_of`."""

    def __init__(self, service: Service, slots: Iterable[Slot], versions: Versions) -> None:
        config = config_of(service)
        self._versions = versions
        self._service = service
        self.monitor_ns = config.monitor_ns if config.HasField("monitor_ns") else _DEFAULT_MONITOR_NS
        self.last_run_ns = 0                            # when the newest task of the update came to run
        self.last_failed = (0, "")                      # when, and which task
        self._delay_ns = config.delay_ns
        self._start_first = config.order == UpdateConfig.START_FIRST
        self._outdated: dict[int, tuple[int, int]] = {}     # number -> its place in `_queue`
        self._queue: list[tuple[int, int]] = []             # sorted, next to be replaced last: there removing is cheap
        self._made: set[int] = set()                        # slots with a task made by the update
        self._starting: set[int] = set()                    # of these, those whose task has neither run nor ended
        self._resting: dict[int, int] = {}                  # of these, until when they count though they are done
        self._rest_ends: list[tuple[int, int]] = []         # heap of the same, with stale pairs
        self._failed: dict[int, int] = {}                   # number -> how many tasks
        self.failures = 0
        for slot in slots:
            self._count(slot)
        self._queue = sorted(self._outdated.values())

    def is_of(self, service: Service) -> bool:
        """Whether this is still what is to be counted for a service."""
        known = self._service
        return (known.spec_version, known.template_id, known.update_status.started_ns) == (
            service.spec_version, service.template_id, service.update_status.started_ns,
        )

    # ------------------------------------------------------------------------------------------ keeping it up

    def is_indifferent_to(self, task: Task) -> bool:
        """Whether the task, while it is all its slot has and goes on by itself, changes nothing here."""
        return (
            not task.by_update
            and task.slot not in self._outdated
            and task.template_id == self._service.template_id
        )

    def note(self, slot: Slot) -> None:
        """A task of the slot changed."""
        self.forget(slot.number)
        self._count(slot)
        place = self._outdated.get(slot.number)
        if place is not None:
            insort(self._queue, place)

    def forget(self, number: int) -> None:
        """The slot has no task any more."""
        place = self._outdated.pop(number, None)
        if place is not None:
            del self._queue[bisect_left(self._queue, place)]
        self._made.discard(number)
        self._starting.discard(number)
        self._resting.pop(number, None)
        self.failures -= self._failed.pop(number, 0)

    def _count(self, slot: Slot) -> None:
        if not slot.filled:
            return
        number, service = slot.number, self._service
        made = [task for task in slot.tasks if counts_for_update(service, task, self._versions)]
        if made:
            self._count_made(number, made)
        if not slot.is_current(service, self._versions, start_first=self._start_first) and not any(
            task.spec_version == service.spec_version for task in made      # start-first, and the new one did not run
        ):
            self._outdated[number] = (-(slot.current.status.state == RUNNING), -number)

    def _count_made(self, number: int, made: list[Task]) -> None:
        self._made.add(number)
        self.last_run_ns = max(self.last_run_ns, *(task.running_ns for task in made))
        if any(is_live(task) and not task.running_ns for task in made):
            self._starting.add(number)
        elif self._delay_ns:
            end = max(task.running_ns or task.ended_ns for task in made) + self._delay_ns
            self._resting[number] = end
            heapq.heappush(self._rest_ends, (end, number))
        failed = [task for task in made if self._has_failed(task)]
        if failed:
            self._failed[number] = len(failed)
            self.failures += len(failed)
            self.last_failed = max(self.last_failed, *((task.ended_ns, task.id) for task in failed))

    def _has_failed(self, task: Task) -> bool:
        return (
            has_ended(task)
            and task.status.state in _FAILURE
            and (not task.running_ns or task.ended_ns - task.running_ns <= self.monitor_ns)
        )

    # ------------------------------------------------------------------------------------------ what it says

    @property
    def outdated(self) -> int:
        """How many slots are of an older version and have not had their turn."""
        return len(self._outdated)

    @property
    def starting(self) -> int:
        """How many slots are between versions."""
        return len(self._starting)

    @property
    def made(self) -> int:
        """How many slots have had their turn."""
        return len(self._made)

    def next_outdated(self, count: int | None) -> list[int]:
        """The slots whose turn it is, at most `count`: those that do not run first, then by number."""
        places = self._queue[::-1] if count is None else self._queue[: -count - 1 : -1]
        return [-place[1] for place in places]

    def resting(self, now: int) -> tuple[int, int | None]:
        """How many slots are done and still count, for the delay of the update, and when the first will not."""
        ends = self._rest_ends
        while ends and (ends[0][0] <= now or self._resting.get(ends[0][1]) != ends[0][0]):
            end, number = heapq.heappop(ends)
            if self._resting.get(number) == end:
                del self._resting[number]
        return len(self._resting), ends[0][0] if ends else None
