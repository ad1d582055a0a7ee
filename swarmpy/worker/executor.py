"""What a worker needs done to containers, as a task sees it; `containers.EngineExecutor` does it with the engine.

Every method may be called again after a crash half-way through: it finds the container by the task's id, and does what
is missing. Failures are SwarmpyErrors, whose text becomes the task's error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Protocol

from swarmpy.rpc.logs_pb2 import LogMessage
from swarmpy.rpc.types_pb2 import ContainerStatus, PortConfig, Task, TaskSpec

__all__ = ["Executor", "Exit", "LogWish", "Order", "Started", "task_name"]

DEFAULT_GRACE_NS = 10_000_000_000


def task_name(task: Task) -> str:
    """"web.1.<task id>": the name of the task's container too."""
    return f"{task.service_name}.{task.slot}.{task.id}"


@dataclass(frozen=True, slots=True)
class Order:
    """One task and what it is made from."""

    task: Task
    spec: TaskSpec

    @property
    def grace_ns(self) -> int:
        """Between the stop signal and SIGKILL."""
        container = self.spec.container
        return container.stop_grace_period_ns if container.HasField("stop_grace_period_ns") else DEFAULT_GRACE_NS


@dataclass(frozen=True, slots=True)
class Started:
    """A container that runs, and the ports it has on this host (mode=host)."""

    container: ContainerStatus
    host_ports: tuple[PortConfig, ...] = ()


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended."""

    container: ContainerStatus
    oom_killed: bool = False
    error: str = ""              # of the engine, when it ended without its process having run

    @property
    def failure(self) -> str:
        """Why this is not a success, in the words of `docker service ps`; "" for exit code 0."""
        if self.error:
            return self.error
        if self.container.exit_code == 0:
            return ""
        text = f"task: non-zero exit ({self.container.exit_code})"
        return f"{text}: killed for want of memory" if self.oom_killed else text


@dataclass(frozen=True, slots=True)
class LogWish:
    """Which lines are wanted. `tail` negative: all."""

    follow: bool
    stdout: bool
    stderr: bool
    since_ns: int
    tail: int


class Executor(Protocol):
    """See the module."""

    async def prepare(self, order: Order) -> ContainerStatus:
        """The image is here and the container exists. May be cancelled; `remove` then takes away what was made."""

    async def start(self, order: Order) -> Started:
        """The container runs, or has run."""

    async def healthy(self, order: Order) -> None:
        """Returns once the container is healthy, or, without a health check, listens on the ports that published TCP
        ports lead to or has had its time to; or has ended. May be cancelled.

        Raises Conflict when it is unhealthy; it is stopped then.
        """

    async def wait(self, order: Order) -> Exit:
        """Returns once the container no longer runs; one that becomes unhealthy is stopped. May be cancelled."""

    async def stop(self, order: Order) -> ContainerStatus:
        """The container has ended: by its stop signal, or killed after the grace. It still exists.

        The signal comes when no client waits for an answer of its published TCP ports, or a little later.
        """

    async def remove(self, order: Order) -> None:
        """No container of the task is left, whatever state it was in."""

    async def sweep(self, keep: Collection[str]) -> None:
        """No container of a task that is not in `keep` is left: they belong to tasks that nobody knows any more."""

    def logs(self, order: Order, wish: LogWish) -> AsyncIterator[LogMessage]:
        """The lines of the task's container; none when it has no container."""
