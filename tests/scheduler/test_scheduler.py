"""Choosing nodes: against a plain greedy choice, and rule by rule."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.manager.scheduler.filters import Needs, explain, needs_of
from swarmpy.manager.scheduler.node_info import FAILURE_WINDOW_NS
from swarmpy.manager.scheduler.nodes import NodeView
from swarmpy.manager.scheduler.spread import place
from swarmpy.rpc.types_pb2 import (
    ASSIGNED,
    FAILED,
    RUNNING,
    SHUTDOWN,
    Node,
    NodeSpec,
    NodeStatus,
    PortConfig,
    Task,
    TaskSpec,
)

NOW = 10**18


def make_node(name: str, memory: int = 1000, **labels: str) -> Node:
    node = Node(id=name)
    node.description.hostname = name.upper()
    node.description.platform.os, node.description.platform.architecture = "linux", "x86_64"
    node.description.resources.memory_bytes = memory
    node.status.state = NodeStatus.READY
    for key, value in labels.items():
        node.spec.annotations.labels[key] = value
    return node


class Swarm:
    """A view, the specs of its templates, and tasks placed one group at a time."""

    def __init__(self, *nodes: Node) -> None:
        self.specs: dict[str, TaskSpec] = {}
        self.view = NodeView(self.specs.get)
        self.count = 0
        for node in nodes:
            self.view.put_node(node)

    def needs(self, service: str, spec: TaskSpec | None = None, *ports: PortConfig) -> Needs:
        spec = spec or TaskSpec()
        self.specs[service] = spec
        return needs_of(Task(service_id=service, template_id=service, ports=ports), spec)

    def task(self, service: str, node: str, *ports: PortConfig) -> Task:
        self.count += 1
        task = Task(id=f"t{self.count}", service_id=service, template_id=service, node_id=node, ports=ports)
        task.desired_state, task.status.state = RUNNING, ASSIGNED
        return task

    def place(self, needs: Needs, count: int, *ports: PortConfig) -> list[str]:
        chosen = place(needs, count, self.view, NOW)
        tasks = [self.task(needs.claim.service_id, info.id, *ports) for info in chosen]
        self.view.take(needs.claim, [task.id for task in tasks], chosen)
        assert not any(self.view.put_task(task) for task in tasks), "it counted something else than the tasks say"
        return [info.id for info in chosen]


def reserving(memory: int) -> TaskSpec:
    spec = TaskSpec()
    spec.resources.reservations.memory_bytes = memory
    return spec


class Greedy:
    """The same choice made one task at a time by a look at every node."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.services = Counter[tuple[str, str]]()
        self.memory = Counter[str]()                        # taken

    def load(self, name: str) -> int:
        return sum(count for (_, node), count in self.services.items() if node == name)

    def fits(self, service: str, spec: TaskSpec, node: Node) -> bool:
        wanted, most = spec.resources.reservations.memory_bytes, spec.placement.max_replicas
        free = node.description.resources.memory_bytes - self.memory[node.id]
        labels = node.spec.annotations.labels
        return (
            node.spec.availability == NodeSpec.ACTIVE
            and (not wanted or free >= wanted)
            and (not most or self.services[service, node.id] < most)
            and all(labels.get("disk", "") == text.split("== ")[1] for text in spec.placement.constraints)
        )

    def choose(self, service: str, spec: TaskSpec) -> str | None:
        levels = [each.spread_descriptor.removeprefix("node.labels.") for each in spec.placement.preferences]
        paths = {name: [node.spec.annotations.labels.get(level, "") for level in levels]
                 for name, node in self.nodes.items()}  # fmt: skip
        fitting = [name for name, node in self.nodes.items() if self.fits(service, spec, node)]
        for depth in range(len(levels)):
            def below(name: str, depth: int = depth) -> tuple[int, str]:
                branch = paths[name][: depth + 1]
                members = [each for each in paths if paths[each][: depth + 1] == branch]
                return sum(self.services[service, each] for each in members), branch[-1]

            best = min(map(below, fitting), default=None)
            fitting = [name for name in fitting if below(name) == best]
        return min(fitting, key=lambda name: (self.services[service, name], self.load(name), name), default=None)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 10**6))
def test_placement_is_the_plain_greedy_one(seed: int) -> None:
    """Whatever shortcut is taken, and whatever happens to nodes between, each task goes where a look at every node
    would send it."""
    rng = random.Random(seed)
    swarm, greedy = Swarm(), Greedy()

    def change_node() -> None:
        node = make_node(
            f"n{rng.randrange(12)}", rng.choice([0, 300, 1000]), rack=rng.choice("ab"), room=rng.choice("xy"),
            disk=rng.choice(["ssd", "hdd"]),
        )  # fmt: skip
        node.spec.availability = rng.choice([NodeSpec.ACTIVE, NodeSpec.ACTIVE, NodeSpec.DRAIN])
        greedy.nodes[node.id] = node
        swarm.view.put_node(node)

    for _ in range(rng.randrange(1, 12)):
        change_node()
    for _ in range(rng.randrange(1, 25)):
        if rng.random() < 0.3:
            change_node()
            continue
        spec = reserving(rng.choice([0, 0, 100]))
        spec.placement.max_replicas = rng.choice([0, 0, 2])
        spec.placement.constraints.extend(rng.choice([[], [], ["node.labels.disk == ssd"]]))
        for level in rng.choice([[], [], ["rack"], ["room", "rack"]]):
            spec.placement.preferences.add(spread_descriptor=f"node.labels.{level}")
        service = f"{rng.choice('ab')} {spec!s}"
        wanted = rng.choice([1, rng.randrange(1, 20)])
        chosen = swarm.place(swarm.needs(service, spec), wanted)
        for name in chosen:
            assert name == greedy.choose(service, spec)
            greedy.services[service, name] += 1
            greedy.memory[name] += spec.resources.reservations.memory_bytes
        if len(chosen) < wanted:
            assert greedy.choose(service, spec) is None


def test_the_view_gives_back_what_it_counted() -> None:
    swarm = Swarm(make_node("n1"))
    port = PortConfig(published_port=80, publish_mode=PortConfig.HOST)
    swarm.needs("web", reserving(400))
    task = swarm.task("web", "n1", port)
    swarm.view.put_task(task)
    info = swarm.view["n1"]
    assert (info.memory_bytes, info.load, swarm.view.tasks_of("web"), len(info.ports)) == (600, 1, {"n1": 1}, 1)
    task.desired_state = SHUTDOWN
    assert swarm.view.put_task(task)
    assert (info.memory_bytes, info.load, swarm.view.tasks_of("web"), len(info.ports)) == (600, 0, {}, 1)
    task.status.state = FAILED
    assert swarm.view.put_task(task)
    assert (info.memory_bytes, info.load, swarm.view.tasks_of("web"), info.ports) == (1000, 0, {}, {})
    assert not swarm.view.remove_task(task.id)


def test_only_ready_active_nodes_take_tasks() -> None:
    down, drained, paused = make_node("down"), make_node("drained"), make_node("paused")
    down.status.state = NodeStatus.DOWN
    drained.spec.availability = NodeSpec.DRAIN
    paused.spec.availability = NodeSpec.PAUSE
    swarm = Swarm(down, drained, paused, make_node("well"))
    assert swarm.place(swarm.needs("web"), 2) == ["well", "well"]
    swarm.view.remove_node("well")
    assert swarm.place(swarm.needs("web"), 1) == []
    assert explain(swarm.needs("web"), swarm.view.all()) == "no suitable node (3 nodes not available for new tasks)"
    assert explain(swarm.needs("web"), ()) == "no suitable node"


def test_constraints_platforms_and_ports_are_explained_by_the_first_reason() -> None:
    swarm = Swarm(
        make_node("a", disk="ssd"), make_node("b", disk="hdd"), make_node("c"), make_node("d", memory=10, disk="ssd")
    )
    spec = reserving(100)
    spec.placement.constraints.append("node.labels.disk == SSD")
    needs = swarm.needs("db", spec)
    assert swarm.place(needs, 11) == ["a"] * 10
    assert explain(needs, swarm.view.all()) == (
        "no suitable node (insufficient resources on 2 nodes; scheduling constraints not satisfied on 2 nodes)"
    )
    arm = TaskSpec()
    arm.placement.platforms.add(os="linux", architecture="aarch64")
    assert explain(swarm.needs("arm", arm), swarm.view.all()) == "no suitable node (unsupported platform on 4 nodes)"
    arm.placement.platforms.add(os="linux", architecture="amd64")
    assert len(swarm.place(swarm.needs("any", arm), 4)) == 4
    port = PortConfig(published_port=80, publish_mode=PortConfig.HOST)
    web = swarm.needs("web", None, port)
    assert sorted(swarm.place(web, 6, port)) == ["a", "b", "c", "d"]
    assert explain(web, swarm.view.all()) == "no suitable node (host-mode port already in use on 4 nodes)"


def test_a_preference_divides_tasks_evenly_before_nodes_do() -> None:
    swarm = Swarm(
        *(make_node(f"a{number}", rack="a", room="x") for number in range(6)),
        make_node("b0", rack="b", room="x"),
        make_node("c0", memory=200, rack="c", room="y"),
    )
    spec = reserving(100)
    spec.placement.preferences.add(spread_descriptor="node.labels.room")
    spec.placement.preferences.add(spread_descriptor="node.labels.rack")
    chosen = Counter(swarm.place(swarm.needs("web", spec), 10))
    assert chosen["c0"] == 2                         # half would be 5, but there is room for 2
    assert chosen["b0"] == 4
    assert sum(chosen[f"a{number}"] for number in range(6)) == 4


def test_a_node_where_a_service_keeps_failing_comes_last() -> None:
    swarm = Swarm(make_node("a"), make_node("b"))
    needs = swarm.needs("web")
    for number in range(5):
        failed = swarm.task("web", "a")
        failed.status.state = FAILED
        failed.ended_ns = NOW - 5 + number
        swarm.view.note_failure(failed)
        expected = ["a", "b"] if number < 4 else ["b", "b"]
        assert sorted(swarm.place(needs, 2)) == expected
        for task_id in list(swarm.view._held):
            swarm.view.remove_task(task_id)
    assert sorted(swarm.place(swarm.needs("other"), 2)) == ["a", "b"]
    assert swarm.view["a"].recent_failures(("web", "web"), NOW + FAILURE_WINDOW_NS) == 0


@pytest.mark.parametrize("nodes", [1, 7])
def test_a_node_too_small_for_what_it_runs_still_takes_what_asks_for_nothing(nodes: int) -> None:
    swarm = Swarm(*(make_node(f"n{number}", memory=500) for number in range(nodes)))
    swarm.place(swarm.needs("big", reserving(500)), nodes)
    for number in range(nodes):
        swarm.view.put_node(make_node(f"n{number}", memory=100))
    assert len(swarm.place(swarm.needs("small"), 3)) == 3
    assert swarm.place(swarm.needs("wants", reserving(1)), 1) == []
