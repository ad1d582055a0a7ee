"""When a newer spec leaves a task alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from swarmpy.manager.store import Versions, template_of
from swarmpy.rpc.types_pb2 import (
    FAILED,
    NEW,
    PENDING,
    PREPARING,
    READY,
    RUNNING,
    Node,
    PortConfig,
    Service,
    ServiceSpec,
    Task,
    TaskSpec,
    TaskState,
)

SSD = "node.labels.disk == ssd"


class World:
    """One service, one node, and every template ever asked for."""

    def __init__(self) -> None:
        self.service = Service(id="web")
        self.service.spec.task.container.image = "web:1"
        self.node = Node(id="n1")
        self.specs: dict[str, TaskSpec] = {}
        self.versions = Versions(self.specs.get, lambda node_id: self.node if node_id == "n1" else None)
        self.change(lambda spec: None)

    def change(self, change: Callable[[ServiceSpec], None]) -> None:
        change(self.service.spec)
        template = template_of(self.service.spec.task)
        self.specs[template.id] = template.spec
        self.service.template_id = template.id

    def task(self, state: TaskState = RUNNING) -> Task:
        """A task of the service as it is now."""
        task = Task(service_id="web", template_id=self.service.template_id)
        task.status.state = state
        if state > PENDING:
            task.node_id = "n1"
        if state >= PENDING:
            task.ports.extend(self.service.spec.endpoint.ports)
            if any(port.publish_mode == PortConfig.INGRESS for port in task.ports):
                task.networks.add(network_id="ingress")
        return task

    def is_current(self, task: Task) -> bool:
        return self.versions.is_current(self.service, task)


def set_image(spec: ServiceSpec) -> None:
    spec.task.container.image = "web:2"


def publish(mode: PortConfig.PublishMode, number: int) -> Callable[[ServiceSpec], None]:
    def change(spec: ServiceSpec) -> None:
        spec.endpoint.ports.add(published_port=number, target_port=80, publish_mode=mode)

    return change


def test_other_work_is_another_version() -> None:
    world = World()
    task = world.task()
    assert world.is_current(task)
    world.change(set_image)
    assert not world.is_current(task) and world.is_current(world.task())


def test_a_constraint_concerns_the_tasks_it_does_not_admit() -> None:
    world = World()
    running, waiting = world.task(), world.task(PENDING)
    world.change(lambda spec: spec.task.placement.constraints.append(SSD))
    assert not world.is_current(running)
    world.node.spec.annotations.labels["disk"] = "ssd"
    assert world.is_current(running)
    assert not world.is_current(waiting), "it would be placed by the old constraints"
    world.change(set_image)
    assert not world.is_current(running)


@pytest.mark.parametrize(("state", "current"), [(PREPARING, False), (READY, True), (RUNNING, True), (FAILED, False)])
def test_credentials_concern_the_tasks_without_their_image(state: TaskState, current: bool) -> None:
    world = World()
    task = world.task(state)
    world.change(lambda spec: setattr(spec.task.container, "registry_auth", "token"))
    assert world.is_current(task) is current


def test_ports_of_the_mesh_need_an_address_and_ports_of_the_node_are_its_tasks() -> None:
    world = World()
    bare, new = world.task(), world.task(NEW)
    world.change(publish(PortConfig.INGRESS, 8080))
    assert not world.is_current(bare) and world.is_current(new)
    reached = world.task()
    world.change(publish(PortConfig.INGRESS, 8081))
    assert world.is_current(reached)
    world.change(publish(PortConfig.HOST, 443))
    assert not world.is_current(reached)
    whole = world.task()
    world.change(lambda spec: spec.ClearField("endpoint"))
    assert not world.is_current(whole) and world.is_current(reached) and world.is_current(bare)


def test_a_template_that_is_gone_is_another_version() -> None:
    world = World()
    task = world.task()
    world.specs.clear()
    world.change(lambda spec: spec.task.placement.constraints.append("node.labels.disk != hdd"))
    assert not world.is_current(task)
