"""Hosts and containers for these tests: network namespaces nobody named, joined by a bridge in one more.

Each host is a thread in a namespace of its own with an event loop of its own, so `HostNetwork` and `Mesh` run there as
they would in a daemon. A namespace lives as long as a descriptor or thread refers to it; when the test process ends,
however it ends, nothing is left. Nothing is made in the machine's own namespace.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import IPRoute

from swarmpy.network import EndpointInfo, HostNetwork, Mesh
from swarmpy.network.kernel import CLONE_NEWNET, in_namespace

T = TypeVar("T")

DEADLINE_S = 10.0
WIRE = IPv4Network("192.0.2.0/24")  # RFC 5737
INGRESS = IPv4Network("10.0.0.0/24")


class Namespace:
    """A network namespace without a name."""

    def __init__(self) -> None:
        found: list[int] = []

        def make() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWNET) == 0:
                found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        assert found, "unshare(CLONE_NEWNET) failed; these tests need root"
        self._hold(found[0])

    @classmethod
    def of(cls, pid: int) -> Namespace:
        """The namespace of a process that runs."""
        namespace = cls.__new__(cls)
        namespace._hold(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        return namespace

    def _hold(self, fd: int) -> None:
        self.fd = fd
        self.path = Path(f"/proc/{os.getpid()}/fd/{fd}")

    def run(self, work: Callable[[], T]) -> T:
        return in_namespace(self.fd, work)

    def links(self, work: Callable[[Any], T]) -> T:
        def with_links() -> T:
            links: Any = IPRoute()
            try:
                return work(links)
            finally:
                links.close()

        return self.run(with_links)

    def socket(self, kind: socket.SocketKind) -> socket.socket:
        return self.run(lambda: socket.socket(socket.AF_INET, kind))

    def close(self) -> None:
        os.close(self.fd)


class Wire:
    """The network between the hosts."""

    def __init__(self) -> None:
        self.namespace = Namespace()
        self.namespace.links(self._make)
        self._ports = 0

    @staticmethod
    def _make(links: Any) -> None:
        links.link("add", ifname="wire", kind="bridge", br_forward_delay=0)
        links.link("set", index=links.link_lookup(ifname="wire")[0], state="up")

    def plug(self, namespace: Namespace, address: IPv4Interface) -> None:
        """`namespace` has `eth0` with `address` on this wire, and loopback."""
        self._ports += 1
        name = f"port{self._ports}"

        def join(links: Any) -> None:
            wire = links.link_lookup(ifname="wire")[0]
            peer = {"ifname": "eth0", "net_ns_fd": namespace.fd}
            links.link("add", ifname=name, kind="veth", master=wire, state="up", peer=peer)

        def configure(links: Any) -> None:
            index = links.link_lookup(ifname="eth0")[0]
            links.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
            for each in (1, index):
                links.link("set", index=each, state="up")

        self.namespace.links(join)
        namespace.links(configure)


class Host:
    """A host: a namespace on the wire, and an event loop on a thread inside it."""

    def __init__(self, number: int, wire: Wire, state_dir: Path) -> None:
        self.name = f"host{number}"
        self.address = WIRE[number]
        self.ingress = INGRESS[number]
        self.namespace = Namespace()
        wire.plug(self.namespace, IPv4Interface(f"{self.address}/{WIRE.prefixlen}"))
        self.state_dir = state_dir / self.name
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name=self.name, daemon=True)
        self._thread.start()
        self.network = self.call(self._made())
        self.mesh = self.call(self._mesh())

    def _live(self) -> None:
        ctypes.CDLL(None).setns(self.namespace.fd, CLONE_NEWNET)
        self._loop.run_forever()

    async def _made(self) -> HostNetwork:
        return HostNetwork("sw", self.state_dir)

    async def _mesh(self) -> Mesh:
        return Mesh("sw")

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return self.begin(work).result(30)

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """The same without waiting."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def new_mesh(self) -> None:
        """A new daemon's Mesh; the old one must have been closed or released."""
        self.mesh = self.call(self._mesh())

    def restart(self) -> None:
        """A new daemon's HostNetwork, over the state of the old one, which must have been closed."""
        self.network = self.call(self._made())
        self.call(self.network.start())

    def container(self, name: str, ingress: IPv4Address | None = None) -> Container:
        return Container(self, name, ingress)

    def link_names(self) -> set[str]:
        return self.namespace.links(lambda links: {link.get_attr("IFLA_IFNAME") for link in links.get_links()})

    def close(self) -> None:
        async def end() -> None:
            await self._loop.shutdown_default_executor()

        self.call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()
        self.namespace.close()


class Container:
    """A container's namespace, connected to the bridge and, with `ingress`, to the mesh; serves its own name."""

    def __init__(self, host: Host, name: str, ingress: IPv4Address | None) -> None:
        self.host, self.name, self.ingress = host, name, ingress
        self.id = name.encode().hex().ljust(64, "0")
        self.namespace = Namespace()
        self.endpoint: EndpointInfo = host.call(host.network.connect(self.id, self.namespace.path, "bridge"))
        if ingress is not None:
            address = f"{ingress}/{INGRESS.prefixlen}"
            host.call(host.network.connect(self.id, self.namespace.path, "ingress", ip=address))
        self._servers: list[TCPServer | UDPServer] = []

    def serve(self, protocol: str, port: int, name: str = "") -> TCPServer | UDPServer:
        """A server on `port` that says its name, by default the container's."""
        server = (TCPServer if protocol == "tcp" else UDPServer)(self.namespace, port, name or self.name)
        self._servers.append(server)
        return server

    def echo(self, port: int) -> UDPServer:
        """A server that sends back each datagram."""
        server = UDPServer(self.namespace, port, None)
        self._servers.append(server)
        return server

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self.host.call(self.host.network.disconnect(self.id))
        self.namespace.close()
        deadline_s = time.monotonic() + DEADLINE_S
        while self.record.exists():
            assert time.monotonic() < deadline_s, f"the links of {self.name} do not go"
            time.sleep(0.005)  # the pace of polling

    @property
    def record(self) -> Path:
        """What the host has on disk of it, as long as anything of it is in the kernel."""
        return self.host.state_dir / "endpoints" / f"{self.id}.json"


class TCPServer:
    """Sends its name on accept, then echoes. `got` counts the bytes that came in."""

    def __init__(self, namespace: Namespace, port: int, name: str) -> None:
        self._name = name.encode()
        self._listener = namespace.socket(socket.SOCK_STREAM)
        self._listener.bind(("0.0.0.0", port))
        self._listener.listen(64)
        self._connections: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.add(connection)
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.sendall(self._name + b"\n")
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class UDPServer:
    """Answers every datagram with its name, or, without one, with the same datagram."""

    def __init__(self, namespace: Namespace, port: int, name: str | None) -> None:
        self._name = name.encode() if name is not None else None
        self._socket = namespace.socket(socket.SOCK_DGRAM)
        self._socket.bind(("0.0.0.0", port))
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while True:
            try:
                data, client = self._socket.recvfrom(65536)
                if data == b"":
                    return
                self._socket.sendto(data if self._name is None else self._name, client)
            except OSError:
                return

    def close(self) -> None:
        # A thread blocked in recvfrom holds the socket open: a last, empty datagram lets it go.
        with self._socket:
            self._socket.sendto(b"", ("127.0.0.1", self._socket.getsockname()[1]))


def shell(namespace: Namespace, command: str) -> str:
    """The output of a command of the machine's shell, run in a namespace."""
    run = subprocess.run
    return namespace.run(lambda: run(["sh", "-ec", command], check=True, capture_output=True, text=True).stdout)


def ask(namespace: Namespace, address: object, port: int) -> str:
    """Connect from `namespace` and return the name of who answers. OSError when refused or silent."""
    with dial(namespace, address, port) as connection:
        return read_name(connection)


def dial(namespace: Namespace, address: object, port: int) -> socket.socket:
    connection = namespace.socket(socket.SOCK_STREAM)
    connection.settimeout(DEADLINE_S)
    try:
        connection.connect((str(address), port))
    except OSError:
        connection.close()
        raise
    return connection


def read_name(connection: socket.socket) -> str:
    name = b""
    while not name.endswith(b"\n"):
        name += connection.recv(1)
    return name.decode().strip()


def read_exactly(connection: socket.socket, size_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < size_bytes:
        part = connection.recv(size_bytes - len(data))
        if not part:
            break
        data += part
    return bytes(data)


def ask_udp(client: socket.socket, address: object, port: int) -> str:
    client.settimeout(DEADLINE_S)
    client.sendto(b"?", (str(address), port))
    return client.recv(2048).decode()
