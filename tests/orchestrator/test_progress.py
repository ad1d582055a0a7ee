"""The index of a service, kept up task by task, says what one made from the same tasks at once says."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.manager.orchestrator.progress import Progress
from swarmpy.manager.orchestrator.slots import SlotIndex
from swarmpy.manager.orchestrator.view import ServiceView
from swarmpy.manager.store import Versions
from swarmpy.rpc.types_pb2 import (
    ASSIGNED,
    COMPLETE,
    FAILED,
    READY,
    REMOVE,
    RUNNING,
    SHUTDOWN,
    Service,
    Task,
    TaskSpec,
    UpdateStatus,
)

STARTED_NS = 100
VERSIONS = Versions({"old": TaskSpec(force_update=1), "new": TaskSpec()}.get, lambda _: None)


def service_of(delay: int) -> Service:
    service = Service(id="web", template_id="new", spec_version=3)
    service.spec.update.delay_ns, service.spec.update.monitor_ns = delay, 5
    service.update_status.state, service.update_status.started_ns = UpdateStatus.UPDATING, STARTED_NS
    return service


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[bool, Task]]:
    """Tasks that come, change and go, as a watch would tell of them: (whether it is there now, the task)."""
    told = []
    present: dict[str, Task] = {}
    for number in range(draw(st.integers(1, 25))):
        if draw(st.booleans()) and present:
            task = Task()
            task.CopyFrom(present[draw(st.sampled_from(sorted(present)))])
            if draw(st.integers(0, 3)) == 0:
                told.append((False, present.pop(task.id)))
                continue
        else:
            task = Task(id=f"t{number}", slot=draw(st.integers(1, 5)), by_update=draw(st.booleans()))
            task.spec_version = draw(st.integers(1, 3))
            task.template_id, task.meta.created_ns = draw(st.sampled_from(["old", "new"])), number
        task.desired_state = draw(st.sampled_from([READY, RUNNING, SHUTDOWN, REMOVE]))
        task.status.state = draw(st.sampled_from([ASSIGNED, RUNNING, COMPLETE, FAILED, SHUTDOWN]))
        task.running_ns = task.running_ns or draw(st.sampled_from([0, 90, 104]))
        task.ended_ns = draw(st.sampled_from([95, 106])) if task.status.state > RUNNING else 0
        present[task.id] = task
        told.append((True, task))
    return told


def said_of(progress: Progress, now: int) -> tuple[object, ...]:
    counts = (progress.outdated, progress.starting, progress.made, progress.failures)
    return (*counts, progress.next_outdated(None), progress.next_outdated(2), progress.resting(now))


@settings(deadline=None)
@given(changes(), st.sampled_from([0, 3, 50]), st.integers(100, 120))
def test_kept_up_and_made_anew_agree(told: list[tuple[bool, Task]], delay: int, now: int) -> None:
    service = service_of(delay)
    view = ServiceView(service, (), VERSIONS)
    present: dict[str, Task] = {}
    for there, task in told:
        if there:
            present[task.id] = task
            view.put_task(task)
        else:
            del present[task.id]
            view.remove_task(task)
        anew = SlotIndex(present.values())
        assert {slot.number: list(slot.tasks) for slot in view.slots.slots()} == {
            slot.number: list(slot.tasks) for slot in anew.slots()
        }
        assert view.slots.filled == anew.filled
        assert view.progress is not None
        assert said_of(view.progress, now) == said_of(Progress(service, anew.slots(), VERSIONS), now)


def test_an_update_that_is_over_is_not_counted() -> None:
    service = service_of(0)
    view = ServiceView(service, [Task(id="a", slot=1, template_id="old", desired_state=RUNNING)], VERSIONS)
    assert view.progress is not None and view.progress.next_outdated(None) == [1]
    over = Service()
    over.CopyFrom(service)
    over.update_status.state = UpdateStatus.PAUSED
    view.put_service(over)
    assert view.progress is None
    again = Service()
    again.CopyFrom(over)
    again.spec_version += 1
    again.ClearField("update_status")
    view.put_service(again)
    assert view.progress is not None and view.progress.outdated == 1
    assert list(view.take_stirred()) == [1] and not view.take_stirred()
