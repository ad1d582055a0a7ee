"""The mesh view: versions, diffs and withdrawals."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarmpy.manager.dispatcher import mesh
from swarmpy.manager.dispatcher.mesh import WITHDRAWAL_NS, MeshBook, Withdrawals, endpoint_of
from swarmpy.rpc.dispatcher_pb2 import MeshNode, MeshTask, MeshUpdate, ToAgent
from swarmpy.rpc.types_pb2 import RUNNING, SHUTDOWN, STARTING, Network, NetworkAttachment, Task, TaskState, TaskStatus


def task(desired: TaskState = RUNNING, state: TaskState = RUNNING) -> Task:
    return Task(
        id="t", service_id="s", node_id="n", desired_state=desired, status=TaskStatus(state=state),
        networks=[NetworkAttachment(network_id="ingress", addresses=["10.0.0.5/24"])],
    )


def test_an_endpoint_lives_while_its_task_runs_and_shall_run() -> None:
    assert endpoint_of(task(), "ingress") == MeshTask(id="t", service_id="s", node_id="n", address="10.0.0.5/24")
    assert endpoint_of(task(desired=SHUTDOWN), "ingress") is None
    assert endpoint_of(task(state=STARTING), "ingress") is None
    assert endpoint_of(task(state=SHUTDOWN), "ingress") is None
    assert endpoint_of(task(), "other") is None
    assert endpoint_of(None, "ingress") is None


class Node:
    """Folds updates as an agent does."""

    def __init__(self) -> None:
        self.version = 0
        self.tasks: dict[str, str] = {}
        self.nodes: set[str] = set()
        self.port = 0

    def take(self, messages: tuple[bytes, ...]) -> list[MeshUpdate]:
        updates = [ToAgent.FromString(message).mesh for message in messages]
        for update in updates:
            if update.complete:
                self.tasks, self.nodes = {}, set()
            self.tasks |= {row.id: row.address for row in update.tasks}
            self.nodes |= {row.id for row in update.nodes}
            self.nodes -= set(update.removed_nodes)
            for task_id in update.removed_tasks:
                self.tasks.pop(task_id, None)
            self.port = update.data_path_port or self.port
            if not update.more:
                self.version = update.version
        return updates


def test_all_nodes_at_a_version_get_the_same_bytes() -> None:
    book = MeshBook()
    book.nodes.put("a", MeshNode(id="a", addr="192.0.2.1"))
    book.flush()
    assert book.encode(0) is book.encode(0)
    assert book.encode(book.version) == ()


def test_a_burst_is_one_version_and_an_object_once() -> None:
    book = MeshBook()
    for last in range(10):
        book.tasks.put("t", MeshTask(id="t", address=f"10.0.0.{last}/24"))
    book.flush()
    assert book.version == 2
    node = Node()
    [update] = node.take(book.encode(1))
    assert not update.complete and len(update.tasks) == 1


def test_nodes_that_come_and_go_are_not_urgent_and_one_that_moved_is() -> None:
    book = MeshBook()
    book.nodes.put("a", MeshNode(id="a", addr="192.0.2.1"))
    assert book.dirty and not book.urgent
    book.flush()
    book.nodes.put("a", MeshNode(id="a", addr="192.0.2.2"))
    assert book.urgent
    book.flush()
    book.nodes.put("a", None)
    assert book.dirty and not book.urgent


def test_a_node_far_behind_gets_the_whole_view() -> None:
    book, node = MeshBook(), Node()
    for number in range(mesh.HISTORY + 10):
        book.tasks.put("t", MeshTask(id="t", address=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/8"))
        book.flush()
    assert node.take(book.encode(1))[0].complete
    assert not node.take(book.encode(book.version - 5))[0].complete


def test_a_large_view_comes_in_parts_of_one_version() -> None:
    book, node = MeshBook(), Node()
    for number in range(2 * mesh.PART_ENTRIES + 1):
        book.tasks.put(str(number), MeshTask(id=str(number)))
    book.put_network(Network(id="ingress"), 4789)
    book.flush()
    updates = node.take(book.encode(0))
    assert [(update.complete, update.more) for update in updates] == [(True, True), (False, True), (False, False)]
    assert len(node.tasks) == 2 * mesh.PART_ENTRIES + 1 and node.port == 4789


@given(st.lists(st.tuples(st.sampled_from(["put", "drop", "flush", "a", "b"]), st.integers(0, 4), st.integers(0, 3))))
def test_nodes_of_any_pace_arrive_at_the_same_view(script: list[tuple[str, int, int]]) -> None:
    book = MeshBook()
    nodes = {"a": Node(), "b": Node()}
    for act, key, value in script:
        if act == "put":
            book.tasks.put(str(key), MeshTask(id=str(key), address=str(value)))
        elif act == "drop":
            book.tasks.put(str(key), None)
        elif act == "flush":
            book.flush()
        else:
            nodes[act].take(book.encode(nodes[act].version))
    book.flush()
    for node in nodes.values():
        node.take(book.encode(node.version))
        assert node.tasks == {key: entry.address for key, entry in book.tasks.entries.items()}
        assert node.version == book.version


def test_a_task_is_released_when_every_connected_node_has_applied_its_withdrawal() -> None:
    withdrawals = Withdrawals()
    for session in ("a", "b"):
        withdrawals.joined(session)
    withdrawals.hold("t", 5, 0)
    withdrawals.applied("a", 5)
    assert withdrawals.release(1) == [] and withdrawals.held("t")
    withdrawals.applied("b", 6)
    assert withdrawals.release(1) == ["t"] and not withdrawals.held("t")


def test_a_node_that_leaves_is_not_waited_for_and_time_frees_in_the_end() -> None:
    withdrawals = Withdrawals()
    withdrawals.joined("a")
    withdrawals.joined("b")
    withdrawals.applied("a", 9)
    withdrawals.hold("t", 5, 0)
    withdrawals.left("b")
    assert withdrawals.release(1) == ["t"]
    withdrawals.hold("u", 10, 0)
    assert withdrawals.release(WITHDRAWAL_NS - 1) == []
    assert withdrawals.release(WITHDRAWAL_NS) == ["u"]


def test_a_new_leader_waits_for_nodes_that_have_yet_to_come() -> None:
    withdrawals = Withdrawals()
    withdrawals.expect(["a", "b", "gone"], 2 * WITHDRAWAL_NS)
    for session, node in (("s1", "a"), ("s2", "b")):
        withdrawals.hold("t", 2, 0)
        assert withdrawals.release(WITHDRAWAL_NS) == []
        withdrawals.joined(session)
        withdrawals.not_awaited(node)
    withdrawals.applied("s1", 2)
    withdrawals.not_awaited("gone")
    assert withdrawals.release(WITHDRAWAL_NS) == [], "the second has not applied it"
    withdrawals.applied("s2", 2)
    assert withdrawals.release(WITHDRAWAL_NS) == ["t"]


def test_a_node_that_does_not_come_to_a_new_leader_delays_an_end_and_no_more() -> None:
    withdrawals = Withdrawals()
    withdrawals.expect(["a"], 2 * WITHDRAWAL_NS)
    withdrawals.hold("t", 2, 0)
    assert withdrawals.release(2 * WITHDRAWAL_NS - 1) == []
    assert withdrawals.release(2 * WITHDRAWAL_NS) == ["t"]
    withdrawals.hold("u", 3, 2 * WITHDRAWAL_NS)
    assert withdrawals.release(3 * WITHDRAWAL_NS) == ["u"]
