"""One daemon under attack: manager of a swarm of one, its API on a socket and over TLS, in a network of its own."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from swarmpy.lab.web_image import web_root
from tests.daemon.test_process import Daemon
from tests.vm.door import Keys

T = TypeVar("T")

PATIENCE_S = 60.0
API_PORT, SWARM_PORT = 2376, 2377
CLONE_NEWNET = 0x40000000
MIB = 1 << 20


def until(condition: Callable[[], T | None], what: str, patience_s: float = PATIENCE_S) -> T:
    """The first truthy answer of `condition`; the test fails, naming `what`, when there is none in time."""
    deadline_s = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"not within {patience_s:g} s: {what}"
        time.sleep(0.02)
    return found


class Target:
    """The daemon and the ways to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.keys = root
        self.authority = Keys(["127.0.0.1"])
        for name, data in self.authority.machine.items():
            (root / f"server-{name}").write_bytes(data)
        self.authority.write_client(root)
        self.daemon = Daemon(root, 1)
        self.pid = self.daemon.start(
            "--host", f"tcp://0.0.0.0:{API_PORT}", "--tlscacert", str(root / "server-ca.pem"), "--log-level", "debug",
            "--tlscert", str(root / "server-cert.pem"), "--tlskey", str(root / "server-key.pem"),
        ).pid  # fmt: skip

    def up(self) -> None:
        """The daemon answers, and leads a swarm."""
        self.daemon.wait_ready(PATIENCE_S)
        subprocess.run(["nsenter", f"--net=/proc/{self.pid}/ns/net", "ip", "link", "set", "lo", "up"], check=True)
        self.docker("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", f"127.0.0.1:{SWARM_PORT}")
        self.docker("import", "-", "busybox", stdin=web_root())

    def close(self) -> None:
        process = self.daemon.process
        assert process is not None and process.poll() is None, self.log()[-4000:]
        if ids := self.docker("ps", "-aq").split():
            self.docker("rm", "-f", *ids)
        process.terminate()
        assert process.wait(PATIENCE_S) == 0

    def log(self) -> str:
        """What the daemon has logged, without what only libraries have to say."""
        lines = self.daemon.log.read_text().splitlines()
        return "\n".join(line for line in lines if "level=debug room=pyroute2" not in line)

    def memory(self) -> int:
        """Bytes that the daemon has in memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) << 10

    # ------------------------------------------------------------------------------------------ the docker client

    def run(self, *words: str, stdin: bytes = b"", tls: bool = False) -> subprocess.CompletedProcess[str]:
        """`docker WORDS`, over the socket or over TLS."""
        address = {
            "DOCKER_HOST": f"tcp://127.0.0.1:{API_PORT}", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(self.keys),
        } if tls else {"DOCKER_HOST": f"unix://{self.daemon.socket}"}  # fmt: skip
        inside = ["nsenter", f"--net=/proc/{self.pid}/ns/net"] if tls else []
        done = subprocess.run(
            [*inside, "docker", *words], env={**os.environ, **address}, input=stdin, capture_output=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        out, err = done.stdout.decode(errors="replace").strip(), done.stderr.decode(errors="replace").strip()
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def docker(self, *words: str, stdin: bytes = b"", tls: bool = False) -> str:
        """What `docker WORDS` prints; it must succeed."""
        done = self.run(*words, stdin=stdin, tls=tls)
        assert done.returncode == 0, f"{words}: {done.stderr}\n{self.log()[-4000:]}"
        return str(done.stdout)

    # ------------------------------------------------------------------------------------------ plain connections

    def local(self) -> socket.socket:
        """A connection to the API's socket."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE_S)
        connection.connect(str(self.daemon.socket))
        return connection

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
        """One request over the socket: status, and JSON or text."""
        with self.local() as connection:
            return ask(connection, method, path, body)

    def within(self, work: Callable[[], T]) -> T:
        """What `work` makes on a thread in the daemon's network. Sockets stay in the network they were made in."""
        outcome: list[T] = []

        def enter() -> None:
            descriptor = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
            try:
                assert ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) == 0
            finally:
                os.close(descriptor)
            outcome.append(work())

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert outcome, "the thread in the daemon's network failed: see above"
        return outcome[0]

    def connect(self, port: int) -> socket.socket:
        return self.within(lambda: socket.create_connection(("127.0.0.1", port), PATIENCE_S))

    def client_tls(self) -> ssl.SSLContext:
        """Of a client of the API that holds a certificate."""
        context = ssl.create_default_context(cafile=str(self.keys / "ca.pem"))
        context.load_cert_chain(self.keys / "cert.pem", self.keys / "key.pem")
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT     # the keys are made in the simplest way
        return context

    def over_tls(self, context: ssl.SSLContext, port: int = API_PORT) -> ssl.SSLSocket:
        """A connection whose handshake is through, as the client sees it."""
        return context.wrap_socket(self.connect(port), server_hostname="127.0.0.1")


def ask(connection: socket.socket, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
    """One request on an open connection: status, and JSON or text."""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    with contextlib.suppress(BrokenPipeError):              # who is refused is answered before it has asked
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    return answer(connection)


def answer(connection: socket.socket) -> tuple[int, Any]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    text = response.read()
    try:
        return response.status, json.loads(text)
    except ValueError:
        return response.status, text.decode(errors="replace")
