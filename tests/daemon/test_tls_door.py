"""The Engine API over TCP with client certificates, asked by the docker client: streams end one way at a time."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swarmpy.lab.web_image import web_root
from tests.daemon.test_process import Daemon
from tests.vm.door import Keys

pytestmark = [pytest.mark.root, pytest.mark.cluster]

SLOW_S = 90.0
Docker = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """The client, inside the network namespace of a daemon that listens on TCP alone."""
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
        yield from _client(daemon, process, root)
    finally:
        process.terminate()
        process.wait(SLOW_S)


def _client(daemon: Daemon, process: subprocess.Popen[bytes], root: Path) -> Iterator[Docker]:
    daemon.wait_ready(SLOW_S)
    inside = ["nsenter", f"--net=/proc/{process.pid}/ns/net"]
    subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
    connection = [f"--tlscert={root}/cert.pem", f"--tlskey={root}/key.pem"]
    connection += ["--tlsverify", f"--tlscacert={root}/ca.pem", "--host=tcp://127.0.0.1:2376"]

    def run(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        argv = [*inside, "docker", *connection, *words]
        return subprocess.run(argv, input=stdin, capture_output=True, timeout=SLOW_S, check=False)

    done = run("import", "-", "busybox", stdin=web_root())
    assert done.returncode == 0, done.stderr
    yield run
    run("rm", "--force", "box")


def test_output_comes_after_the_client_has_ended_its_input(docker: Docker) -> None:
    """`docker run` without -i ends its own direction at once; TLS says so with close_notify (RFC 8446, 6.1)."""
    done = docker("run", "--name=box", "busybox", "sh", "-c", "sleep 1; echo late")
    assert (done.returncode, done.stdout) == (0, b"late\n"), done.stderr


def test_input_ends_and_the_answer_comes(docker: Docker) -> None:
    data = b"x" * 300_000
    done = docker("run", "--name=box", "--interactive", "busybox", "cat", stdin=data)
    assert (done.returncode, len(done.stdout)) == (0, len(data)), done.stderr
