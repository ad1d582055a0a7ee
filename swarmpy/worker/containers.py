"""Tasks as containers of this host's engine.

Owns    the way from a task to its container: by its name, and where somebody renamed it, by its label.
"""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import AsyncIterator, Collection

from swarmpy.engine import ContainerRecord, Engine, Filters, LogOptions, Status
from swarmpy.errors import Conflict, NotFound, SwarmpyError
from swarmpy.image import Progress, RegistryAuth
from swarmpy.rpc.logs_pb2 import LogMessage
from swarmpy.rpc.types_pb2 import ContainerStatus, PortConfig, Task
from swarmpy.worker.container_spec import TASK_ID_LABEL, container_for
from swarmpy.worker.executor import Exit, LogWish, Order, Started, task_name
from swarmpy.worker.service_ports import drained, listening, tcp_ports

__all__ = ["EngineExecutor"]

UNHEALTHY = "task: unhealthy container"

log = logging.getLogger(__name__)


class EngineExecutor:
    """An `Executor`. `hostname` is what `{{.Node.Hostname}}` stands for."""

    def __init__(self, engine: Engine, *, hostname: str) -> None:
        self._engine = engine
        self._hostname = hostname

    async def prepare(self, order: Order) -> ContainerStatus:
        record = self._find(order.task)
        if record is None:
            wanted = container_for(
                order, hostname=self._hostname, architecture=platform.machine(), cpus=self._engine.parts.cpus
            )
            await self._have_image(order)
            creating = asyncio.create_task(
                self._engine.containers.create(wanted.config, wanted.host, wanted.networking, wanted.name)
            )
            try:
                await asyncio.shield(creating)
            except asyncio.CancelledError:
                await asyncio.wait({creating})           # then `remove` finds it
                raise
            record = self._get(order.task)
        return _status(record)

    async def _have_image(self, order: Order) -> None:
        """An image that is here is used as it is: it may exist in no registry at all."""
        image = order.spec.container.image
        try:
            self._engine.images.resolve(image)
        except NotFound:
            log.info("task %s: pulling %s", order.task.id, image)
            auth = RegistryAuth.from_header(order.spec.container.registry_auth)
            try:
                await self._engine.pull(image, auth, _unheard)
            except (SwarmpyError, OSError) as error:
                raise NotFound(f"No such image: {image} ({error})") from error

    async def start(self, order: Order) -> Started:
        record = self._get(order.task)
        if record.state.status is Status.CREATED:
            await self._engine.containers.start(record.id)
            record = self._get(order.task)
        return Started(_status(record), _host_ports(order.task, record))

    async def healthy(self, order: Order) -> None:
        record = self._get(order.task)
        verdict = await self._health(record, "healthy", "unhealthy")
        if verdict == "unhealthy":
            await self._end(order, record)
            raise Conflict(UNHEALTHY)
        if not verdict and record.state.running:
            await listening(record.state.pid, tcp_ports(order.task))

    async def wait(self, order: Order) -> Exit:
        record = self._get(order.task)
        ending = asyncio.ensure_future(self._engine.containers.wait(record.id))
        ailing = asyncio.create_task(self._health(record, "unhealthy"))
        try:
            await asyncio.wait({ending, ailing}, return_when=asyncio.FIRST_COMPLETED)
            unhealthy = not ending.done() and ailing.result() == "unhealthy"
            if unhealthy:
                await self._end(order, record)
            result = await ending
        finally:
            ending.cancel()
            ailing.cancel()
        after = self._find(order.task)
        if after is None:
            return Exit(ContainerStatus(container_id=record.id), error="task: its container was removed by somebody")
        return Exit(_status(after), after.state.oom_killed, UNHEALTHY if unhealthy else result.error)

    async def _health(self, record: ContainerRecord, *wanted: str) -> str:
        """The first of the wanted verdicts; "" when the container has no health check, or ended without one."""
        check = record.config.healthcheck
        if check is None or not check.test or check.test[0] == "NONE":
            return ""
        filters = Filters({"container": (record.id,), "event": ("health_status", "die")})
        events = self._engine.events.subscribe(filters=filters)
        coming = asyncio.ensure_future(anext(events))
        try:
            await asyncio.sleep(0)                       # the subscription begins before the state is read
            while True:
                state = self._engine.containers.get(record.id).state
                if not state.running:
                    return ""
                if state.health is not None and state.health.status in wanted:
                    return state.health.status
                await coming
                coming = asyncio.ensure_future(anext(events))
        finally:
            coming.cancel()

    async def stop(self, order: Order) -> ContainerStatus:
        record = self._find(order.task)
        if record is None:
            return ContainerStatus()
        if record.state.running:
            await drained(record.state.pid, tcp_ports(order.task))
        return await self._end(order, record)

    async def _end(self, order: Order, record: ContainerRecord) -> ContainerStatus:
        await self._engine.containers.stop(record.id, order.grace_ns / 1e9)
        return _status(self._find(order.task) or record)

    async def remove(self, order: Order) -> None:
        record = self._find(order.task)
        if record is not None:
            await self._engine.containers.remove(record.id, force=True, volumes=True)

    async def sweep(self, keep: Collection[str]) -> None:
        known = set(keep)
        for record in self._engine.containers.records():
            task_id = record.labels.get(TASK_ID_LABEL)
            if task_id is not None and task_id not in known:
                log.warning("container %s of task %s is removed: nobody knows the task", record.name, task_id)
                await self._engine.containers.remove(record.id, force=True, volumes=True)

    async def logs(self, order: Order, wish: LogWish) -> AsyncIterator[LogMessage]:
        record = self._find(order.task)
        if record is None:
            return
        options = LogOptions(
            wish.stdout, wish.stderr, wish.follow, wish.since_ns or None, None, None if wish.tail < 0 else wish.tail
        )
        async for line in self._engine.containers.logs(record.id, options):
            yield LogMessage(
                task_id=order.task.id, node_id=order.task.node_id, service_id=order.task.service_id,
                timestamp_ns=line.time_ns, data=line.data,
                stream=LogMessage.STDERR if line.stream == "stderr" else LogMessage.STDOUT,
            )

    def _find(self, task: Task) -> ContainerRecord | None:
        try:
            record = self._engine.containers.get(task_name(task))
            if record.labels.get(TASK_ID_LABEL) == task.id:
                return record
        except NotFound:
            pass
        records = self._engine.containers.records()
        return next((record for record in records if record.labels.get(TASK_ID_LABEL) == task.id), None)

    def _get(self, task: Task) -> ContainerRecord:
        record = self._find(task)
        if record is None:
            raise NotFound(f"task {task.id}: its container is gone")
        return record


def _unheard(progress: Progress) -> None:
    """Nobody watches the pull of a task."""


def _status(record: ContainerRecord) -> ContainerStatus:
    return ContainerStatus(container_id=record.id, pid=record.state.pid, exit_code=record.state.exit_code)


def _host_ports(task: Task, record: ContainerRecord) -> tuple[PortConfig, ...]:
    """The task's ports in host mode, with the host port each got."""
    wanted = {
        f"{port.target_port}/{PortConfig.Protocol.Name(port.protocol).lower()}": port
        for port in task.ports
        if port.publish_mode == PortConfig.HOST
    }
    found = []
    for key, _, host_port in record.ports:
        port = wanted.get(key)
        if port is not None:
            got = PortConfig()
            got.CopyFrom(port)
            got.published_port = int(host_port)
            found.append(got)
    return tuple(found)
