"""A leader on a real gRPC port, over a real store and a log in memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc

from swarmpy.errors import Forbidden
from swarmpy.manager.dispatcher import Dispatcher
from swarmpy.manager.store import MemoryLog, Store, Transaction, template_of
from swarmpy.rpc.dispatcher_pb2 import FromAgent, Heartbeat, Hello, MeshApplied, StatusReport, TaskStatusUpdate, ToAgent
from swarmpy.rpc.types_pb2 import (
    ASSIGNED,
    MANAGER,
    RUNNING,
    WORKER,
    Annotations,
    Cluster,
    ContainerSpec,
    Endpoint,
    Network,
    NetworkAttachment,
    NetworkSpec,
    Node,
    NodeDescription,
    NodeStatus,
    PortConfig,
    Service,
    ServiceSpec,
    Task,
    TaskSpec,
    TaskState,
    TaskStatus,
)

DEADLINE_S = 10.0
NODE_HEADER = "node"             # stands in for the certificate where there is no TLS


def named_peer(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The node that the caller says it is."""
    for key, value in context.invocation_metadata() or ():
        if key == NODE_HEADER:
            return str(value)
    raise Forbidden("the caller names no node")


async def until(condition: Callable[[], bool], what: str) -> None:
    """Return once the condition holds; fail after the deadline, saying what did not happen."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what


class Clock:
    """Monotonic time that a test can push forward."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return time.monotonic_ns() + self.ahead


class Leader:
    """One manager that leads: its store, log, dispatcher and port."""

    def __init__(self) -> None:
        self.server = grpc.aio.server()
        self.addr = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.store = Store(lambda: 1)
        self.log = MemoryLog(self.store, node_id="m1", addr=self.addr)
        self.store.bind(self.log)
        self.clock = Clock()
        self.answering: set[str] = set()         # addresses of hosts that answer when they are asked
        self.missed = 0                          # answers of each host that get lost
        self.asked: list[tuple[str, int]] = []
        self.dispatcher = Dispatcher(
            self.store, self.log, named_peer, monotonic=self.clock, host_answers=self._host_answers
        )
        self.dispatcher.add_to_server(self.server)
        self._run: asyncio.Task[None] | None = None

    async def _host_answers(self, host: str, port: int, patience_s: float) -> bool:
        self.asked.append((host, port))
        return host in self.answering and self.asked.count((host, port)) > self.missed

    async def lead(self) -> None:
        self._run = asyncio.create_task(self.dispatcher.run())
        await until(lambda: self.dispatcher.statistics() is not None, "the term begins")

    async def pass_time(self, ns: int) -> None:
        """Let time pass for the dispatcher, and wait until it has looked at its heartbeats since."""
        self.clock.ahead += ns
        now = self.clock()

        def looked() -> bool:
            statistics = self.dispatcher.statistics()
            return statistics is not None and statistics.judged_ns >= now

        await until(looked, "the dispatcher looks at its heartbeats")

    async def step_down(self) -> None:
        if self._run is not None:
            self._run.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._run
            self._run = None

    async def put(self, *objects: Any) -> None:
        transaction = Transaction()
        transaction.put(*objects)
        await self.store.commit(transaction)

    async def add_nodes(self, *node_ids: str) -> None:
        await self.put(*(
            Node(
                id=node_id, role=MANAGER if node_id.startswith("m") else WORKER,
                status=NodeStatus(state=NodeStatus.UNKNOWN),
                ingress=NetworkAttachment(network_id="ingress", addresses=[f"10.0.0.{200 + number}/24"]),
            )
            for number, node_id in enumerate(node_ids)
        ))

    async def add_service(self, service_id: str = "s1", name: str = "web") -> None:
        """A service with one published port, its template, and the ingress network."""
        spec = TaskSpec(container=ContainerSpec(image="web"))
        template = template_of(spec)
        ports = [PortConfig(target_port=80, published_port=8080)]
        objects: list[Any] = [
            template,
            Service(
                id=service_id, template_id=template.id,
                spec=ServiceSpec(annotations=Annotations(name=name), task=spec), endpoint=Endpoint(ports=ports),
            ),
        ]
        if self.store.cluster is None:
            objects.append(Cluster(id="c1"))
            objects.append(Network(id="ingress", spec=NetworkSpec(
                annotations=Annotations(name="ingress"), driver="overlay", ingress=True,
            )))
        await self.put(*objects)

    def task(self, task_id: str, node_id: str, slot: int = 1, service_id: str = "s1", **status: Any) -> Task:
        return Task(
            id=task_id, service_id=service_id, service_name="web", slot=slot, node_id=node_id, desired_state=RUNNING,
            template_id=self.store.services[service_id].template_id,
            status=TaskStatus(state=status.pop("state", ASSIGNED)),
            networks=[NetworkAttachment(network_id="ingress", addresses=[f"10.0.0.{slot + 1}/24"])],
        )

    async def desire(self, task_id: str, desired: TaskState) -> None:
        copy = Task()
        copy.CopyFrom(self.store.tasks[task_id])
        copy.desired_state = desired
        await self.put(copy)


class FakeAgent:
    """The wire's other end, by hand: says what it is told to, and remembers what it heard."""

    def __init__(self, addr: str, node_id: str, advertise_addr: str = "") -> None:
        self.node_id = node_id
        self._advertise_addr = advertise_addr
        self.channel = grpc.aio.insecure_channel(addr)
        self.call = self.channel.stream_stream(
            "/swarmpy.v1.Dispatcher/Session", FromAgent.SerializeToString, ToAgent.FromString
        )(None, metadata=((NODE_HEADER, node_id),))
        self.heard: list[ToAgent] = []
        self.error: grpc.aio.AioRpcError | None = None
        self.ended = False
        self.desired: dict[str, TaskState] = {}
        self.mesh_version = 0
        self.endpoints: set[str] = set()
        self.stored = 0
        self._sequence = 0
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for message in self.call:
                self._hear(message)
        except grpc.aio.AioRpcError as error:
            self.error = error
        self.ended = True

    def _hear(self, message: ToAgent) -> None:
        self.heard.append(message)
        kind = message.WhichOneof("message")
        if kind == "assignments":
            if message.assignments.complete:
                self.desired = {}
            self.desired |= {task.id: task.desired_state for task in message.assignments.tasks}
            for task_id in message.assignments.removed_tasks:
                del self.desired[task_id]
        elif kind == "mesh":
            if message.mesh.complete:
                self.endpoints = set()
            self.endpoints |= {row.id for row in message.mesh.tasks}
            self.endpoints -= set(message.mesh.removed_tasks)
            self.mesh_version = message.mesh.version
        elif kind == "stored":
            self.stored = message.stored.sequence

    async def hello(self, tasks: Iterable[TaskStatusUpdate] = ()) -> None:
        description = NodeDescription(hostname=self.node_id)
        hello = Hello(description=description, tasks=tasks, advertise_addr=self._advertise_addr)
        await self.call.write(FromAgent(hello=hello))
        await until(lambda: bool(self.heard) or self.ended, f"{self.node_id} is welcomed")

    async def beat(self) -> None:
        await self.call.write(FromAgent(heartbeat=Heartbeat()))

    async def report(self, **states: TaskState) -> int:
        self._sequence += 1
        updates = [TaskStatusUpdate(task_id=key, status=TaskStatus(state=value)) for key, value in states.items()]
        await self.call.write(FromAgent(report=StatusReport(sequence=self._sequence, updates=updates)))
        return self._sequence

    async def applied(self) -> None:
        await self.call.write(FromAgent(mesh_applied=MeshApplied(version=self.mesh_version)))

    async def close(self) -> None:
        self.call.cancel()
        await asyncio.wait({self._reader})
        await self.channel.close(None)


@contextlib.asynccontextmanager
async def leader() -> AsyncIterator[Leader]:
    """A manager that serves and leads."""
    made = Leader()
    await made.server.start()
    try:
        await made.lead()
        yield made
    finally:
        await made.step_down()
        await made.server.stop(None)


def drive(story: Callable[[], Awaitable[None]]) -> None:
    """Run one story on a fresh event loop."""

    async def whole() -> None:
        async with asyncio.timeout(3 * DEADLINE_S):
            await story()

    asyncio.run(whole())
