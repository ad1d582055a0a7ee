"""Rolling updates: which slots get the new template now, and how the update stands. Pure.

Owns    Service.update_status, and by it the order in which slots change version. Nobody else changes a slot's version.
In      the service, its slots, the time.
Out     an `UpdateStep`: slots to replace, a new service, and when to look again.
Laws    at most `parallelism` slots are between versions at a time; a slot is done when its new task has run or ended,
        and still counts for `delay` after that. A task made by the update that ends within `monitor` of running is a
        failure; failures beyond the ratio stop, undo or do not mind the update. A rollback is never rolled back.
        What an update did is told by its tasks (`by_update`, `spec_version`, `running_ns`), so a new leader goes on
        where the old one was, and a newer spec of the same template where the older spec was.
Source  Docker Engine API, ServiceSpec.UpdateConfig and RollbackConfig, Service.UpdateStatus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from swarmpy.manager.orchestrator.slots import Slot, has_ended, is_live
from swarmpy.manager.store import template_of
from swarmpy.rpc.types_pb2 import (
    COMPLETE,
    FAILED,
    REJECTED,
    REMOVE,
    RUNNING,
    Service,
    Task,
    TaskTemplate,
    UpdateConfig,
    UpdateStatus,
)

__all__ = ["UpdateStep", "config_of", "counts_for_update", "is_under_way", "step_update"]

_DEFAULT = UpdateConfig(parallelism=1)
_DEFAULT_MONITOR_NS = 5 * 10**9
_FAILURE = frozenset({COMPLETE, FAILED, REJECTED})
_UNDER_WAY = (UpdateStatus.UPDATING, UpdateStatus.ROLLBACK_STARTED)


@dataclass(frozen=True, slots=True)
class UpdateStep:
    """What the updater wants done."""

    replace: tuple[int, ...] = ()           # slots, to get a task of the service's template
    service: Service | None = None          # to be written
    template: TaskTemplate | None = None    # to be written with it
    wake_ns: int | None = None              # look again then


def is_under_way(service: Service) -> bool:
    """Whether an update or a rollback goes on."""
    return service.update_status.state in _UNDER_WAY


def config_of(service: Service) -> UpdateConfig:
    """The configuration that holds for the update under way, or the next one."""
    if service.update_status.state in (UpdateStatus.ROLLBACK_STARTED, UpdateStatus.ROLLBACK_PAUSED):
        return service.spec.rollback if service.spec.HasField("rollback") else _DEFAULT
    return service.spec.update if service.spec.HasField("update") else _DEFAULT


def step_update(service: Service, slots: Mapping[int, Slot], is_busy: Callable[[int], bool], now: int) -> UpdateStep:
    """The next step of an update, from its beginning to its end.

    `slots` are those that are to stay. `is_busy` says of a slot whether somebody else changes it right now.
    """
    state = service.update_status.state
    if not is_under_way(service) and state != UpdateStatus.UNKNOWN:
        return UpdateStep()
    outdated = [slot for slot in slots.values() if not slot.has_template(service.template_id)]
    if state == UpdateStatus.UNKNOWN:
        if not outdated:
            return UpdateStep()
        return UpdateStep(service=_with_status(service, UpdateStatus.UPDATING, "update in progress", now))
    made = {number: made for number, slot in slots.items() if (made := _made_by_update(service, slot))}
    outdated = [slot for slot in outdated if not _is_tried(service, made.get(slot.number, ()))]
    config = config_of(service)
    monitor_ns = config.monitor_ns if config.HasField("monitor_ns") else _DEFAULT_MONITOR_NS
    failed = [task for tasks in made.values() for task in tasks if _has_failed(task, monitor_ns)]
    if failed and len(failed) / max(1, len(slots)) > config.max_failure_ratio:
        stopped = _on_failure(service, config, failed[-1], now)
        if stopped is not None:
            return stopped
    return _advance(service, config, outdated, made, is_busy, monitor_ns, now)


def _advance(
    service: Service,
    config: UpdateConfig,
    outdated: list[Slot],
    made: Mapping[int, list[Task]],
    is_busy: Callable[[int], bool],
    monitor_ns: int,
    now: int,
) -> UpdateStep:
    between, wakes = 0, []
    last_run = service.update_status.started_ns
    for tasks in made.values():
        done_ns = max(task.running_ns or task.ended_ns for task in tasks)
        if any(is_live(task) and not task.running_ns for task in tasks):
            between += 1
        elif now < done_ns + config.delay_ns and outdated:
            between += 1
            wakes.append(done_ns + config.delay_ns)
        last_run = max(last_run, *(task.running_ns for task in tasks))
    if outdated:
        room = max(0, config.parallelism - between) if config.parallelism else len(outdated)
        free = [slot for slot in outdated if not is_busy(slot.number)]
        free.sort(key=lambda slot: (slot.current.status.state == RUNNING, slot.number))
        return UpdateStep(replace=tuple(slot.number for slot in free[:room]), wake_ns=min(wakes, default=None))
    if between:
        return UpdateStep()
    if made and now < last_run + monitor_ns:
        return UpdateStep(wake_ns=last_run + monitor_ns)
    back = service.update_status.state == UpdateStatus.ROLLBACK_STARTED
    done = _with_status(
        service,
        UpdateStatus.ROLLBACK_COMPLETED if back else UpdateStatus.COMPLETED,
        "rollback completed" if back else "update completed",
        service.update_status.started_ns,
    )
    done.update_status.completed_ns = now
    return UpdateStep(service=done)


def _on_failure(service: Service, config: UpdateConfig, task: Task, now: int) -> UpdateStep | None:
    """The end of an update that fails; None when it goes on regardless."""
    back = service.update_status.state == UpdateStatus.ROLLBACK_STARTED
    cause = f"due to failure or early termination of task {task.id}"
    if config.failure_action == UpdateConfig.CONTINUE:
        return None
    if config.failure_action == UpdateConfig.ROLLBACK and not back and service.HasField("previous_spec"):
        return _roll_back(service, f"update rolled back {cause}", now)
    state = UpdateStatus.ROLLBACK_PAUSED if back else UpdateStatus.PAUSED
    message = f"{'rollback' if back else 'update'} paused {cause}"
    return UpdateStep(service=_with_status(service, state, message, service.update_status.started_ns))


def _roll_back(service: Service, message: str, now: int) -> UpdateStep:
    back = _with_status(service, UpdateStatus.ROLLBACK_STARTED, message, now)
    template = template_of(service.previous_spec.task)
    back.spec.CopyFrom(service.previous_spec)
    back.ClearField("previous_spec")
    back.template_id = template.id
    back.spec_version += 1
    return UpdateStep(service=back, template=template)


def _with_status(service: Service, state: UpdateStatus.State, message: str, started_ns: int) -> Service:
    changed = Service()
    changed.CopyFrom(service)
    changed.update_status.CopyFrom(UpdateStatus(state=state, started_ns=started_ns, message=message))
    return changed


def counts_for_update(service: Service, task: Task) -> bool:
    """Whether the update that the service is at has made the task, or found it made for the same template.

    A newer spec that leaves the template alone (a scaling) goes on with what the update before has begun: what still
    lives of that counts, and what fails from now on.
    """
    if not task.by_update or task.template_id != service.template_id or task.desired_state == REMOVE:
        return False
    return (
        task.spec_version == service.spec_version
        or is_live(task)
        or (task.status.state in _FAILURE and task.ended_ns >= service.update_status.started_ns)
    )


def _made_by_update(service: Service, slot: Slot) -> list[Task]:
    return [task for task in slot.tasks if counts_for_update(service, task)]


def _is_tried(service: Service, made: Iterable[Task]) -> bool:
    """Whether a slot had its turn, though what fills it is of another template: a start-first task that did not run."""
    return any(task.spec_version == service.spec_version for task in made)


def _has_failed(task: Task, monitor_ns: int) -> bool:
    return (
        has_ended(task)
        and task.status.state in _FAILURE
        and (not task.running_ns or task.ended_ns - task.running_ns <= monitor_ns)
    )
