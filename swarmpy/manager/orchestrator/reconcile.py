"""One look at one service: what is, what should be, and the writes that lead there. Pure.

Owns    the rules by which slots are filled, emptied, restarted and taken over; see docs/design/tasks.md.
In      a service and its slots, nodes, templates and the time, all of one moment; which slots something happened to.
Out     a `Decision`. Everything a later look needs is in the store; nothing is remembered here.
Laws    what a look costs depends on the slots that something happened to, not on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from swarmpy.manager.orchestrator.draft import Draft
from swarmpy.manager.orchestrator.fitness import ORPHANED_AFTER_NS, NodeFitness, fitness
from swarmpy.manager.orchestrator.labels import labels_for
from swarmpy.manager.orchestrator.progress import config_of
from swarmpy.manager.orchestrator.restart import restart_of
from swarmpy.manager.orchestrator.slots import Slot, has_ended, is_live, is_wanted, plan_replicas
from swarmpy.manager.orchestrator.update import step_update
from swarmpy.manager.orchestrator.view import ServiceView
from swarmpy.manager.store import IdSource, Transaction, Versions, publishes
from swarmpy.rpc.types_pb2 import (
    NEW,
    ORPHANED,
    PENDING,
    READY,
    REMOVE,
    RUNNING,
    SHUTDOWN,
    Node,
    Service,
    Task,
    TaskSpec,
    UpdateConfig,
)

__all__ = ["Decision", "Swarm", "reconcile"]


@dataclass(frozen=True, slots=True)
class Swarm:
    """What a decision may look at besides the service and its tasks."""

    node_of: Callable[[str], Node | None]
    spec_of: Callable[[str], TaskSpec | None]     # by template id
    versions: Versions
    new_id: IdSource
    now: int                                      # Unix ns


@dataclass(frozen=True, slots=True)
class Decision:
    """Writes, each unit whole, and when to look again although nothing has changed."""

    units: list[Transaction]
    wakes: list[tuple[int, int]]                  # Unix ns, number of the slot or 0 for the update
    more: bool = False                            # look again once these are in the store


def reconcile(view: ServiceView, stirred: Collection[int], swarm: Swarm, at_once: int | None = None) -> Decision:
    """Decide for a service, or for what a removed service has left behind.

    Slots not in `stirred` are as they were when they were last looked at, and have nothing to be done. At most
    `at_once` new slots are filled.
    """
    return _Pass(view, stirred, swarm, at_once).decide()


class _Pass:
    def __init__(self, view: ServiceView, stirred: Collection[int], swarm: Swarm, at_once: int | None) -> None:
        service = self._service = view.service
        self._view = view
        self._swarm = swarm
        self._at_once = at_once
        self._more = False
        self._stirred = [slot for slot in map(view.slots.get, stirred) if slot is not None]
        self._draft = Draft()
        self._wakes: list[tuple[int, int]] = []
        self._fitness: dict[tuple[str, str], NodeFitness] = {}     # by node and template
        self._needs_nothing = service is not None and not publishes(service)
        self._pattern = Task() if service is None else _pattern_of(service)
        self._start_first = service is not None and config_of(service).order == UpdateConfig.START_FIRST

    def decide(self) -> Decision:
        unsettled = [slot for slot in self._stirred if not self._is_calm(slot)]
        for slot in unsettled:
            self._orphan(slot)
        units: list[Transaction] = []
        if self._service is None:
            for slot in self._stirred:
                self._retire(slot)
        else:
            units = self._decide_for(self._service, unsettled)
        return Decision([*units, *self._draft.units()], self._wakes, self._more)

    def _decide_for(self, service: Service, unsettled: Iterable[Slot]) -> list[Transaction]:
        replicated = service.spec.mode.replicated
        slots = self._view.slots
        replicas = replicated.replicas if replicated.HasField("replicas") else 1
        plan = plan_replicas(replicas, slots, self._at_once)
        for number in plan.retire:
            self._retire(slots[number])
        for slot in unsettled:
            if slot.filled and slot.number not in plan.retire:
                self._maintain(slot)
        for number in plan.fill:
            self._add(self._task(number), slots.get(number))
        self._more = plan.more
        return [] if plan.retire or plan.more else self._update(service)     # once those are gone, or there

    # ------------------------------------------------------------------------------------------ slots

    def _is_calm(self, slot: Slot) -> bool:
        """Whether a slot is as most are: one task, fit and on its way to RUNNING or there, and else only history."""
        if len(slot.live) != 1:
            return False
        task = slot.live[0]
        if task.desired_state != RUNNING or self._fit(task) is not NodeFitness.FIT:
            return False
        return len(slot.tasks) == 1 or all(
            other is task or (has_ended(other) and not is_wanted(other)) for other in slot.tasks
        )

    def _retire(self, slot: Slot) -> None:
        """Empty a slot for good."""
        for task in slot.tasks:
            self._draft.desire(task, REMOVE)

    def _maintain(self, slot: Slot) -> None:
        """Let one slot go on: successors, the end of a start-first pair, and the turn of whoever waits for it."""
        for task in slot.tasks:
            if not is_wanted(task):
                continue
            if has_ended(task) and self._swarm.now < task.start_after_ns:
                self._wakes.append((task.start_after_ns, slot.number))      # it ended while it got ready
            elif has_ended(task) or self._fit(task) is not NodeFitness.FIT:
                self._succeed(slot, task)
        live = [task for task in slot.live if is_wanted(self._draft.now(task))]
        if len(live) > 1:
            self._end_pair(live)
        for task in live:
            if task.desired_state == READY and is_wanted(self._draft.now(task)):
                self._promote(slot, task)

    def _succeed(self, slot: Slot, task: Task) -> None:
        """A wanted task ended, or has to leave its node: let go of it, and make the next one if the policy says so."""
        spec = self._swarm.spec_of(task.template_id)
        exited = has_ended(task)
        restart = restart_of(task, (spec or TaskSpec()).restart, self._swarm.now, exited=exited)
        self._draft.desire(task, SHUTDOWN)
        if restart is None:
            return
        successor = self._successor(task)
        if self._has_version(slot, successor.spec_version):
            return
        if task.by_update and not exited and not task.running_ns:
            successor.by_update = True            # the update waits for this one in its stead
            self._draft.edit(task).by_update = False
        successor.start_after_ns = restart.start_after_ns
        successor.restarts_ns.extend(restart.restarts_ns)
        self._add(successor, slot)

    def _has_version(self, slot: Slot, spec_version: int) -> bool:
        """Whether another task of the version fills the slot already, or is about to."""
        staying = (task for task in slot.live if is_wanted(self._draft.now(task)))
        return any(task.spec_version == spec_version for task in (*staying, *self._draft.added(slot.number)))

    def _end_pair(self, live: list[Task]) -> None:
        """The new task of a start-first update runs: the old one may go."""
        service = self._service
        running = [
            task
            for task in live
            if task.status.state == RUNNING and service is not None and self._swarm.versions.is_current(service, task)
        ]
        if running:
            for task in live:
                if task is not running[-1]:
                    self._draft.desire(task, SHUTDOWN)

    def _promote(self, slot: Slot, task: Task) -> None:
        """A READY task becomes RUNNING when its delay is over and the slot is clear."""
        if self._swarm.now < task.start_after_ns:
            self._wakes.append((task.start_after_ns, slot.number))
        elif self._is_clear(slot, task):
            self._draft.edit(task).desired_state = RUNNING

    def _add(self, task: Task, slot: Slot | None) -> None:
        waits = self._swarm.now < task.start_after_ns
        clear = slot is None or self._is_clear(slot, task)
        task.desired_state = RUNNING if clear and not waits else READY
        if clear and waits:
            self._wakes.append((task.start_after_ns, task.slot))
        self._draft.add(task)

    def _is_clear(self, slot: Slot, task: Task) -> bool:
        """Whether no other task of the slot may still be running, save the old one of a start-first update."""
        for other in slot.tasks:
            if other.id == task.id or self._is_stopped(other):
                continue
            beside = is_live(self._draft.now(other)) and other.spec_version != task.spec_version
            if not (beside and self._start_first):
                return False
        return True

    def _is_stopped(self, task: Task) -> bool:
        """Whether the task does not run, nor will; a silent node is not waited for."""
        if has_ended(self._draft.now(task)):
            return True
        if not task.node_id:
            return not is_wanted(self._draft.now(task))
        return self._fit(task).is_silent

    def _orphan(self, slot: Slot) -> None:
        """Note the end of tasks whose node will never report it."""
        for task in slot.tasks:
            if has_ended(task) or not task.node_id:
                continue
            fit = self._fit(task)
            if fit in (NodeFitness.GONE, NodeFitness.LOST):
                status = self._draft.edit(task).status
                status.state, status.timestamp_ns = ORPHANED, self._swarm.now
                status.error = f"the task's node {fit.value}"
            elif fit is NodeFitness.DOWN and (node := self._swarm.node_of(task.node_id)) is not None:
                self._wakes.append((node.meta.updated_ns + ORPHANED_AFTER_NS, slot.number))

    def _fit(self, task: Task) -> NodeFitness:
        node_id = task.node_id
        if not node_id:
            return NodeFitness.FIT
        key = (node_id, task.template_id)
        known = self._fitness.get(key)
        if known is None:
            node = self._swarm.node_of(node_id)
            spec = self._swarm.spec_of(self._placing_template(task))
            known = self._fitness[key] = fitness(task, node, spec, self._swarm.now)
        return known

    def _placing_template(self, task: Task) -> str:
        """Whose constraints hold for a task: its own; and those of a later spec for the same work, once it is updated.

        While an update may go on, it is the updater who moves, slot by slot, what the new constraints do not admit.
        """
        service = self._service
        updated = service is not None and self._view.progress is None
        if service is not None and updated and self._swarm.versions.same_work(task.template_id, service.template_id):
            return service.template_id
        return task.template_id

    # ------------------------------------------------------------------------------------------ updates

    def _update(self, service: Service) -> list[Transaction]:
        progress = self._view.progress
        if progress is None:
            return []
        step = step_update(service, progress, self._swarm.now)
        if step.wake_ns is not None:
            self._wakes.append((step.wake_ns, 0))
        for number in step.replace:
            if not self._draft.touches(number):     # else it has its turn once what is done to it just now is done
                self._replace(service, self._view.slots[number])
        if step.service is None:
            return []
        unit = Transaction()
        unit.put(step.service)
        if step.template is not None:
            unit.put(step.template)
        return [unit]

    def _replace(self, service: Service, slot: Slot) -> None:
        """Give a slot a task of the present version. Start-first leaves one that runs until the new one does.

        One that does not run would only take the new one's place on a node.
        """
        wanted = [task for task in slot.tasks if is_wanted(task)]
        if self._start_first and slot.current.status.state == RUNNING:
            wanted = [task for task in wanted if task.id != slot.current.id]
        for task in wanted:
            self._draft.desire(task, SHUTDOWN)
        task = self._task(slot.number)
        task.by_update = True
        self._add(task, slot)

    # ------------------------------------------------------------------------------------------ new tasks

    def _task(self, slot: int) -> Task:
        task = Task()
        task.CopyFrom(self._pattern)
        task.slot = slot
        return self._new(task)

    def _successor(self, task: Task) -> Task:
        """A new task for the same work: only the updater changes the version of a slot."""
        service = self._service
        if service is not None and self._swarm.versions.same_work(task.template_id, service.template_id):
            return self._task(task.slot)
        return self._new(
            Task(
                service_id=task.service_id,
                service_name=task.service_name,
                service_labels=task.service_labels,
                slot=task.slot,
                template_id=task.template_id,
                spec_version=task.spec_version,
            )
        )

    def _new(self, task: Task) -> Task:
        task.id = self._swarm.new_id()
        status = task.status
        status.timestamp_ns = self._swarm.now
        if self._needs_nothing:
            status.state, status.message = PENDING, "pending task scheduling"
        else:
            status.state, status.message = NEW, "created"
        return task


def _pattern_of(service: Service) -> Task:
    """What new tasks of the service have in common."""
    return Task(
        service_id=service.id,
        service_name=service.spec.annotations.name,
        service_labels=labels_for(service, service.spec.task),
        template_id=service.template_id,
        spec_version=service.spec_version,
    )
