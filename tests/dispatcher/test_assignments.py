"""Diffs of assignments, checked against an agent that folds them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarmpy.manager.dispatcher import assignments
from swarmpy.manager.dispatcher.assignments import AssignmentFeed
from swarmpy.rpc.dispatcher_pb2 import Assignments
from swarmpy.rpc.types_pb2 import ASSIGNED, PENDING, RUNNING, SHUTDOWN, Task, TaskState, TaskStatus, TaskTemplate


class World:
    """Tasks as a store would hold them, and an agent that has applied every message so far."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.held: set[str] = set()
        self.connect()

    def connect(self) -> None:
        self.feed = AssignmentFeed(
            "n1",
            [task.id for task in self.tasks.values() if task.node_id == "n1"],
            task=self.tasks.get,
            template=lambda template_id: TaskTemplate(id=template_id),
            held=self.held.__contains__,
        )
        self.agent_tasks: dict[str, TaskState] = {}
        self.agent_templates: set[str] = set()
        self.whole = False

    def put(self, task_id: str, desired: TaskState = RUNNING, node: str = "n1", template: str = "t1") -> None:
        self.tasks[task_id] = Task(
            id=task_id, node_id=node, desired_state=desired, template_id=template, status=TaskStatus(state=ASSIGNED)
        )
        self.feed.changed(task_id)

    def remove(self, task_id: str) -> None:
        self.tasks.pop(task_id, None)
        self.feed.changed(task_id)

    def deliver(self) -> list[Assignments]:
        messages = []
        while self.feed.pending:
            message = self.feed.take()
            if message is None:
                continue
            messages.append(message)
            self.agent_templates |= {template.id for template in message.templates}
            for task in message.tasks:
                assert task.template_id in self.agent_templates
                self.agent_tasks[task.id] = task.desired_state
            for task_id in message.removed_tasks:
                del self.agent_tasks[task_id]
            self.agent_templates -= set(message.removed_templates)
            self.whole = not message.more
        return messages


def test_a_session_begins_with_a_complete_set_even_if_empty() -> None:
    world = World()
    [message] = world.deliver()
    assert message.complete and not message.more and not message.tasks
    assert world.deliver() == []


def test_a_template_travels_once_and_leaves_with_its_last_task() -> None:
    world = World()
    world.put("a")
    world.put("b")
    [first] = world.deliver()
    assert [template.id for template in first.templates] == ["t1"] and len(first.tasks) == 2
    world.remove("a")
    assert not world.deliver()[0].removed_templates
    world.remove("b")
    assert world.deliver()[0].removed_templates == ["t1"]


def test_status_alone_is_not_echoed() -> None:
    world = World()
    world.put("a")
    world.deliver()
    world.tasks["a"].status.state = RUNNING
    world.feed.changed("a")
    assert world.deliver() == []


def test_tasks_of_others_and_tasks_without_a_node_are_not_told() -> None:
    world = World()
    world.put("a", node="n2")
    world.put("b")
    world.tasks["b"].status.state = PENDING
    world.deliver()
    assert world.agent_tasks == {}


def test_a_held_task_learns_its_end_when_released() -> None:
    world = World()
    world.put("a")
    world.deliver()
    world.held.add("a")
    world.put("a", SHUTDOWN)
    assert world.deliver() == []
    world.held.clear()
    world.feed.changed("a")
    world.deliver()
    assert world.agent_tasks == {"a": SHUTDOWN}


def test_a_reconnecting_node_is_told_of_a_held_task_as_running() -> None:
    world = World()
    world.put("a", SHUTDOWN)
    world.held.add("a")
    world.connect()
    world.deliver()
    assert world.agent_tasks == {"a": RUNNING}
    assert world.tasks["a"].desired_state == SHUTDOWN


def test_a_large_set_comes_in_parts() -> None:
    world = World()
    for number in range(assignments.PART_TASKS * 2 + 1):
        world.put(str(number))
    world.connect()
    messages = world.deliver()
    assert [(message.complete, message.more) for message in messages] == [(True, True), (False, True), (False, False)]
    assert len(world.agent_tasks) == assignments.PART_TASKS * 2 + 1


IDS = st.sampled_from([f"task{number}" for number in range(6)])
ACTS = st.one_of(
    st.tuples(st.just("put"), IDS, st.sampled_from(["t1", "t2"])),
    st.tuples(st.just("stop"), IDS, st.just("")),
    st.tuples(st.just("remove"), IDS, st.just("")),
    st.tuples(st.just("hold"), IDS, st.just("")),
    st.tuples(st.just("release"), IDS, st.just("")),
    st.tuples(st.just("deliver"), IDS, st.just("")),
    st.tuples(st.just("reconnect"), IDS, st.just("")),
)


@given(st.lists(ACTS, max_size=80))
def test_whatever_happens_the_agent_ends_with_what_the_store_assigns(script: list[tuple[str, str, str]]) -> None:
    world = World()
    for act, task_id, template in script:
        task = world.tasks.get(task_id)
        if act == "put" and task is None:
            world.put(task_id, template=template)
        elif act == "stop" and task is not None:
            world.put(task_id, SHUTDOWN, template=task.template_id)
        elif act == "remove":
            world.remove(task_id)
        elif act == "hold":
            world.held.add(task_id)
        elif act == "release":
            world.held.discard(task_id)
            world.feed.changed(task_id)
        elif act == "deliver":
            world.deliver()
        elif act == "reconnect":
            world.connect()
    for task_id in list(world.held):
        world.held.discard(task_id)
        world.feed.changed(task_id)
    world.deliver()
    assert world.whole
    assert world.agent_tasks == {task.id: task.desired_state for task in world.tasks.values()}
    assert world.agent_templates == {task.template_id for task in world.tasks.values()}
