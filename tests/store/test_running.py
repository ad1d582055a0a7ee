"""How many tasks of a service run: kept as tasks and nodes change, and equal to a count of them all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarmpy.manager.store.state import State
from swarmpy.rpc.types_pb2 import ASSIGNED, FAILED, RUNNING, SHUTDOWN, Node, NodeStatus, Task, TaskState, TaskStatus

NODES, SERVICES, TASKS = ("n1", "n2"), ("s1", "s2"), ("t1", "t2", "t3", "t4")


def put(state: State, table: str, row: Node | Task) -> None:
    state.replace(table, row.id, state.tables[table].get(row.id), row)


def make_node(node_id: str, state: NodeStatus.State) -> Node:
    return Node(id=node_id, status=NodeStatus(state=state))


def make_task(number: int, node_id: str, state: TaskState, desired: TaskState) -> Task:
    return Task(
        id=TASKS[number], service_id=SERVICES[number % 2], node_id=node_id, status=TaskStatus(state=state),
        desired_state=desired,
    )  # fmt: skip


def counted(state: State, service_id: str) -> int:
    up = {node.id for node in state.nodes.values() if node.status.state != NodeStatus.DOWN}
    return sum(
        task.node_id in up and task.status.state == RUNNING == task.desired_state
        for task in state.tasks.by_service(service_id)
    )


CHANGES = st.one_of(
    st.builds(make_node, st.sampled_from(NODES), st.sampled_from([NodeStatus.READY, NodeStatus.DOWN])),
    st.builds(
        make_task, st.integers(0, len(TASKS) - 1), st.sampled_from(["", *NODES]),
        st.sampled_from([ASSIGNED, RUNNING, FAILED]), st.sampled_from([RUNNING, SHUTDOWN]),
    ),
    st.sampled_from([*NODES, *TASKS]),
)  # fmt: skip


@given(st.lists(CHANGES, max_size=40))
def test_the_count_is_that_of_all_tasks(changes: list[Node | Task | str]) -> None:
    state = State()
    for change in changes:
        if isinstance(change, str):                          # removed
            table = "nodes" if change in NODES else "tasks"
            if (old := state.tables[table].get(change)) is not None:
                state.replace(table, change, old, None)
        else:
            put(state, "nodes" if isinstance(change, Node) else "tasks", change)
        for service_id in SERVICES:
            assert state.running.of(service_id) == counted(state, service_id)
