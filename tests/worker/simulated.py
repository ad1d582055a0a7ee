"""An executor without containers and a mesh without a kernel: the far side of the worker's own seams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection

from swarmpy.errors import NotFound
from swarmpy.network import MeshView
from swarmpy.rpc.logs_pb2 import LogMessage
from swarmpy.rpc.types_pb2 import ContainerStatus
from swarmpy.worker.executor import Exit, LogWish, Order, Started


class SimulatedExecutor:
    """Containers as a dictionary that outlives daemons: "created", "running", or the Exit they ended with."""

    def __init__(self) -> None:
        self.containers: dict[str, str | Exit] = {}
        self.changed = asyncio.Condition()
        self.unpullable: set[str] = set()
        self.unstoppable: set[str] = set()
        self.unhealthy: set[str] = set()
        self.calls: list[tuple[str, str]] = []
        self.lines: dict[str, list[bytes]] = {}

    async def _set(self, task_id: str, state: str | Exit | None) -> None:
        async with self.changed:
            if state is None:
                self.containers.pop(task_id, None)
            else:
                self.containers[task_id] = state
            self.changed.notify_all()

    async def prepare(self, order: Order) -> ContainerStatus:
        self.calls.append(("prepare", order.task.id))
        if order.spec.container.image in self.unpullable:
            raise NotFound(f"No such image: {order.spec.container.image}")
        self.containers.setdefault(order.task.id, "created")
        return ContainerStatus(container_id=f"c-{order.task.id}")

    async def start(self, order: Order) -> Started:
        self.calls.append(("start", order.task.id))
        if self.containers.get(order.task.id) == "created":
            await self._set(order.task.id, "running")
        return Started(ContainerStatus(container_id=f"c-{order.task.id}", pid=1))

    async def healthy(self, order: Order) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: order.task.id not in self.unhealthy)

    async def wait(self, order: Order) -> Exit:
        async with self.changed:
            await self.changed.wait_for(lambda: self.containers.get(order.task.id) != "running")
        found = self.containers.get(order.task.id)
        if not isinstance(found, Exit):
            raise NotFound(f"task {order.task.id}: its container is gone")
        return found

    async def stop(self, order: Order) -> ContainerStatus:
        self.calls.append(("stop", order.task.id))
        if order.task.id in self.unstoppable:
            raise NotFound("the signal did not arrive")
        if self.containers.get(order.task.id) == "running":
            await self.end(order.task.id, 143)
        return ContainerStatus(container_id=f"c-{order.task.id}", exit_code=143)

    async def remove(self, order: Order) -> None:
        self.calls.append(("remove", order.task.id))
        await self._set(order.task.id, None)

    async def sweep(self, keep: Collection[str]) -> None:
        for task_id in [key for key in self.containers if key not in keep]:
            await self._set(task_id, None)

    async def logs(self, order: Order, wish: LogWish) -> AsyncIterator[LogMessage]:
        for number, line in enumerate(self.lines.get(order.task.id, ())):
            if number + 1 >= wish.since_ns:
                yield LogMessage(
                    task_id=order.task.id, node_id=order.task.node_id, service_id=order.task.service_id,
                    timestamp_ns=number + 1, stream=LogMessage.STDOUT, data=line,
                )
        if wish.follow:
            await self.wait(order)

    async def end(self, task_id: str, exit_code: int = 0, *, oom: bool = False) -> None:
        """The container's process ends."""
        await self._set(task_id, Exit(ContainerStatus(container_id=f"c-{task_id}", exit_code=exit_code), oom))


class RecordingMesh:
    """Keeps the last view it was given."""

    def __init__(self) -> None:
        self.view: MeshView | None = None
        self.closed = ""
        self.broken = False

    async def apply(self, view: MeshView) -> None:
        if self.broken:
            raise OSError("the kernel refuses")
        self.view = view

    async def glance(self) -> bool:
        return False

    async def audit(self) -> bool:
        return False

    async def release(self) -> None:
        self.closed = "released"

    async def close(self) -> None:
        self.closed = "closed"
