"""Published ports: new connections per second and throughput, against dockerd's port publishing.

Both sides are a host in a network namespace with one container that serves, and a client on the same wire. dockerd runs
with its own data root, its userland proxy off, so that its kernel path is what is measured. For many ports its tables
get further rules of the very form it writes (one DNAT rule a port). dockerd's own routing mesh needs IPVS, which many
kernels lack; where a connection crosses to another node there is therefore no peer.
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
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from ipaddress import IPv4Interface
from pathlib import Path

from bench.harness import Row, alternate, compare
from swarmpy.network import Backend, HostPort, IngressNetwork, MeshView, Peer, Port
from tests.network.topology import INGRESS, WIRE, Host, Namespace, Wire

PORT = 8080
CROWD = 1000  # ports that are published besides the one that is measured
SAMPLE_S = 2
DEADLINE_S = 60

# Answers each request with a page and closes, or, on port 81, sends until the client has had enough.
SERVER = """
import os, selectors, socket
page = b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nConnection: close\\r\\n\\r\\nhello"
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
                if key.fileobj.recv(4096): key.fileobj.send(page)
            except OSError: pass
            sel.unregister(key.fileobj); key.fileobj.close()
"""


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

        def pair(address: object, port: int, probe: str) -> tuple[list[float], list[float]]:
            work = {"connections": _connections_per_s, "throughput": _gbit_per_s}[probe]
            theirs = (lambda: work(client, str(docker.address), PORT + (port - PORT) % 2)) if docker else None
            return alternate(repeats, lambda: work(client, str(address), port), theirs)

        ports = [HostPort("tcp", 80, PORT), HostPort("tcp", 81, PORT + 1)]
        host.call(host.network.publish(container.id, ports))
        few = pair(host.address, PORT, "connections")
        stream = pair(host.address, PORT + 1, "throughput")
        host.call(host.network.publish(container.id, []))
        for each in (host, other):
            each.call(each.mesh.apply(_view(each, [host, other])))
        if docker:
            docker.crowd()
        many = pair(host.address, PORT, "connections")
        across, _ = alternate(repeats, lambda: _connections_per_s(client, str(other.address), PORT), None)
        return [
            compare("published port, new connections", "1/s", "more", *few, version),
            compare(f"the same beside {CROWD} other ports", "1/s", "more", *many, version),
            compare("published port, throughput", "Gbit/s", "more", *stream, version),
            compare("mesh, by a node without a task", "1/s", "more", across, [], "no peer: IPVS is not in this kernel"),
        ]


def _view(host: Host, hosts: list[Host]) -> MeshView:
    """The measured service and a crowd of others, all with one task on the first host."""
    crowd = {f"s{n}": (Port("tcp", 10000 + n, 80),) for n in range(CROWD)}
    tasks = {name: Backend(name, hosts[0].name, INGRESS[20]) for name in ("bench", *crowd)}
    address = IPv4Interface(f"{host.ingress}/{INGRESS.prefixlen}")
    peers = {each.name: Peer(each.address, each.ingress) for each in hosts}
    ingress = IngressNetwork(INGRESS, 4096, address, host.address)
    return MeshView(host.name, ingress, peers, {"bench": (Port("tcp", PORT, 80),), **crowd}, tasks)


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
    argv = ["wrk", "-t1", "-c32", f"-d{SAMPLE_S}s", "-H", "Connection: close", f"http://{address}:{port}/"]
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
