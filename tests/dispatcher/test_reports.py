"""Reports in any order, by anybody, in batches of any size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarmpy.manager.dispatcher.reports import ReportQueue
from swarmpy.rpc.dispatcher_pb2 import TaskStatusUpdate
from swarmpy.rpc.types_pb2 import (
    ACCEPTED,
    ASSIGNED,
    COMPLETE,
    FAILED,
    PENDING,
    PREPARING,
    READY,
    RUNNING,
    SHUTDOWN,
    Node,
    Task,
    TaskState,
    TaskStatus,
)

STATES = st.sampled_from([PENDING, ASSIGNED, ACCEPTED, PREPARING, READY, RUNNING, COMPLETE, SHUTDOWN, FAILED])
REPORT = st.tuples(st.sampled_from(["owner", "owner", "liar"]), st.sampled_from("ab"), STATES)


@given(st.lists(st.lists(REPORT, max_size=6), max_size=8))
def test_the_furthest_word_of_the_owner_is_stored_and_no_other(batches: list[list[tuple[str, str, TaskState]]]) -> None:
    tasks = {name: Task(id=name, node_id="owner", status=TaskStatus(state=ASSIGNED)) for name in "ab"}
    expected = dict.fromkeys("ab", ASSIGNED)
    queue = ReportQueue()
    for batch in batches:
        said = {name: [state for who, about, state in batch if (who, about) == ("owner", name)] for name in "ab"}
        for who, name, state in batch:
            queue.report(who, [TaskStatusUpdate(task_id=name, status=TaskStatus(state=state, message=who))])
        for name, states in said.items():
            if expected[name] <= RUNNING:
                expected[name] = max([expected[name], *states])
        queue.report("liar", [TaskStatusUpdate(), TaskStatusUpdate(task_id="liar")])     # no task has such an id
        taken = queue.take()
        for row in taken.objects(taken.keys(), tasks.get, dict[str, Node]().get):
            assert isinstance(row, Task)
            assert row.status.message == "owner"
            tasks[row.id] = row
        assert {name: task.status.state for name, task in tasks.items()} == expected
    assert not queue.pending
