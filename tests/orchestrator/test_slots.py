"""Slots, restarts and history, decided on values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarmpy.manager.orchestrator.reaper import reap
from swarmpy.manager.orchestrator.restart import DEFAULT_DELAY_NS, restart_of
from swarmpy.manager.orchestrator.slots import Slot, SlotIndex, plan_replicas
from swarmpy.manager.store import Versions
from swarmpy.rpc.types_pb2 import (
    ASSIGNED,
    COMPLETE,
    FAILED,
    ORPHANED,
    READY,
    REMOVE,
    RUNNING,
    SHUTDOWN,
    RestartPolicy,
    Task,
    TaskState,
)

VERSIONS = Versions(lambda _: None, lambda _: None)


def make_task(slot: int, created: int, desired: TaskState, state: TaskState, node: str = "n1") -> Task:
    task = Task(id=f"{slot}-{created}", slot=slot, desired_state=desired, node_id=node)
    task.meta.created_ns, task.status.state = created, state
    return task


TASKS = st.builds(
    make_task,
    st.integers(1, 6),
    st.integers(1, 50),
    st.sampled_from([READY, RUNNING, SHUTDOWN, REMOVE]),
    st.sampled_from([ASSIGNED, RUNNING, COMPLETE, FAILED]),
    st.sampled_from(["n1", "n2", "n3"]),
)


@given(st.lists(TASKS, unique_by=lambda task: task.id), st.integers(0, 12))
def test_a_plan_leaves_as_many_filled_slots_as_asked(tasks: list[Task], replicas: int) -> None:
    slots = SlotIndex(tasks)
    plan = plan_replicas(replicas, slots)
    filled = {slot.number for slot in slots.slots() if slot.filled}
    assert not (plan.fill and plan.retire)
    assert len(set(plan.fill)) == len(plan.fill) and not set(plan.fill) & filled
    assert set(plan.retire) <= filled
    assert len(filled) + len(plan.fill) - len(plan.retire) == replicas
    kept_idle = [n for n in filled - set(plan.retire) if slots[n].current.status.state != RUNNING]
    gone_running = [n for n in plan.retire if slots[n].current.status.state == RUNNING]
    assert not (kept_idle and gone_running)


@given(st.lists(st.tuples(TASKS, st.booleans())), st.integers(0, 12), st.integers(1, 3))
def test_slots_are_filled_from_below_a_few_at_a_time(
    changes: list[tuple[Task, bool]], replicas: int, at_once: int
) -> None:
    slots = SlotIndex()
    for task, gone in changes:
        if gone:
            slots.remove(task)
        else:
            slots.put(task)
        filled = {slot.number for slot in slots.slots() if slot.filled}
        free = [number for number in range(1, 40) if number not in filled]
        missing = max(0, replicas - len(filled))
        plan = plan_replicas(replicas, slots, at_once)
        assert plan.fill == tuple(free[: min(missing, at_once)])
        assert plan.more == (missing > at_once)


def test_retirement_evens_out_nodes() -> None:
    slots = SlotIndex(
        [make_task(n, 1, RUNNING, RUNNING, "n1" if n <= 4 else "n2") for n in range(1, 7)]
    )
    assert plan_replicas(4, slots).retire == (4, 3)
    assert plan_replicas(2, slots).retire == (4, 3, 6, 2)


def test_a_slot_is_filled_until_it_is_emptied_for_good() -> None:
    assert Slot(1, (make_task(1, 1, SHUTDOWN, COMPLETE),)).filled
    assert Slot(1, (make_task(1, 1, REMOVE, SHUTDOWN), make_task(1, 2, RUNNING, ASSIGNED))).filled
    assert not Slot(1, (make_task(1, 1, REMOVE, RUNNING),)).filled


def test_restart_policies() -> None:
    done, failed = make_task(1, 1, RUNNING, COMPLETE), make_task(1, 1, RUNNING, FAILED)
    running, orphan = make_task(1, 1, RUNNING, RUNNING), make_task(1, 1, RUNNING, ORPHANED)
    always, on_failure, never = (
        RestartPolicy(condition=condition)
        for condition in (RestartPolicy.ANY, RestartPolicy.ON_FAILURE, RestartPolicy.NONE)
    )
    now = 10**18
    restart = restart_of(done, always, now, exited=True)
    assert restart is not None and restart.start_after_ns == now + DEFAULT_DELAY_NS
    assert restart_of(done, on_failure, now, exited=True) is None
    assert restart_of(failed, on_failure, now, exited=True) is not None
    for task in (running, orphan):
        moved = restart_of(task, on_failure, now, exited=task is orphan)
        assert moved is not None and (moved.start_after_ns, moved.restarts_ns) == (0, ())
    assert restart_of(failed, never, now, exited=True) is None
    assert restart_of(running, never, now, exited=False) is None


def test_attempts_within_a_window() -> None:
    policy = RestartPolicy(max_attempts=2, window_ns=100, delay_ns=0)
    task = make_task(1, 1, RUNNING, FAILED)
    task.restarts_ns.extend([10, 950])
    restart = restart_of(task, policy, 1000, exited=True)
    assert restart is not None and (restart.start_after_ns, restart.restarts_ns) == (0, (950, 1000))
    task.restarts_ns.append(990)
    assert restart_of(task, policy, 1000, exited=True) is None


def test_history_keeps_the_newest_and_what_still_matters() -> None:
    old = [make_task(1, created, SHUTDOWN, FAILED) for created in range(1, 6)]
    live = make_task(1, 9, RUNNING, RUNNING)
    slot = Slot(1, (*old, live))
    assert [task.id for task in reap(slot, None, 3, VERSIONS)] == ["1-1", "1-2", "1-3"]
    assert reap(slot, None, -1, VERSIONS) == []
    assert len(reap(slot, None, 0, VERSIONS)) == 5
    assert len(reap(Slot(1, tuple(old)), None, 0, VERSIONS)) == 4         # the last tells how the slot ended
    stopping = make_task(1, 1, SHUTDOWN, RUNNING)
    unborn = make_task(1, 2, SHUTDOWN, ASSIGNED, node="")
    assert reap(Slot(1, (stopping, unborn, live)), None, 0, VERSIONS) == [unborn]
    gone = make_task(1, 1, REMOVE, SHUTDOWN)
    assert reap(Slot(1, (gone, make_task(1, 2, REMOVE, RUNNING))), None, 5, VERSIONS) == [gone]
