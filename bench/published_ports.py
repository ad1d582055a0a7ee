"""Published ports: requests, new connections and throughput, against the container's own address and against dockerd.

What the routing mesh costs shows in the same load, from the same node, once through the published port and once
straight to the container's address: on the node with the task, and on another, from where both ways lead through the
tunnel. What thousands of published ports cost shows in ours with 5,000 against ours with one.

Against dockerd both sides are a host in a network namespace with one container that serves, and a client on the same
wire. dockerd runs with its own data root, its userland proxy off, so that its kernel path is what is measured. For many
ports its tables get further rules of the very form it writes (one DNAT rule a port). dockerd's own routing mesh needs
IPVS, which many kernels lack; where a connection crosses to another node there is therefore no peer.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

from bench.harness import Row, alternate, compare
from swarmpy.network import Backend, HostPort, IngressNetwork, MeshView, Peer, Port
from swarmpy.network.nftables import Command, Nftables
from swarmpy.rpc.dispatcher_pb2 import MeshNode, MeshService, MeshTask, MeshUpdate
from swarmpy.rpc.types_pb2 import IPAMConfig, Network, PortConfig
from swarmpy.worker.mesh import MeshFold
from tests.network.topology import INGRESS, WIRE, Host, Namespace, Wire

PORT = 8080
CROWD = 1000  # ports that are published besides the one that is measured
THOUSANDS = 5000
SAMPLE_S = 2
DEADLINE_S = 60
ON_THE_NODE, ACROSS = 0.95, 0.9  # of what straight to the container gives
NO_DIFFERENCE, LITTLE = 0.95, 0.8  # LITTLE: figures of a millisecond, in which a colder cache shows

# Answers each request with a page, on connections that stay; on port 81 sends until the client has had enough.
SERVER = """
import os, selectors, socket
page = b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhello"
block = bytes(1 << 20)
def listen(port):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("0.0.0.0", port)); s.listen(1024); return s
pages, streams = listen(80), listen(81)
if os.fork() == 0:
    while True:
        c, _ = streams.accept()
        try:
            while True: c.sendall(block)
        except OSError: c.close()
pages.setblocking(False)
print("ready", flush=True)
sel = selectors.EpollSelector(); sel.register(pages, 1)
while True:
    for key, _ in sel.select():
        if key.fileobj is pages:
            try:
                while True:
                    c, _ = pages.accept(); sel.register(c, 1)
            except BlockingIOError: pass
        else:
            try:
                asked = key.fileobj.recv(4096)
                if asked: key.fileobj.send(page)
                if asked and b"Connection: close" not in asked: continue
            except OSError: pass
            sel.unregister(key.fileobj); key.fileobj.close()
"""

Work = Callable[[Namespace, str, int], float]


def measure(repeats: int) -> list[Row]:
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is not on this machine; install the package wrk")
    with ExitStack() as stack:
        base = Path(tempfile.mkdtemp(prefix="swbench"))
        stack.callback(shutil.rmtree, base)
        wire = Wire()
        stack.callback(wire.namespace.close)
        client = Namespace()
        stack.callback(client.close)
        wire.plug(client, IPv4Interface(f"{WIRE[200]}/{WIRE.prefixlen}"))
        host, other = (stack.enter_context(_ours(number, wire, base)) for number in (1, 2))
        docker = stack.enter_context(_dockerd(wire, base))
        version = docker.version if docker else "dockerd is not on this machine"
        container = host.container("bench", INGRESS[20])
        stack.callback(container.close)
        stack.enter_context(_server(container.namespace))

        def pair(address: object, port: int, work: Work) -> tuple[list[float], list[float]]:
            theirs = (lambda: work(client, str(docker.address), PORT + (port - PORT) % 2)) if docker else None
            return alternate(repeats, lambda: work(client, str(address), port), theirs)

        ports = [HostPort("tcp", 80, PORT), HostPort("tcp", 81, PORT + 1)]
        host.call(host.network.publish(container.id, ports))
        few = pair(host.address, PORT, _connections_per_s)
        stream = pair(host.address, PORT + 1, _gbit_per_s)
        host.call(host.network.publish(container.id, []))
        for each in (host, other):
            each.call(each.mesh.apply(_view(each, [host, other], CROWD)))
        if docker:
            docker.crowd()
        many = pair(host.address, PORT, _connections_per_s)
        across, _ = alternate(repeats, lambda: _connections_per_s(client, str(other.address), PORT), None)
        return [
            compare("published port, new connections", "1/s", "more", *few, version),
            compare(f"the same beside {CROWD} other ports", "1/s", "more", *many, version),
            compare("published port, throughput", "Gbit/s", "more", *stream, version),
            compare("mesh, by a node without a task", "1/s", "more", across, [], "no peer: IPVS is not in this kernel"),
            *_against_straight(repeats, [host, other]),
            *_with_thousands(repeats, host, other),
        ]


def _against_straight(repeats: int, hosts: list[Host]) -> list[Row]:
    """The mesh against the container's address, from the node with the task and from the other one."""
    rows = []
    for host in hosts:
        host.call(host.mesh.apply(_view(host, hosts, 0)))
    for host, where, goal in zip(hosts, ("on its node", "across nodes"), (ON_THE_NODE, ACROSS), strict=True):
        for what, unit, work, port in (
            ("requests", "1/s", _requests_per_s, 0),
            ("new connections", "1/s", _connections_per_s, 0),
            ("throughput", "Gbit/s", _gbit_per_s, 1),
        ):
            samples = alternate(
                2 * repeats,
                partial(work, host.namespace, str(host.address), PORT + port),
                partial(work, host.namespace, str(INGRESS[20]), 80 + port),
            )
            rows.append(compare(f"mesh {where}, {what}", unit, "more", *samples, "straight to the container", goal))
    return rows


def _with_thousands(repeats: int, host: Host, other: Host) -> list[Row]:
    """Ours with thousands of published ports against ours with one."""

    def connections(crowd: int) -> float:
        host.call(host.mesh.apply(_view(host, [host, other], crowd)))
        return _connections_per_s(host.namespace, str(host.address), PORT)

    peer = "ours with one service"
    set_up = alternate(repeats, lambda: connections(THOUSANDS), lambda: connections(0))
    changes = []
    for crowd in (THOUSANDS, 0):
        fold = MeshFold(host.name)
        fold.fold(_told(host, other, crowd))
        host.call(host.mesh.apply(fold.view()))
        changes.append([_replace_backend(host, fold, number) for number in range(20 * repeats)])
    beside = f"beside {THOUSANDS} services"
    rows = [compare(f"mesh, new connections {beside}", "1/s", "more", *set_up, peer, NO_DIFFERENCE)]
    for field, unit, goal in (("whole_ms", "ms", LITTLE), ("nftables_ms", "ms", LITTLE), ("written", "", 1.0)):
        ours, theirs = ([float(getattr(change, field)) for change in each] for each in changes)
        name = f"a backend replaced {beside}, {field.removesuffix('_ms')}"
        rows.append(compare(name, unit, "less", ours, theirs, peer, goal))
    return rows


def _told(host: Host, other: Host, crowd: int) -> MeshUpdate:
    """The view as the leader would tell it, with one backend for each service."""
    services = [("bench", PORT), *((f"s{n}", 10000 + n) for n in range(crowd))]
    return MeshUpdate(
        complete=True, version=1, data_path_port=4789,
        ingress=Network(vni=4096, ipam=[IPAMConfig(subnet=str(INGRESS))]),
        nodes=[MeshNode(id=each.name, addr=str(each.address), ingress_address=f"{each.ingress}/{INGRESS.prefixlen}")
               for each in (host, other)],
        services=[MeshService(id=name, ports=[PortConfig(published_port=port, target_port=80)])
                  for name, port in services],
        tasks=[MeshTask(id=name, service_id=name, node_id=host.name, address=f"{INGRESS[20]}/{INGRESS.prefixlen}")
               for name, _ in services],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """What one change took: from the leader's word until the kernel has it; of that in nftables; rules and elements."""

    whole_ms: float
    nftables_ms: float
    written: int


def _replace_backend(host: Host, fold: MeshFold, number: int) -> Change:
    """A task of the service ends and one with another address takes its place."""
    written, nftables_s = 0, 0.0
    run = Nftables.run

    def counting(self: Nftables, commands: Sequence[Command]) -> list[dict[str, Any]]:
        nonlocal written, nftables_s
        for command in commands:
            for noun in command.values():
                written += sum(len(item.get("elem", " ")) for item in noun.values())
        begun_s = time.perf_counter()
        answer = run(self, commands)
        nftables_s += time.perf_counter() - begun_s
        return answer

    address = f"{INGRESS[30 + number % 100]}/{INGRESS.prefixlen}"
    task = MeshTask(id=f"t{number}", service_id="bench", node_id=host.name, address=address)
    update = MeshUpdate(version=number + 2, tasks=[task], removed_tasks=["bench", f"t{number - 1}"])
    Nftables.run = counting  # type: ignore[method-assign]
    try:
        begun_s = time.perf_counter()
        fold.fold(update)
        host.call(host.mesh.apply(fold.view()))
        return Change((time.perf_counter() - begun_s) * 1e3, nftables_s * 1e3, written)
    finally:
        Nftables.run = run  # type: ignore[method-assign]


def _view(host: Host, hosts: list[Host], others: int) -> MeshView:
    """The measured service and a crowd of others, all with one task on the first host."""
    crowd = {f"s{n}": (Port("tcp", 10000 + n, 80),) for n in range(others)}
    tasks = {name: Backend(name, hosts[0].name, INGRESS[20]) for name in ("bench", *crowd)}
    address = IPv4Interface(f"{host.ingress}/{INGRESS.prefixlen}")
    peers = {each.name: Peer(each.address, each.ingress) for each in hosts}
    ingress = IngressNetwork(INGRESS, 4096, address, host.address)
    measured = (Port("tcp", PORT, 80), Port("tcp", PORT + 1, 81))
    return MeshView(host.name, ingress, peers, {"bench": measured, **crowd}, tasks)


@contextmanager
def _ours(number: int, wire: Wire, base: Path) -> Iterator[Host]:
    host = Host(number, wire, base)
    host.call(host.network.start())
    address = IPv4Interface(f"{host.ingress}/{INGRESS.prefixlen}")
    ingress = IngressNetwork(INGRESS, 4096, address, host.address)
    host.call(host.mesh.apply(MeshView(host.name, ingress)))
    try:
        yield host
    finally:
        host.call(host.mesh.close())
        host.call(host.network.close())
        host.close()


@contextmanager
def _server(namespace: Namespace) -> Iterator[None]:
    def start() -> subprocess.Popen[str]:
        argv = [sys.executable, "-I", "-S", "-c", SERVER]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)

    process = namespace.run(start)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


class _Docker:
    """A dockerd with one container that publishes the two ports."""

    def __init__(self, namespace: Namespace, address: object, base: Path) -> None:
        self.namespace, self.address = namespace, address
        self._socket = f"unix://{base}/docker.sock"
        self.version = f"dockerd {self.client('version', '--format', '{{.Server.Version}}')}"

    def client(self, *arguments: str, stdin: bytes | None = None) -> str:
        argv = ["docker", "-H", self._socket, *arguments]
        return subprocess.run(argv, input=stdin, capture_output=True, check=True).stdout.decode().strip()

    def crowd(self) -> None:
        """Rules for as many more ports as the mesh has, in front of ours as if published before it."""
        line = next(line for line in self._save("nat").splitlines() if f"--dport {PORT} " in line and "DNAT" in line)
        rules = [line.replace(f"--dport {PORT} ", f"--dport {10000 + n} ").replace("-A", "-I", 1) for n in range(CROWD)]
        text = "\n".join(["*nat", *rules, "COMMIT", ""])
        self.namespace.run(
            lambda: subprocess.run(["iptables-restore", "--noflush"], input=text, text=True, check=True)
        )

    def _save(self, table: str) -> str:
        argv = ["iptables-save", "-t", table]
        return self.namespace.run(lambda: subprocess.run(argv, capture_output=True, text=True, check=True)).stdout


@contextmanager
def _dockerd(wire: Wire, base: Path) -> Iterator[_Docker | None]:
    if not all(shutil.which(name) for name in ("dockerd", "docker", "iptables-save", "busybox", "unshare")):
        yield None
        return
    namespace = Namespace()
    address = WIRE[100]
    wire.plug(namespace, IPv4Interface(f"{address}/{WIRE.prefixlen}"))
    argv = [
        "unshare", "--mount", "dockerd", "--data-root", f"{base}/data", "--exec-root", f"{base}/exec",
        "-H", f"unix://{base}/docker.sock", "--pidfile", f"{base}/docker.pid", "--storage-driver", "vfs",
        "--userland-proxy=false",
    ]  # fmt: skip
    with open(base / "dockerd.log", "w") as log:
        process = namespace.run(lambda: subprocess.Popen(argv, stdout=log, stderr=log))
    try:
        docker = _wait_for_docker(namespace, address, base)
        docker.client("import", "-", "bench", stdin=_busybox_image(base))
        published = ["-p", f"{PORT}:80", "-p", f"{PORT + 1}:81"]
        container = docker.client("run", "-d", *published, "bench", "/busybox", "sleep", "100000")
        pid = docker.client("inspect", "--format", "{{.State.Pid}}", container)
        inside = Namespace.of(int(pid))
        with closing(inside), _server(inside):
            yield docker
        docker.client("rm", "-f", container)
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
        namespace.close()


def _wait_for_docker(namespace: Namespace, address: object, base: Path) -> _Docker:
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            return _Docker(namespace, address, base)
        except subprocess.CalledProcessError:
            if time.monotonic() > deadline_s:
                raise


def _busybox_image(base: Path) -> bytes:
    found = shutil.which("busybox")
    assert found is not None
    root = base / "image"
    root.mkdir()
    shutil.copy(found, root / "busybox")
    return subprocess.run(["tar", "-C", str(root), "-c", "."], capture_output=True, check=True).stdout


def _connections_per_s(client: Namespace, address: str, port: int) -> float:
    return _wrk(client, address, port, "-H", "Connection: close")


def _requests_per_s(client: Namespace, address: str, port: int) -> float:
    return _wrk(client, address, port)


def _wrk(client: Namespace, address: str, port: int, *options: str) -> float:
    argv = ["wrk", "-t1", "-c32", f"-d{SAMPLE_S}s", *options, f"http://{address}:{port}/"]
    done = client.run(lambda: subprocess.run(argv, capture_output=True, text=True, check=True))
    found = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    assert found, done.stdout
    return float(found[1])


def _gbit_per_s(client: Namespace, address: str, port: int) -> float:
    buffer = bytearray(1 << 20)
    received = 0
    with client.socket(socket.SOCK_STREAM) as connection:
        connection.connect((address, port))
        begun_s = time.monotonic()
        while time.monotonic() - begun_s < SAMPLE_S:
            received += connection.recv_into(buffer)
        return received * 8e-9 / (time.monotonic() - begun_s)
