"""The swarm that is measured: managers in a lab, nodes in processes of ours, and what the managers cost.

Owns    the lab and the processes; nothing of them is left when the block ends.
Source  proc(5), proc_pid_smaps(5): memory and processor time of a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp

from bench.processes import listener, pss_bytes
from swarmpy.lab import Lab

__all__ = ["Api", "Cost", "Manager", "NodeProcess", "Swarm", "nodes", "swarm_of"]

SUBNET_SIZE = 8                  # of the ingress network: every node has an address there
POLL_S = 0.05
PATIENCE_S = 120.0               # of one request; what is slower is told as it is
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Api:
    """The Engine API of one manager."""

    def __init__(self, socket: Path) -> None:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(socket), limit=0), timeout=aiohttp.ClientTimeout(PATIENCE_S)
        )

    async def call(self, method: str, path: str, body: object = None, **query: object) -> Any:
        """The decoded answer. RuntimeError with the manager's own words when it refuses."""
        content = await self.fetch(method, path, body, **query)
        return json.loads(content) if content else None

    async def fetch(self, method: str, path: str, body: object = None, **query: object) -> bytes:
        """The answer as it came."""
        target = "http://manager" + path + ("?" + urlencode(query) if query else "")
        async with self._http.request(method, target, json=body) as answer:
            content = await answer.read()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer.status} {content.decode(errors='replace')[:300]}")
            return content

    async def close(self) -> None:
        await self._http.close()


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one process, so far."""

    cpu_s: float
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Manager:
    """One manager's process, as the machine sees it."""

    pid: int

    def cost(self) -> Cost:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        resident = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE
        return Cost((int(fields[11]) + int(fields[12])) / TICKS, resident)

    def pss_bytes(self) -> int:
        return pss_bytes(self.pid)


@dataclass
class NodeProcess:
    """A process of nodes, and what it said last."""

    process: asyncio.subprocess.Process
    nodes: int
    told: dict[str, int] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            said = json.loads(line)
            if "trouble" in said:
                self.trouble.append(said["trouble"])
            else:
                self.told = said
        raise RuntimeError(f"a process of {self.nodes} nodes ended with {await self.process.wait()}")

    def fall_silent(self) -> None:
        """Not a word more, though its connections stand: as when hosts lose power."""
        self.process.send_signal(signal.SIGSTOP)


@dataclass
class Swarm:
    """`living` nodes stay to the end, `doomed` ones are all in the one process that falls silent."""

    api: Api
    managers: list[Manager]
    addrs: list[str]
    token: str
    living: list[NodeProcess] = field(default_factory=list)
    doomed: list[NodeProcess] = field(default_factory=list)

    def told(self, what: str) -> int:
        """A count over all nodes that have not fallen silent."""
        return sum(process.told.get(what, 0) for process in (*self.living, *self.doomed))

    def trouble(self) -> Counter[str]:
        """How often nodes could not join or stay in session, by what they were told."""
        return Counter(text for process in (*self.living, *self.doomed) for text in process.trouble)


@contextlib.asynccontextmanager
async def swarm_of(managers: int, heartbeat_s: float) -> AsyncIterator[Swarm]:
    """A swarm of managers alone, which get no tasks. Its nodes are to be heard every `heartbeat_s`."""
    lab = await asyncio.to_thread(Lab.up, f"scale{os.getpid()}", managers, 0, swarm=False)
    apis: list[Api] = []
    try:
        for host in lab.plan.hosts:
            apis.append(Api(lab.api_socket(host.name)))
        first, *others = lab.plan.hosts
        address = {"ListenAddr": first.swarm_address, "AdvertiseAddr": first.swarm_address}
        spec = {"Dispatcher": {"HeartbeatPeriod": int(heartbeat_s * 1e9)}}
        await apis[0].call(
            "POST", "/swarm/init", {**address, "SubnetSize": SUBNET_SIZE, "Availability": "drain", "Spec": spec}
        )
        tokens = (await apis[0].call("GET", "/swarm"))["JoinTokens"]
        for api, host in zip(apis[1:], others, strict=True):
            address = {"ListenAddr": host.swarm_address, "AdvertiseAddr": host.swarm_address}
            join = {"RemoteAddrs": [first.swarm_address], "JoinToken": tokens["Manager"], "Availability": "drain"}
            await api.call("POST", "/swarm/join", {**address, **join})
        yield Swarm(
            apis[0],
            [Manager(listener(lab.api_socket(host.name))) for host in lab.plan.hosts],
            [host.swarm_address for host in lab.plan.hosts],
            tokens["Worker"],
        )
    finally:
        for api in apis:
            await api.close()
        await asyncio.to_thread(lab.down)


@contextlib.asynccontextmanager
async def nodes(
    swarm: Swarm, living: Sequence[int], doomed: int, start_s: float, failed: asyncio.Future[None]
) -> AsyncIterator[None]:
    """Processes of so many nodes each, on their way into the swarm. When one breaks, `failed` says so."""
    listening: list[asyncio.Task[None]] = []
    first = 0
    try:
        for count in (*living, doomed):
            if not count:
                continue
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bench.scale.agents", "--managers", ",".join(swarm.addrs), "--token", swarm.token,
                "--first", str(first), "--nodes", str(count), "--start-s", str(start_s),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            first += count
            made = NodeProcess(process, count)
            (swarm.living if len(swarm.living) < len(living) else swarm.doomed).append(made)
            listening.append(asyncio.create_task(made.listen()))
            listening[-1].add_done_callback(lambda task: _pass_on(task, failed))
        yield
    finally:
        for task in listening:
            task.cancel()
        for made in (*swarm.living, *swarm.doomed):
            with contextlib.suppress(ProcessLookupError):
                made.process.kill()
            await made.process.wait()


def _pass_on(task: asyncio.Task[None], failed: asyncio.Future[None]) -> None:
    if not task.cancelled() and (failure := task.exception()) is not None and not failed.done():
        failed.set_exception(failure)
