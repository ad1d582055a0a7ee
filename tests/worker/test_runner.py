"""One task's runner over simulated containers: what may be given up, what may not, and what is said meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from swarmpy.rpc.types_pb2 import (
    ASSIGNED,
    FAILED,
    READY,
    REJECTED,
    RUNNING,
    SHUTDOWN,
    STARTING,
    ContainerStatus,
    NetworkAttachment,
    Task,
    TaskSpec,
    TaskState,
    TaskStatus,
)
from swarmpy.worker.executor import Exit, Order, Started
from swarmpy.worker.runner import TaskRunner

from ..dispatcher.wire import drive, until
from .simulated import SimulatedExecutor


class Case:
    """A runner, and everything it told."""

    def __init__(
        self, executor: SimulatedExecutor, desired: TaskState = RUNNING, *, ingress: bool = False, template: bool = True
    ) -> None:
        networks = [NetworkAttachment(network_id="ingress", addresses=["10.0.0.5/24"])] if ingress else []
        task = Task(id="t", desired_state=desired, networks=networks)
        self.told: list[TaskStatus] = []
        self.is_gone = False
        self.network = asyncio.Event()

        async def gone(_: str) -> None:
            self.is_gone = True

        self.runner = TaskRunner(
            task, Order(task, TaskSpec()) if template else None, TaskStatus(state=ASSIGNED), executor,
            reached=lambda _, status: self.told.append(status), gone=gone, network_ready=self.network, clock=lambda: 7,
        )
        self.loop = asyncio.create_task(self.runner.run())

    async def at(self, state: TaskState) -> None:
        await until(lambda: self.runner.status.state == state, TaskState.Name(state))

    async def end(self) -> None:
        self.loop.cancel()
        await asyncio.wait({self.loop})


def test_a_task_waits_at_ready_until_it_shall_run() -> None:
    async def story() -> None:
        case = Case(SimulatedExecutor(), READY)
        await case.at(READY)
        case.runner.desire(RUNNING)
        await case.at(RUNNING)
        assert all(status.timestamp_ns == 7 for status in case.told)
        await case.end()

    drive(story)


def test_a_task_with_an_ingress_address_starts_when_the_node_is_in_the_mesh() -> None:
    async def story() -> None:
        case = Case(SimulatedExecutor(), ingress=True)
        await case.at(STARTING)
        case.network.set()
        await case.at(RUNNING)
        await case.end()

    drive(story)


def test_a_task_that_waits_for_the_mesh_can_still_be_stopped() -> None:
    async def story() -> None:
        case = Case(SimulatedExecutor(), ingress=True)
        await case.at(STARTING)
        case.runner.desire(SHUTDOWN)
        await case.at(SHUTDOWN)
        await case.end()

    drive(story)


def test_a_task_that_never_gets_healthy_can_be_stopped() -> None:
    async def story() -> None:
        executor = SimulatedExecutor()
        executor.unhealthy.add("t")
        case = Case(executor)
        await until(lambda: executor.containers.get("t") == "running", "its container runs")
        assert case.runner.status.state == STARTING
        case.runner.desire(SHUTDOWN)
        await case.at(SHUTDOWN)
        await case.end()

    drive(story)


def test_a_container_that_will_not_stop_is_never_called_stopped() -> None:
    async def story() -> None:
        executor = SimulatedExecutor()
        executor.unstoppable.add("t")
        case = Case(executor)
        await case.at(RUNNING)
        case.runner.desire(SHUTDOWN)
        await until(lambda: "stop failed" in case.runner.status.error, "the failure is told")
        assert case.runner.status.state == RUNNING
        executor.unstoppable.clear()
        await case.at(SHUTDOWN)
        await case.end()

    drive(story)


class BreakingExecutor(SimulatedExecutor):
    """Its code is wrong in one place."""

    def __init__(self, place: str, error: BaseException) -> None:
        super().__init__()
        self.place, self.error = place, error

    def _break(self, place: str) -> None:
        if place == self.place:
            raise self.error

    async def start(self, order: Order) -> Started:
        started = await super().start(order)
        self._break("start")
        return started

    async def wait(self, order: Order) -> Exit:
        self._break("wait")
        return await super().wait(order)

    async def stop(self, order: Order) -> ContainerStatus:
        self._break("stop")
        return await super().stop(order)

    async def remove(self, order: Order) -> None:
        self._break("remove")
        await super().remove(order)


@pytest.mark.parametrize("error", [RuntimeError("no such luck"), asyncio.CancelledError()], ids=["raises", "cancelled"])
@pytest.mark.parametrize("place", ["start", "wait", "stop", "remove"])
def test_a_mistake_in_the_executor_costs_its_task_and_not_the_runner(place: str, error: BaseException) -> None:
    async def story() -> None:
        executor = BreakingExecutor(place, error)
        case = Case(executor)
        if place in ("start", "wait"):
            await case.at(FAILED)
            assert f"{place} broke" in case.runner.status.error
            assert executor.containers["t"] != "running", "a task that failed does not run on"
        else:
            await case.at(RUNNING)
        case.runner.retire()
        if place == "stop":
            await until(lambda: "stop broke" in case.runner.status.error, "the failure is told")
        executor.place = "nowhere"
        await until(lambda: case.is_gone, "it goes")
        await case.end()

    drive(story)


def test_a_task_without_its_template_is_rejected_and_can_go() -> None:
    async def story() -> None:
        case = Case(SimulatedExecutor(), template=False)
        await case.at(REJECTED)
        assert "template" in case.runner.status.error
        case.runner.retire()
        await until(lambda: case.is_gone, "it goes")
        await case.end()

    drive(story)


def test_a_retired_task_is_stopped_before_it_is_removed() -> None:
    async def story() -> None:
        executor = SimulatedExecutor()
        case = Case(executor)
        await case.at(RUNNING)
        case.runner.retire()
        await until(lambda: case.is_gone, "it goes")
        assert [call for call, _ in executor.calls][-2:] == ["stop", "remove"] and executor.containers == {}
        await case.loop

    drive(story)
