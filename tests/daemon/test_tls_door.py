"""The Engine API over TCP with client certificates, asked by both clients: streams end one way at a time."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmpy.lab.web_image import web_root
from tests.daemon.test_process import Daemon
from tests.vm.door import Keys

pytestmark = [pytest.mark.root, pytest.mark.cluster]

SLOW_S = 90.0
MIB = 1 << 20


PROGRAMS = {"docker": ["docker"], "swarmpy": [sys.executable, "-m", "swarmpy.cli.main"]}


class Client:
    """A client, in the network namespace of a daemon that listens on TCP and on its socket."""

    def __init__(self, daemon: Daemon, pid: int, keys: Path) -> None:
        self.program = "docker"
        self._inside = ["nsenter", f"--net=/proc/{pid}/ns/net", "env"]
        self._tls = ["DOCKER_HOST=tcp://127.0.0.1:2376", "DOCKER_TLS_VERIFY=1", f"DOCKER_CERT_PATH={keys}"]
        self._unix = [f"DOCKER_HOST=unix://{daemon.socket}"]

    def __call__(self, *words: str, stdin: bytes = b"", unix: bool = False) -> subprocess.CompletedProcess[bytes]:
        argv = self.argv(*words, unix=unix)
        return subprocess.run(argv, input=stdin, capture_output=True, timeout=SLOW_S, check=False)

    def argv(self, *words: str, unix: bool = False) -> list[str]:
        return [*self._inside, *(self._unix if unix else self._tls), *PROGRAMS[self.program], *words]

    def up(self) -> None:
        subprocess.run([*self._inside, "ip", "link", "set", "lo", "up"], check=True)

    def connections(self) -> int:
        """Those over TCP that the daemon has not closed."""
        argv = [*self._inside, "ss", "-Htn", "state", "established", "state", "close-wait", "sport", "=", ":2376"]
        return len(subprocess.run(argv, capture_output=True, check=True).stdout.splitlines())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    root = tmp_path_factory.mktemp("d")
    keys = Keys(["127.0.0.1"])
    for name, data in keys.machine.items():
        (root / f"server-{name}").write_bytes(data)
    keys.write_client(root)
    daemon = Daemon(root, 1)
    process = daemon.start(
        "--host", "tcp://0.0.0.0:2376", "--tlscacert", str(root / "server-ca.pem"),
        "--tlscert", str(root / "server-cert.pem"), "--tlskey", str(root / "server-key.pem"),
    )  # fmt: skip
    try:
        daemon.wait_ready(SLOW_S)
        client = Client(daemon, process.pid, root)
        client.up()
        done = client("import", "-", "busybox", stdin=web_root())
        assert done.returncode == 0, done.stderr
        yield client
    finally:
        process.terminate()
        process.wait(SLOW_S)


@pytest.fixture(params=PROGRAMS)
def client(served: Client, request: pytest.FixtureRequest) -> Iterator[Client]:
    served.program = request.param
    yield served
    served("rm", "--force", "box")


def test_output_comes_after_the_client_has_ended_its_input(client: Client) -> None:
    """`docker run` without -i ends its own direction at once; TLS says so with close_notify (RFC 8446, 6.1)."""
    done = client("run", "--name=box", "busybox", "sh", "-c", "sleep 1; echo late")
    assert (done.returncode, done.stdout) == (0, b"late\n"), done.stderr


@pytest.mark.parametrize("unix", [False, True], ids=["tls", "unix"])
def test_input_ends_and_the_answer_comes(client: Client, unix: bool) -> None:
    """More of both than fits on the way: who only sends until all is sent waits for ever."""
    data = os.urandom(16 * MIB)
    done = client("run", "--name=box", "--interactive", "busybox", "cat", stdin=data, unix=unix)
    assert (done.returncode, done.stdout == data) == (0, True), done.stderr


@pytest.mark.parametrize("unix", [False, True], ids=["tls", "unix"])
def test_a_program_that_leaves_its_input_unread_is_heard(client: Client, unix: bool) -> None:
    command = ["run", "--name=box", "--interactive", "busybox", "sh", "-c", "busybox head -c 3; echo; echo the end"]
    done = client(*command, stdin=b"abc" * (20 * MIB), unix=unix)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"abc\nthe end\n", b"")


@pytest.mark.parametrize("unix", [False, True], ids=["tls", "unix"])
def test_an_upload_that_is_refused_says_why(client: Client, unix: bool) -> None:
    said = [client(*words, stdin=b"no archive" * (5 * MIB), unix=unix) for words in (["load"], ["import", "-"])]
    for done in said:
        assert done.returncode == 1
        assert b"connection reset" not in done.stderr and b"broken pipe" not in done.stderr, done.stderr
        assert b"Error response from daemon" in done.stderr or b"archive" in done.stderr, done.stderr


def test_large_images_come_and_go(client: Client) -> None:
    data = os.urandom(64 * MIB)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("data")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    done = client("import", "-", "large", stdin=archive.getvalue())
    assert done.returncode == 0, done.stderr
    saved = client("save", "large")
    assert saved.returncode == 0 and len(saved.stdout) > len(data), saved.stderr
    assert client("rmi", "large").returncode == 0
    loaded = client("load", stdin=saved.stdout)
    assert (loaded.returncode, loaded.stdout) == (0, b"Loaded image: large:latest\n"), loaded.stderr


@pytest.mark.parametrize("command", ["logs --follow box", "attach --no-stdin box", "stats", "events", "wait box"])
def test_a_client_that_goes_is_let_go(client: Client, command: str) -> None:
    """Without a word, as one that is killed; nothing is said to it meanwhile."""
    client.program = "docker"
    assert client("run", "--detach", "--name=box", "busybox", "sleep", "1000").returncode == 0
    deadline_s = time.monotonic() + SLOW_S
    with subprocess.Popen(client.argv(*command.split()), stdout=subprocess.DEVNULL) as asking:
        while client.connections() == 0:
            assert asking.poll() is None and time.monotonic() < deadline_s
        asking.kill()
    while client.connections() > 0:
        assert time.monotonic() < deadline_s, "the daemon keeps the connection"
