"""Tasks as real containers: `python engine_story.py ROOT PREFIX`, in a network namespace of its own.

Run by test_containers.py. Everything is removed in the end, also after a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from swarmpy.engine import Engine, EngineConfig
from swarmpy.errors import NotFound
from swarmpy.image import ImageStore
from swarmpy.network import HostNetwork, Mesh
from swarmpy.rpc.dispatcher_pb2 import MeshNode, MeshService, MeshTask, MeshUpdate
from swarmpy.rpc.types_pb2 import (
    ASSIGNED,
    COMPLETE,
    FAILED,
    REJECTED,
    RUNNING,
    SHUTDOWN,
    STARTING,
    IPAMConfig,
    Network,
    NetworkAttachment,
    PortConfig,
    Task,
    TaskSpec,
    TaskState,
    TaskStatus,
)
from swarmpy.runtime import Runtime
from swarmpy.worker.containers import EngineExecutor
from swarmpy.worker.executor import LogWish, Order
from swarmpy.worker.mesh import MeshKeeper
from swarmpy.worker.runner import TaskRunner

DEADLINE_S = 30.0


@contextlib.asynccontextmanager
async def engine_at(root: Path, prefix: str) -> AsyncIterator[Engine]:
    """One daemon's engine; containers outlive it."""
    data, state = root / "data", root / "state"
    data.mkdir(parents=True, exist_ok=True)
    runtime = Runtime(state / "runtime", cgroup_parent=f"/{prefix}")
    images, network = ImageStore(data / "images"), HostNetwork(prefix, state / "network")
    await runtime.start()
    await images.start()
    await network.start()
    engine = Engine(
        EngineConfig(data_root=data, name="h1"), runtime, images, network
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()
        await network.close()
        await images.close()
        await runtime.close()


class Story:
    """Runners of tasks over one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.executor = EngineExecutor(engine, hostname="h1")
        self.ready = asyncio.Event()
        self.ready.set()
        self.told: dict[str, list[TaskStatus]] = {}
        self.runners: dict[str, TaskRunner] = {}
        self.loops: list[asyncio.Task[None]] = []

    def task(
        self, task_id: str, *command: str, status: TaskStatus | None = None, spec: TaskSpec | None = None,
        ports: tuple[PortConfig, ...] = (), ingress: str = "",
    ) -> Order:
        spec = spec or TaskSpec()
        spec.container.image = spec.container.image or "busybox"
        spec.container.command.extend(command)
        task = Task(
            id=task_id, service_id="s1", service_name="web", slot=1, node_id="n1", desired_state=RUNNING, ports=ports,
            networks=[NetworkAttachment(network_id="ingress", addresses=[ingress])] if ingress else [],
        )
        order = Order(task, spec)
        self.told[task_id] = []

        async def gone(key: str) -> None:
            del self.runners[key]

        self.runners[task_id] = TaskRunner(
            task, order, status or TaskStatus(state=ASSIGNED), self.executor, clock=time.time_ns,
            network_ready=self.ready, reached=lambda key, new: self.told[key].append(new), gone=gone,
        )
        self.loops.append(asyncio.create_task(self.runners[task_id].run()))
        return order

    async def reaches(self, task_id: str, state: TaskState) -> TaskStatus:
        async with asyncio.timeout(DEADLINE_S):
            while self.runners[task_id].status.state < state:
                await asyncio.sleep(0.01)
        status = self.runners[task_id].status
        assert status.state == state, f"{task_id}: {status}"
        return status

    async def started(self, task_id: str) -> None:
        """The task's container runs, whether or not the task does."""
        async with asyncio.timeout(DEADLINE_S):
            while not self.engine.containers.get(f"web.1.{task_id}").state.running:
                await asyncio.sleep(0.01)

    async def lines(self, order: Order, *, until: bytes = b"") -> list[bytes]:
        """What the task has written; with `until`, as soon as that is among it."""
        found: list[bytes] = []
        wish = LogWish(follow=bool(until), stdout=True, stderr=True, since_ns=0, tail=-1)
        async with asyncio.timeout(DEADLINE_S):
            async for message in self.executor.logs(order, wish):
                found.append(message.data)
                if until and until in message.data:
                    break
        return found

    async def stop(self) -> None:
        for loop in self.loops:
            loop.cancel()
        await asyncio.wait(self.loops)


def busybox() -> bytes:
    """The root file system of an image that has busybox alone."""
    found = shutil.which("busybox")
    assert found is not None, "busybox-static is needed"
    names = subprocess.run([found, "--list"], capture_output=True, text=True, check=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("bin", "proc", "sys", "dev", "etc", "tmp"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add(found, "bin/busybox")
        for name in names:
            if name != "busybox":
                entry = tarfile.TarInfo(f"bin/{name}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
    return out.getvalue()


async def ends(story: Story) -> None:
    """Exit codes, words and log lines."""
    spec = TaskSpec()
    spec.container.env.append("WHO={{.Task.Name}} on {{.Node.Hostname}}")
    spec.container.hostname = "{{.Service.Name}}-{{.Task.Slot}}"
    order = story.task("t1", "sh", "-c", "echo $WHO; hostname", spec=spec)
    story.task("t2", "sh", "-c", "exit 3")
    story.task("t3", "/no/such/command")
    assert (await story.reaches("t1", COMPLETE)).message == "finished"
    assert await story.lines(order) == [b"web.1.t1 on h1\n", b"web-1\n"]
    failed = await story.reaches("t2", FAILED)
    assert failed.error == "task: non-zero exit (3)" and failed.container.exit_code == 3
    assert "/no/such/command" in (await story.reaches("t3", FAILED)).error
    labels = story.engine.containers.get("web.1.t1").labels
    assert labels["com.docker.swarm.service.name"] == "web" and labels["com.docker.swarm.node.id"] == "n1"
    states = [status.state for status in story.told["t1"]]
    assert states == sorted(states) and states[-1] == COMPLETE


async def missing(story: Story) -> None:
    """An image that neither is here nor can be pulled."""
    spec = TaskSpec()
    spec.container.image = "127.0.0.1:1/nothing:v1"
    story.task("m1", spec=spec)
    rejected = await story.reaches("m1", REJECTED)
    assert rejected.error.lower().startswith("no such image: 127.0.0.1:1/nothing:v1"), rejected.error


async def stops(story: Story) -> None:
    """A task that heeds its signal ends at once; one that does not is killed after the grace."""
    polite, deaf = TaskSpec(), TaskSpec()
    deaf.container.stop_grace_period_ns = 300_000_000
    polite.container.stop_signal = "SIGUSR1"
    heeds = "trap 'echo bye; exit 0' USR1; echo up; while :; do sleep 1 & wait; done"
    ignores = "trap '' TERM; echo up; while :; do sleep 1; done"
    orders = [story.task("p1", "sh", "-c", heeds, spec=polite), story.task("d1", "sh", "-c", ignores, spec=deaf)]
    for order in orders:
        await story.reaches(order.task.id, RUNNING)
        await story.lines(order, until=b"up")
    for order in orders:
        story.runners[order.task.id].desire(SHUTDOWN)
    assert (await story.reaches("p1", SHUTDOWN)).container.exit_code == 0
    assert (await story.reaches("d1", SHUTDOWN)).container.exit_code == 137
    assert b"bye\n" in await story.lines(orders[0])
    for order in orders:
        story.runners[order.task.id].retire()
    async with asyncio.timeout(DEADLINE_S):
        while story.runners.keys() & {"p1", "d1"}:
            await asyncio.sleep(0.01)
    for name in ("web.1.p1", "web.1.d1"):
        with contextlib.suppress(NotFound):
            story.engine.containers.get(name)
            raise AssertionError(f"{name} is still there")


SLOW_ANSWER = """
mkdir -p /w/cgi-bin
printf '#!/bin/sh\\necho > /w/asked; sleep 1; echo Content-Type: text/plain; echo; echo answered\\n' > /w/cgi-bin/slow
chmod +x /w/cgi-bin/slow
echo up
while [ ! -e /w/begin ]; do sleep 0.02; done
exec httpd -f -p 80 -h /w
"""


async def published(story: Story) -> None:
    """mode=host: the port that was free is told. RUNNING means that the program listens, and a client that was there
    before the task is told to end gets its answer, also from a program that does not wait for it."""
    port, spec = PortConfig(target_port=80, publish_mode=PortConfig.HOST), TaskSpec()
    spec.container.stop_signal = "SIGKILL"
    order = story.task("h1", "sh", "-c", SLOW_ANSWER, ports=(port,), spec=spec)
    await story.reaches("h1", STARTING)
    await story.started("h1")
    await story.lines(order, until=b"up")
    assert story.runners["h1"].status.state == STARTING
    inside = Path(f"/proc/{story.engine.containers.get('web.1.h1').state.pid}/root/w")
    await asyncio.to_thread((inside / "begin").touch)
    status = await story.reaches("h1", RUNNING)
    assert [given.target_port for given in status.host_ports] == [80] and status.host_ports[0].published_port > 0
    asking = asyncio.create_task(fetch(status.host_ports[0].published_port, "/cgi-bin/slow"))
    async with asyncio.timeout(DEADLINE_S):
        while not await asyncio.to_thread((inside / "asked").exists):
            await asyncio.sleep(0.01)
    story.runners["h1"].desire(SHUTDOWN)
    assert await asking == b"answered\n"
    await story.reaches("h1", SHUTDOWN)


async def health(story: Story) -> None:
    """RUNNING means healthy, and a container that ails is ended."""
    spec = TaskSpec()
    check = spec.container.healthcheck
    check.test.extend(["CMD-SHELL", "test -e /tmp/well"])
    check.interval_ns, check.timeout_ns, check.retries = 100_000_000, 5_000_000_000, 1
    spec.container.stop_grace_period_ns = 100_000_000
    check.start_period_ns, check.start_interval_ns = 20_000_000_000, 100_000_000
    moody = "trap 'touch /tmp/well' USR1; trap 'rm -f /tmp/well' USR2; echo up; while :; do sleep 0.05; done"
    order = story.task("w1", "sh", "-c", moody, spec=spec)
    await story.reaches("w1", STARTING)
    await story.started("w1")
    await story.lines(order, until=b"up")
    assert story.runners["w1"].status.state == STARTING
    await story.engine.containers.kill("web.1.w1", "SIGUSR1")
    await story.reaches("w1", RUNNING)
    await story.engine.containers.kill("web.1.w1", "SIGUSR2")
    failed = await story.reaches("w1", FAILED)
    assert failed.error == "task: unhealthy container", failed


async def fetch(port: int = 8080, path: str = "/index.html") -> bytes:
    """What the published port answers on this node's own 127.0.0.1; b"" when nobody does."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            return answer.replace(b"\r", b"").partition(b"\n\n")[2]
    except (OSError, TimeoutError):
        return b""


async def answers(wanted: bytes) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await fetch() != wanted:
            await asyncio.sleep(0.02)


async def mesh(story: Story, prefix: str) -> None:
    """A task waits for the node's place in the mesh, is reached through it, and is withdrawn from it."""
    kernel = Mesh(prefix)
    keeper = MeshKeeper(kernel)
    story.ready = keeper.ready
    applied: list[int] = []
    keeper.session("n1", applied.append)
    keeping = asyncio.create_task(keeper.run())
    network = Network(id="ingress", vni=4096, ipam=[IPAMConfig(subnet="10.200.0.0/24", gateway="10.200.0.1")])
    try:
        serve = "mkdir -p /tmp/w; echo served > /tmp/w/index.html; exec httpd -f -p 80 -h /tmp/w"
        story.task("i1", "sh", "-c", serve, ingress="10.200.0.9/24")
        await story.reaches("i1", STARTING)
        keeper.take(MeshUpdate(
            complete=True, version=1, ingress=network, data_path_port=4789,
            nodes=[MeshNode(id="n1", addr="192.0.2.1", ingress_address="10.200.0.2/24")],
            services=[MeshService(id="s1", ports=[PortConfig(target_port=80, published_port=8080)])],
        ))
        await story.reaches("i1", RUNNING)
        task = MeshTask(id="i1", service_id="s1", node_id="n1", address="10.200.0.9/24")
        keeper.take(MeshUpdate(version=2, tasks=[task]))
        await answers(b"served\n")
        keeper.take(MeshUpdate(version=3, removed_tasks=["i1"]))
        await answers(b"")
        assert story.runners["i1"].status.state == RUNNING and 3 in applied
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
        await kernel.close()


async def main(root: Path, prefix: str) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    tar = root / "busybox.tar"
    await asyncio.to_thread(tar.write_bytes, await asyncio.to_thread(busybox))
    try:
        async with engine_at(root, prefix) as engine:
            await engine.images.import_tar(tar, "busybox:latest", ['CMD ["sh"]'], "")
            story = Story(engine)
            try:
                await asyncio.gather(ends(story), missing(story), stops(story), published(story), health(story))
                await mesh(story, prefix)
                kept = story.task("k1", "sh", "-c", "echo one; sleep 60")
                brief = story.task("k2", "sleep", "60")
                running = [await story.reaches(key, RUNNING) for key in ("k1", "k2")]
            finally:
                await story.stop()
        os.kill(running[1].container.pid, signal.SIGKILL)
        async with engine_at(root, prefix) as engine:
            story = Story(engine)
            try:
                for order, status in zip((kept, brief), running, strict=True):
                    story.task(order.task.id, status=status)
                ended = await story.reaches("k2", FAILED)
                assert ended.error == "task: non-zero exit (137)"
                assert await story.lines(kept, until=b"one") == [b"one\n"]
                assert story.runners["k1"].status.state == RUNNING
                await story.executor.sweep(["k1"])
                names = {record.labels["com.docker.swarm.task.id"] for record in engine.containers.records()}
                assert names == {"k1"}
            finally:
                await story.stop()
    finally:
        async with engine_at(root, prefix) as engine:
            await EngineExecutor(engine, hostname="h1").sweep(())


if __name__ == "__main__":
    for arguments in ("link set lo up", "addr add 192.0.2.1/32 dev lo"):
        subprocess.run(["ip", *arguments.split()], check=True)
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
