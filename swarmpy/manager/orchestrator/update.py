"""Rolling updates: which slots get the new template now, and how the update stands. Pure.

Owns    Service.update_status, and by it the order in which slots change version. Nobody else changes a slot's version.
In      the service, how far it is (`Progress`), the time.
Out     an `UpdateStep`: slots to replace, a new service, and when to look again.
Laws    at most `parallelism` slots are between versions at a time; a slot is done when its new task has run or ended,
        and still counts for `delay` after that. A task made by the update that ends within `monitor` of running is a
        failure; failures beyond the ratio stop, undo or do not mind the update. A rollback is never rolled back.
        What an update did is told by its tasks (`by_update`, `spec_version`, `running_ns`), so a new leader goes on
        where the old one was, and a newer spec of the same template where the older spec was.
Source  Docker Engine API, ServiceSpec.UpdateConfig and RollbackConfig, Service.UpdateStatus.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarmpy.manager.orchestrator.progress import Progress, config_of
from swarmpy.manager.store import template_of
from swarmpy.rpc.types_pb2 import Service, TaskTemplate, UpdateConfig, UpdateStatus

__all__ = ["UpdateStep", "step_update"]


@dataclass(frozen=True, slots=True)
class UpdateStep:
    """What the updater wants done."""

    replace: tuple[int, ...] = ()           # slots, to get a task of the service's template
    service: Service | None = None          # to be written
    template: TaskTemplate | None = None    # to be written with it
    wake_ns: int | None = None              # look again then


def step_update(service: Service, progress: Progress, now: int) -> UpdateStep:
    """The next step of an update that may go on, from its beginning to its end."""
    if service.update_status.state == UpdateStatus.UNKNOWN:
        if not progress.outdated:
            return UpdateStep()
        return UpdateStep(service=_with_status(service, UpdateStatus.UPDATING, "update in progress", now))
    config = config_of(service)
    if _fails(config, progress):
        stopped = _on_failure(service, config, progress.last_failed[1], now)
        if stopped is not None:
            return stopped
    if progress.outdated:
        return _advance(config, progress, now)
    if progress.starting:
        return UpdateStep()
    quiet_ns = max(service.update_status.started_ns, progress.last_run_ns) + progress.monitor_ns
    if progress.made and now < quiet_ns:
        return UpdateStep(wake_ns=quiet_ns)
    return UpdateStep(service=_completed(service, now))


def _advance(config: UpdateConfig, progress: Progress, now: int) -> UpdateStep:
    """The next slots, as far as there is room."""
    if not config.parallelism:
        return UpdateStep(replace=tuple(progress.next_outdated(None)))
    resting, wake_ns = progress.resting(now)
    room = max(0, config.parallelism - progress.starting - resting)
    return UpdateStep(replace=tuple(progress.next_outdated(room)), wake_ns=wake_ns)


def _fails(config: UpdateConfig, progress: Progress) -> bool:
    """Whether more tasks failed than the ratio allows, of all slots that the update is for."""
    return progress.failures / max(1, progress.made + progress.outdated) > config.max_failure_ratio


def _on_failure(service: Service, config: UpdateConfig, task_id: str, now: int) -> UpdateStep | None:
    """The end of an update that fails; None when it goes on regardless."""
    back = service.update_status.state == UpdateStatus.ROLLBACK_STARTED
    cause = f"due to failure or early termination of task {task_id}"
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


def _completed(service: Service, now: int) -> Service:
    back = service.update_status.state == UpdateStatus.ROLLBACK_STARTED
    done = _with_status(
        service,
        UpdateStatus.ROLLBACK_COMPLETED if back else UpdateStatus.COMPLETED,
        "rollback completed" if back else "update completed",
        service.update_status.started_ns,
    )
    done.update_status.completed_ns = now
    return done


def _with_status(service: Service, state: UpdateStatus.State, message: str, started_ns: int) -> Service:
    changed = Service()
    changed.CopyFrom(service)
    changed.update_status.CopyFrom(UpdateStatus(state=state, started_ns=started_ns, message=message))
    return changed
