"""Sessions have turns to be told of changed tasks."""

from __future__ import annotations

from swarmpy.manager.dispatcher.assignments import AssignmentFeed
from swarmpy.manager.dispatcher.mesh import MeshBook
from swarmpy.manager.dispatcher.session import Session
from swarmpy.manager.dispatcher.turns import TURNS, Turns
from swarmpy.rpc.types_pb2 import ASSIGNED, RUNNING, Task, TaskStatus, TaskTemplate


def session_of(node_id: str) -> Session:
    def task(task_id: str) -> Task:
        status = TaskStatus(state=ASSIGNED)
        return Task(id=task_id, node_id=node_id, template_id="t", desired_state=RUNNING, status=status)

    feed = AssignmentFeed(node_id, [], task=task, template=lambda _: TaskTemplate(id="t"), held=lambda _: False)
    made = Session(f"session of {node_id}", node_id, feed, MeshBook())
    made.admit()
    return made


def told(session: Session) -> list[list[str]]:
    """The tasks of each message of assignments that is due."""
    messages = [message for message in session.drain() if not isinstance(message, bytes)]
    return [[task.id for task in message.assignments.tasks] for message in messages if message.HasField("assignments")]


def test_the_complete_set_waits_for_nothing_and_changes_for_a_turn() -> None:
    turns, session = Turns(), session_of("n")
    assert told(session) == [[]]
    for task_id in ("a", "b"):
        session.changed(task_id)
        turns.ask(session)
    assert told(session) == []
    assert turns.give() == 1
    assert told(session) == [["a", "b"]] and turns.waiting == 0


def test_turns_are_given_in_order_a_few_at_a_time() -> None:
    turns = Turns()
    sessions = [session_of(f"n{number}") for number in range(TURNS + 1)]
    for session in sessions:
        assert told(session) == [[]]
        session.changed("a")
        turns.ask(session)
    turns.leave(sessions[0])
    turns.ask(sessions[1])                                   # it waits already
    assert turns.give() == TURNS
    assert [told(session) for session in sessions] == [[], *[[["a"]]] * TURNS]
    assert turns.waiting == 0
