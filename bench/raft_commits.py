"""Commits per second of the replicated log: three members in three processes on this machine, every write synced.

etcd's writers are clients with a connection each to the leader, driven by the fastest client at hand: `wrk` (written in
C) against its gRPC gateway and its v2 API; the better of the two counts. Ours are measured twice: as coroutines in the
leader's process, as the stages of a manager are, and as clients of the same `wrk` against an HTTP server in that
process, the one that serves the Engine API. Values are 256 bytes. Our members use mutual TLS, etcd's plain HTTP.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import grpc.aio
from aiohttp import web

from bench.harness import Row, compare
from swarmpy.errors import Unavailable
from swarmpy.identity import Issued, Issuer, NodeIdentity, PeerGuard, create_root, new_key, peer_of
from swarmpy.identity.certificates import key_pem, pem
from swarmpy.identity.node_identity import SERVER_OPTIONS
from swarmpy.manager.raft import Network, Options, RaftLog, RaftService
from swarmpy.rpc.types_pb2 import NodeRole

WRITERS = (1, 16, 64)
ENTRY = bytes(range(256))
SECONDS = 3.0
DAY_NS = 86_400 * 10**9


class Count:
    """A state machine that only counts."""

    def __init__(self) -> None:
        self.entries = 0

    def apply(self, index: int, data: bytes) -> object:
        self.entries += 1
        return index

    def snapshot(self) -> Callable[[], bytes]:
        entries = self.entries
        return lambda: b"%d" % entries

    def load(self, index: int, data: bytes) -> Callable[[], None]:
        def replace() -> None:
            self.entries = int(data)

        return replace


async def member(directory: Path, raft_id: int, addrs: list[str]) -> None:
    """One process: the first bootstraps, adds the others and measures; each ends when its input does."""
    identity = NodeIdentity.load(directory / "certificates" / str(raft_id))
    service = RaftService(identity, lambda context: peer_of(context).require_manager().node_id)
    guard = PeerGuard(identity, lambda: None, time.time_ns)
    server = grpc.aio.server(interceptors=[guard], options=SERVER_OPTIONS)
    service.register(server)
    server.add_secure_port(addrs[raft_id - 1], identity.server_credentials(bytes))
    await server.start()
    network = Network(service, identity, "127.0.0.1")
    make = RaftLog.bootstrap if raft_id == 1 else RaftLog.join
    log = await make(
        directory / str(raft_id), [bytes(32)], Count(), network,
        raft_id=raft_id, node_id=f"n{raft_id}", addr=addrs[raft_id - 1], options=Options(),
    )  # fmt: skip
    runner = web.AppRunner(commit_server(log), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"up {runner.addresses[0][1]}", flush=True)
    if raft_id == 1:
        led = asyncio.Event()
        log.on_leadership(lambda leadership: led.set() if leadership.is_leader else None)
        await led.wait()
    while line := await asyncio.to_thread(sys.stdin.readline):
        command, *numbers = line.split()
        if command == "add":
            await log.add_member(int(numbers[0]), f"n{numbers[0]}", addrs[int(numbers[0]) - 1])
            print("added", flush=True)
        elif command == "write":
            print(await measure_writers(log, int(numbers[0])), flush=True)
    await runner.cleanup()
    await log.close()
    await server.stop(None)


def commit_server(log: RaftLog) -> web.Application:
    """PUT anything: answered once it is committed; 503 when it may not be, as while the members end."""

    async def commit(request: web.Request) -> web.Response:
        try:
            await log.propose(await request.read())
        except Unavailable as failure:
            raise web.HTTPServiceUnavailable(text=str(failure)) from failure
        return web.Response()

    application = web.Application()
    application.router.add_put("/", commit)
    return application


async def measure_writers(log: RaftLog, writers: int) -> float:
    """Entries committed per second by this many writers, each waiting for its last entry before the next."""
    end = time.monotonic() + SECONDS

    async def write() -> int:
        count = 0
        while time.monotonic() < end:
            await log.propose(ENTRY)
            count += 1
        return count

    began = time.monotonic()
    counts = await asyncio.gather(*(write() for _ in range(writers)))
    return sum(counts) / (time.monotonic() - began)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def issue_certificates(directory: Path, node_ids: Sequence[str]) -> None:
    """A manager's certificate for each, as a swarm's first manager would issue it."""
    now_ns = time.time_ns()
    root = create_root("bench", now_ns)
    for node_id in node_ids:
        NodeIdentity.create(directory / node_id, issued(root, node_id, now_ns))


def issued(root: Issuer, node_id: str, now_ns: int) -> Issued:
    key = new_key()
    leaf = root.issue(
        key.public_key(), node_id=node_id, role=NodeRole.MANAGER, swarm_id="bench", now_ns=now_ns, lifetime_ns=DAY_NS
    )
    return Issued(key_pem(key), pem(leaf), pem(root.certificate))


class Ours:
    """Three member processes, spoken to through their standard input and output."""

    def __init__(self, directory: Path) -> None:
        issue_certificates(directory / "certificates", ["1", "2", "3"])
        addrs = [f"127.0.0.1:{port}" for port in free_ports(3)]
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "bench.raft_commits", "member", str(directory), str(raft_id), *addrs],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for raft_id in (1, 2, 3)
        ]
        ports = [int(self._line(process).split()[1]) for process in self._processes]
        for raft_id in (2, 3):
            self._ask(f"add {raft_id}")
        self._url = f"http://127.0.0.1:{ports[0]}"
        self._script = directory / "commit.lua"
        self._script.write_text(f'wrk.method = "PUT"\nwrk.path = "/"\nwrk.body = "{"x" * len(ENTRY)}"\n')

    def write(self, writers: int) -> float:
        return float(self._ask(f"write {writers}"))

    def serve(self, clients: int) -> float:
        """Commits per second for clients over HTTP."""
        return wrk(self._url, self._script, clients)

    def _ask(self, command: str) -> str:
        process = self._processes[0]
        if process.stdin is None:
            raise RuntimeError("a member has no standard input")
        process.stdin.write(command + "\n")
        process.stdin.flush()
        return self._line(process)

    @staticmethod
    def _line(process: subprocess.Popen[str]) -> str:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise RuntimeError("a member of the benchmark ended before it answered")
        return line

    def close(self) -> None:
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes:
            process.wait(30)


def wrk(url: str, script: Path, connections: int) -> float:
    """Requests per second; each connection waits for its answer before it asks again."""
    output = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS:g}s", "-s", str(script), url],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", output)
    if found is None or "Non-2xx" in output:
        raise RuntimeError(f"wrk against {url} failed:\n{output}")
    return float(found[1])


class Etcd:
    """Three etcd processes with their own data directories; wrk writes to the leader."""

    def __init__(self, directory: Path) -> None:
        ports = free_ports(6)
        self._directory = directory
        self.urls = [f"http://127.0.0.1:{port}" for port in ports[:3]]
        peers = [f"http://127.0.0.1:{port}" for port in ports[3:]]
        cluster = ",".join(f"m{number}={peer}" for number, peer in enumerate(peers))
        self._processes = [
            subprocess.Popen(
                [
                    "etcd", "--name", f"m{number}", "--data-dir", str(directory / f"m{number}"), "--enable-v2",
                    "--listen-client-urls", url, "--advertise-client-urls", url, "--log-level", "error",
                    "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster,
                ],
                stderr=subprocess.DEVNULL,
            )
            for number, (url, peer) in enumerate(zip(self.urls, peers, strict=True))
        ]  # fmt: skip
        try:
            self._leader = self._find_leader()
        except BaseException:
            self.close()
            raise
        self._scripts = (self._script_v2(), self._script_v3())

    def write(self, writers: int) -> float:
        return max(wrk(self._leader, script, writers) for script in self._scripts)

    def _script_v2(self) -> Path:
        script = self._directory / "v2.lua"
        value = "value=" + "x" * len(ENTRY)
        script.write_text(
            'wrk.method = "PUT"\nwrk.path = "/v2/keys/bench"\n'
            'wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"\n'
            f'wrk.body = "{value}"\n'
        )
        return script

    def _script_v3(self) -> Path:
        script = self._directory / "v3.lua"
        body = {"key": base64.b64encode(b"bench").decode(), "value": base64.b64encode(ENTRY).decode()}
        script.write_text(
            'wrk.method = "POST"\nwrk.path = "/v3/kv/put"\nwrk.headers["Content-Type"] = "application/json"\n'
            f"wrk.body = '{json.dumps(body)}'\n"
        )
        return script

    def _find_leader(self) -> str:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for url in self.urls:
                try:
                    with urllib.request.urlopen(f"{url}/v2/stats/self", timeout=1) as answer:
                        if json.load(answer)["state"] == "StateLeader":
                            return url
                except OSError:
                    continue
        raise RuntimeError("etcd elected no leader within 20 s")

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(30)


Cluster = TypeVar("Cluster", Ours, Etcd)


@contextmanager
def running(kind: type[Cluster]) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="bench-raft-", dir=".") as directory:
        cluster = kind(Path(directory).absolute())
        try:
            yield cluster
        finally:
            cluster.close()


def measure(repeats: int) -> list[Row]:
    ours: dict[int, list[float]] = {writers: [] for writers in WRITERS}
    served: dict[int, list[float]] = {writers: [] for writers in WRITERS}
    theirs: dict[int, list[float]] = {writers: [] for writers in WRITERS}
    absent = [name for name in ("etcd", "wrk") if shutil.which(name) is None]
    for _ in range(repeats):
        with running(Ours) as cluster:
            for writers in WRITERS:
                ours[writers].append(cluster.write(writers))
                if shutil.which("wrk") is not None:
                    served[writers].append(cluster.serve(writers))
        if not absent:
            with running(Etcd) as etcd:
                for writers in WRITERS:
                    theirs[writers].append(etcd.write(writers))
    peer = f"no {', '.join(absent)} on this machine" if absent else f"etcd {etcd_version()}"
    rows = []
    for writers in WRITERS:
        rows.append(
            compare(f"raft commits, writers {writers}", "1/s", "more", ours[writers], theirs[writers], peer)
        )
        if served[writers]:
            name = f"raft commits, HTTP clients {writers}"
            rows.append(compare(name, "1/s", "more", served[writers], theirs[writers], peer))
    return rows


def etcd_version() -> str:
    output = subprocess.run(["etcd", "--version"], check=True, capture_output=True, text=True).stdout
    return output.split()[2]


if __name__ == "__main__":
    if sys.argv[1] == "member":
        asyncio.run(member(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
