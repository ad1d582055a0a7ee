"""One task on this node: takes the steps that `steps` says, and tells of each.

Owns    the observed state of one task. A runner lives as long as the node holds the task: after the task has ended it
        keeps its container for logs and inspection, until the managers remove the task.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from swarmpy.errors import Internal, SwarmpyError
from swarmpy.rpc.types_pb2 import (
    FAILED,
    REJECTED,
    RUNNING,
    SHUTDOWN,
    ContainerStatus,
    Task,
    TaskState,
    TaskStatus,
)
from swarmpy.worker.executor import Executor, Order, Started
from swarmpy.worker.steps import Step, Work, next_step

__all__ = ["TaskRunner"]

RETRY_S = 1.0
LONGEST_RETRY_S = 30.0

T = TypeVar("T")
log = logging.getLogger(__name__)


class _Broke(Internal):
    """A mistake of ours, whatever it made of the container."""


class TaskRunner:
    """`order` is None for a task whose template never came: it is rejected. `reached` is called with every new status.

    `network_ready` is waited for before a task with an address in the ingress network starts.
    """

    def __init__(
        self,
        task: Task,
        order: Order | None,
        status: TaskStatus,
        executor: Executor,
        *,
        reached: Callable[[str, TaskStatus], None],
        gone: Callable[[str], Awaitable[None]],
        network_ready: asyncio.Event,
        clock: Callable[[], int],
    ) -> None:
        self.task_id = task.id
        self.order = order
        self.status = status
        self._desired: TaskState = task.desired_state
        self._executor = executor
        self._reached = reached
        self._gone = gone
        self._network_ready = network_ready
        self._clock = clock
        self._going = False
        self._wake = asyncio.Event()

    def desire(self, desired: TaskState) -> None:
        """The managers want the task elsewhere. What is desired never goes back."""
        if desired > self._desired:
            self._desired = desired
            self._wake.set()

    def retire(self) -> None:
        """The task is no longer assigned: end it as it should end, then remove its container, then `gone`."""
        self._going = True
        self.desire(SHUTDOWN)
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled (the container goes on), or the task is gone."""
        while True:
            step = next_step(self.status.state, self._desired)
            if step is not None and step.work is Work.START and not self._may_start():
                await self._first(self._network_ready.wait(), self._wake.wait())
                self._wake.clear()
            elif step is not None:
                await self._take(step)
            elif self._going:
                await self._remove()
                await self._gone(self.task_id)
                return
            else:
                await self._wake.wait()
                self._wake.clear()

    async def _take(self, step: Step) -> None:
        if self.order is None:
            self._move(REJECTED, "preparing", "the task came without its template: its manager is at fault")
            return
        if step.work is Work.NONE:
            self._move(step.success, step.message)
            return
        working = asyncio.create_task(self._work(step, self.order))
        try:
            while not await self._done_or_woken(working):
                if step.interruptible and self._desired > RUNNING:
                    return
            self._adopt(working.result())
        finally:
            working.cancel()
            await asyncio.wait({working})

    def _may_start(self) -> bool:
        return self.order is None or not self.order.task.networks or self._network_ready.is_set()

    async def _done_or_woken(self, working: asyncio.Task[TaskStatus]) -> bool:
        """Whether the work is done; False when something else is to be looked at first."""
        await self._first(asyncio.wait({working}), self._wake.wait())
        if not working.done():
            self._wake.clear()
        return working.done()

    @staticmethod
    async def _first(*waits: Coroutine[Any, Any, object]) -> None:
        """Return when one of the waits is over; the others are given up."""
        waiting = {asyncio.create_task(wait) for wait in waits}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def _work(self, step: Step, order: Order) -> TaskStatus:
        """Do the work; the status it leads to."""
        if step.work in (Work.STOP, Work.DISCARD):
            return await self._insist(step, order)
        try:
            return await self._guarded(step.work.value, self._perform(step, order))
        except (SwarmpyError, OSError) as error:
            if isinstance(error, _Broke) and step.work in (Work.START, Work.WAIT):
                # The container may run: it is stopped before anybody hears that the task failed.
                status = await self._insist(Step(Work.STOP, step.failure, self.status.message), order)
                status.error = str(error)
                return status
            return self._status(step.failure, self.status.message, str(error))

    async def _guarded(self, what: str, work: Coroutine[Any, Any, T]) -> T:
        """A mistake of ours in `work` becomes _Broke, for it shall cost this task and no other; a cancellation that
        nobody asked of this task is one."""
        task = asyncio.current_task()
        try:
            return await work
        except (SwarmpyError, OSError):
            raise
        except (Exception, asyncio.CancelledError) as error:
            if task is not None and task.cancelling():
                raise
            log.exception("task %s: %s broke", self.task_id, what)
            raise _Broke(f"{what} broke: {error!r}") from error

    async def _perform(self, step: Step, order: Order) -> TaskStatus:
        if step.work is Work.PREPARE:
            container = await self._executor.prepare(order)
            return self._status(step.success, step.message, container=container)
        if step.work is Work.START:
            started = await self._start(order)
            status = self._status(step.success, step.message, container=started.container)
            status.host_ports.extend(started.host_ports)
            return status
        if step.work is Work.WAIT:
            ended = await self._executor.wait(order)
            failure = ended.failure
            message = "started" if failure else step.message
            return self._status(FAILED if failure else step.success, message, failure, ended.container)
        if step.work is Work.STOP:
            return self._status(step.success, step.message, container=await self._executor.stop(order))
        await self._executor.remove(order)
        return self._status(step.success, step.message)

    async def _start(self, order: Order) -> Started:
        """Start and wait for health. The latter may be given up; half of a start would help nobody."""
        starting = asyncio.create_task(self._executor.start(order))
        try:
            started = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait({starting})
            raise
        await self._executor.healthy(order)
        return started

    async def _insist(self, step: Step, order: Order) -> TaskStatus:
        """A container that cannot be stopped still runs: never say otherwise, and try again."""
        wait_s = RETRY_S
        while True:
            try:
                return await self._guarded(step.work.value, self._perform(step, order))
            except (SwarmpyError, OSError) as error:
                what = step.work.value
                log.error("task %s: %s failed, trying again in %.0f s: %s", self.task_id, what, wait_s, error)
                self._move(self.status.state, self.status.message, f"{what} failed: {error}")
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_RETRY_S)

    async def _remove(self) -> None:
        wait_s = RETRY_S
        while self.order is not None:
            try:
                await self._guarded("removal", self._executor.remove(self.order))
                return
            except (SwarmpyError, OSError) as error:
                log.error("task %s: its container could not be removed, trying again: %s", self.task_id, error)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_RETRY_S)

    def _move(self, state: TaskState, message: str, error: str = "") -> None:
        self._adopt(self._status(state, message, error))

    def _adopt(self, status: TaskStatus) -> None:
        self.status = status
        self._reached(self.task_id, status)

    def _status(
        self, state: TaskState, message: str, error: str = "", container: ContainerStatus | None = None
    ) -> TaskStatus:
        """The next status: host ports only while it runs, the container from before unless there is a newer one."""
        status = TaskStatus(state=state, timestamp_ns=self._clock(), message=message, error=error)
        if container is not None:
            status.container.CopyFrom(container)
        elif self.status.HasField("container"):
            status.container.CopyFrom(self.status.container)
        if state == self.status.state:
            status.host_ports.extend(self.status.host_ports)
        return status
