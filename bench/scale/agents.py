"""Many nodes in one process: each joins with the token, and keeps a session of its own with the leader.

Owns    certificates, channels, sessions, and the states of the tasks assigned. What a node would do to the kernel is
        left out: a view of the mesh is acknowledged when its last part came, and a task runs `start_s` after it did.
In      the command line; it ends with its standard input.
Out     a line of JSON twice a second: how many nodes are welcomed, how many tasks they hold and run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import grpc.aio

from swarmpy.daemon.event_loop import DaemonLoop
from swarmpy.errors import SwarmpyError
from swarmpy.identity.certificates import KeyPair
from swarmpy.identity.joining import join_swarm, leader_of
from swarmpy.identity.node_identity import ASK_AFTER_S, SESSION_HANDSHAKE_S, Issued, open_channel
from swarmpy.identity.token import JoinToken
from swarmpy.rpc.dispatcher_pb2 import Assignments, TaskStatusUpdate, ToAgent, Welcome
from swarmpy.rpc.types_pb2 import (
    PREPARING,
    READY,
    RUNNING,
    SHUTDOWN,
    ContainerStatus,
    NodeDescription,
    NodeSpec,
    Platform,
    Resources,
    TaskState,
    TaskStatus,
)
from swarmpy.worker.reporter import Reporter
from swarmpy.worker.session import Session

JOINING = 4                     # nodes of one process that ask for a certificate or open a session at the same time
RETRY_S = 1.0
TELL_S = 0.5
# Readers come first. The manager, where the kernel shares by session (sched(7), autogroup), has half of the processors
# in any case; with less than the other half nodes fall silent, and are replaced, which is work for everybody.
NICENESS = 10
PARTICULARS = re.compile(r"\b[0-9a-z]{25}\b|\d[\d.:]*")     # ids, numbers, addresses: so that the same trouble adds up
MESSAGES = {PREPARING: "preparing", READY: "ready", RUNNING: "started", SHUTDOWN: "shutdown"}


@dataclass
class Counts:
    """What all nodes of this process have come to."""

    joined: int = 0
    welcomed: int = 0
    tasks: int = 0
    running: int = 0
    broken: int = 0              # sessions that ended though nobody wanted it


class Node:
    """One node of the swarm."""

    def __init__(self, number: int, managers: Sequence[str], start_s: float, counts: Counts) -> None:
        self._number = number
        self._managers = list(managers)
        self._start_s = start_s
        self._counts = counts
        self._rng = random.Random(number)
        self._reporter = Reporter()
        self._session: Session | None = None
        self._is_in = False          # welcomed, also while one session follows another
        self._ask_after_s = ASK_AFTER_S
        self._wanted: dict[str, TaskState] = {}
        self._statuses: dict[str, TaskStatus] = {}

    async def join(self, token: str) -> Issued:
        """A certificate for the token, as every new node gets it."""
        issued = await join_swarm(JoinToken.parse(token), self._managers, NodeSpec.ACTIVE)
        self._counts.joined += 1
        return issued

    async def run(self, issued: Issued, opening: asyncio.Semaphore) -> None:
        """Be in session with the leader, whoever it is, until cancelled."""
        while True:
            try:
                await self._session_with(self._managers[0], issued, opening)
            except grpc.aio.AioRpcError as failure:
                self._fell_out(f"{failure.code().name} {failure.details()}")
                leader = leader_of(failure)
                if leader is not None:
                    self._managers = [leader, *(addr for addr in self._managers if addr != leader)]
            except TimeoutError:
                self._fell_out("no welcome")
            else:
                continue                              # the next session follows at once
            await asyncio.sleep(self._rng.uniform(0, RETRY_S))

    async def _session_with(self, addr: str, issued: Issued, opening: asyncio.Semaphore) -> None:
        """One session. Returns when it outlives its channel, raises when it ends."""
        place = ExitStack()
        if not self._is_in:
            await opening.acquire()
            place.callback(opening.release)           # when the leader has welcomed us, or does not
        credential = KeyPair(issued.certificate, issued.key)
        channel = open_channel(addr, credential, issued.root_ca, SESSION_HANDSHAKE_S, self._ask_after_s)
        session = Session(channel, self._reporter, self._rng, (), self._ask_after_s)
        serving = asyncio.create_task(session.serve(
            self._description(issued), _address(self._number), self._updates(),
            partial(self._welcomed, session, place), self._hear,
        ))  # fmt: skip
        outliving = asyncio.create_task(session.outlives_its_channel())
        try:
            await asyncio.wait({serving, outliving}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
        finally:
            place.close()
            serving.cancel()
            outliving.cancel()
            await asyncio.wait({serving, outliving})
            self._session, self._ask_after_s = None, session.ask_after_s
            await channel.close(None)

    def _fell_out(self, why: str) -> None:
        self._counts.broken += self._is_in
        self._counts.welcomed -= self._is_in
        self._is_in = False
        self._managers.append(self._managers.pop(0))
        _trouble(why)

    def _welcomed(self, session: Session, place: ExitStack, _: Welcome) -> None:
        place.close()
        self._session = session
        self._counts.welcomed += not self._is_in
        self._is_in = True
        self._reporter.session()
        session.report()

    def _description(self, issued: Issued) -> NodeDescription:
        return NodeDescription(
            hostname=f"node{self._number:05d}",
            platform=Platform(architecture="x86_64", os="linux"),
            resources=Resources(nano_cpus=64 * 10**9, memory_bytes=256 << 30),
            engine_version="scale",
            root_ca_pem=issued.root_ca.decode(),
        )

    def _updates(self) -> Iterator[TaskStatusUpdate]:
        return (TaskStatusUpdate(task_id=key, status=status) for key, status in self._statuses.items())

    # ------------------------------------------------------------------------------------------ what the leader says

    async def _hear(self, message: ToAgent) -> None:
        assert self._session is not None
        kind = message.WhichOneof("message")
        if kind == "assignments":
            self._take(message.assignments)
        elif kind == "mesh":
            if not message.mesh.more:
                self._session.mesh_applied(message.mesh.version)
        elif kind == "stored":
            self._reporter.stored(message.stored.sequence)
            self._session.report()
        elif kind == "managers" and message.managers.addrs:
            self._managers = list(message.managers.addrs)

    def _take(self, assignments: Assignments) -> None:
        """Do what is wanted, as far as there is anything to do."""
        came: list[str] = []
        for task in assignments.tasks:
            if task.id not in self._wanted:
                self._counts.tasks += 1
            self._wanted[task.id] = task.desired_state
            if task.desired_state > RUNNING:
                self._reach(task.id, SHUTDOWN)
            else:
                came.append(task.id)
                if task.id not in self._statuses:
                    self._reach(task.id, PREPARING)
        for task_id in assignments.removed_tasks:
            if self._wanted.pop(task_id, None) is not None:
                self._counts.tasks -= 1
            self._statuses.pop(task_id, None)
            self._reporter.forget(task_id)
        if came:
            asyncio.get_running_loop().call_later(self._start_s, self._start, came)
        self._say()

    def _start(self, task_ids: list[str]) -> None:
        for task_id in task_ids:
            wanted = self._wanted.get(task_id)
            if wanted is not None and wanted <= RUNNING:
                self._reach(task_id, wanted)
        self._say()

    def _reach(self, task_id: str, state: TaskState) -> None:
        before = self._statuses.get(task_id)
        if before is not None and before.state >= state:
            return
        status = TaskStatus(state=state, timestamp_ns=time.time_ns(), message=MESSAGES[state])
        if state >= READY:
            status.container.CopyFrom(ContainerStatus(container_id=f"{task_id:0>64}", pid=1))
        self._statuses[task_id] = status
        self._counts.running += (state == RUNNING) - (before is not None and before.state == RUNNING)
        self._reporter.changed(task_id, status, on_its_way=state < min(self._wanted[task_id], RUNNING))

    def _say(self) -> None:
        if self._session is not None:
            self._session.report()


def _address(number: int) -> str:
    """Where the node would be: an address for benchmarks (RFC 2544) that nothing here has a route to."""
    return f"198.18.{number // 250}.{number % 250 + 1}"


async def _live(node: Node, token: str, joining: asyncio.Semaphore, opening: asyncio.Semaphore) -> None:
    while True:
        async with joining:
            try:
                issued = await node.join(token)
                break
            except SwarmpyError as failure:
                _trouble(str(failure))
        await asyncio.sleep(RETRY_S)
    await node.run(issued, opening)


def _trouble(text: str) -> None:
    print(json.dumps({"trouble": PARTICULARS.sub("…", text)}), flush=True)


async def _tell(counts: Counts) -> None:
    while True:
        print(json.dumps(vars(counts)), flush=True)
        await asyncio.sleep(TELL_S)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--managers", required=True, help="host:port, with commas")
    parser.add_argument("--token", required=True)
    parser.add_argument("--first", type=int, required=True, help="number of the first node")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--start-s", type=float, required=True, help="from the assignment of a task to RUNNING")
    given = parser.parse_args()
    grpc.aio.init_grpc_aio()  # type: ignore[attr-defined]  # the stubs lack it
    counts, joining, opening = Counts(), asyncio.Semaphore(JOINING), asyncio.Semaphore(JOINING)
    managers = given.managers.split(",")
    nodes = [Node(number, managers, given.start_s, counts) for number in range(given.first, given.first + given.nodes)]
    lives = [asyncio.create_task(_live(node, given.token, joining, opening)) for node in nodes]
    lives.append(asyncio.create_task(_tell(counts)))
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait([ended, *lives], return_when=asyncio.FIRST_COMPLETED)
    for life in lives:
        life.cancel()
    for outcome in await asyncio.gather(*lives, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


if __name__ == "__main__":
    os.nice(NICENESS)
    with asyncio.Runner(loop_factory=DaemonLoop) as runner:
        runner.run(main())
