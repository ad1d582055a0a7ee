"""The command swarmpyd itself, in a network namespace of its own: how it starts, refuses to, and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.cluster]

PATIENCE_S = 20.0


class Daemon:
    """One swarmpyd; several may be started on the same root."""

    def __init__(self, root: Path, number: int) -> None:
        self.root = root
        self.socket = root / f"api{number}.sock"
        self.log = root / f"log{number}"
        self.process: subprocess.Popen[bytes] | None = None
        self.number = number

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        # An own network namespace each (unshare(1)): links and tables end with it.
        command = [
            "unshare", "--net", sys.executable, "-m", "swarmpy.daemon.main",
            "--data-root", str(self.root / "data"), "--exec-root", str(self.root / f"exec{self.number}"),
            "--host", f"unix://{self.socket}", "--cgroup-parent", f"/swarmpy-{self.root.name}", *options,
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stderr=log)
        return self.process

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.socket))
            except OSError:
                return False
            client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return client.recv(12).endswith(b"200")

    def wait_ready(self, patience_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + patience_s
        while not self.answers():
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)


@pytest.fixture
def daemons() -> Iterator[tuple[Daemon, Daemon]]:
    """Two daemons that share a data root; short paths, for sockets live below."""
    with tempfile.TemporaryDirectory(prefix="swd") as root:
        made = (Daemon(Path(root), 1), Daemon(Path(root), 2))
        try:
            yield made
        finally:
            for daemon in made:
                if daemon.process is not None and daemon.process.poll() is None:
                    daemon.process.terminate()
                    daemon.process.wait(PATIENCE_S)


def test_it_serves_until_sigterm_and_leaves_no_socket(daemons: tuple[Daemon, Daemon]) -> None:
    daemon, _ = daemons
    process = daemon.start()
    daemon.wait_ready()
    assert daemon.socket.stat().st_mode & 0o777 == 0o660
    process.send_signal(signal.SIGHUP)          # nothing to take up, and no end
    assert daemon.answers()
    process.terminate()
    assert process.wait(PATIENCE_S) == 0
    assert not daemon.socket.exists()


def test_it_starts_again_after_sigkill(daemons: tuple[Daemon, Daemon]) -> None:
    daemon, _ = daemons
    process = daemon.start()
    daemon.wait_ready()
    process.kill()
    process.wait()
    assert daemon.socket.exists()               # of the dead one; it is taken over
    daemon.start()
    daemon.wait_ready()


def test_a_data_root_has_one_daemon(daemons: tuple[Daemon, Daemon]) -> None:
    first, second = daemons
    first.start()
    first.wait_ready()
    assert second.start().wait(PATIENCE_S) == 1
    assert "is in use by another swarmpyd" in second.log.read_text()
    assert first.answers()


def test_a_socket_has_one_daemon(daemons: tuple[Daemon, Daemon]) -> None:
    first, second = daemons
    first.start()
    first.wait_ready()
    second.socket = first.socket
    other_root = ["--data-root", str(second.root / "other")]
    assert second.start(*other_root).wait(PATIENCE_S) == 1
    assert "another daemon listens there" in second.log.read_text()
    assert first.answers()


def test_a_wrong_command_line_ends_with_status_two(daemons: tuple[Daemon, Daemon]) -> None:
    daemon, _ = daemons
    assert daemon.start("--host", "tcp://0.0.0.0:2375").wait(PATIENCE_S) == 2
    assert "needs client certificates" in daemon.log.read_text()


def test_a_service_manager_is_told_of_its_life(daemons: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready, alive again and again, and stopping: sd_notify(3)."""
    daemon, _ = daemons
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(daemon.root / "notify"))
        manager.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        process = daemon.start()
        told = [manager.recv(100).decode() for _ in range(4)]
        process.terminate()
        while told[-1] != "STOPPING=1":
            told.append(manager.recv(100).decode())
    assert sorted(set(told)) == ["READY=1", "STOPPING=1", "WATCHDOG=1"]
    assert told.count("WATCHDOG=1") >= 3


def test_sigusr1_tells_where_threads_and_tasks_are(daemons: tuple[Daemon, Daemon]) -> None:
    daemon, _ = daemons
    process = daemon.start()
    daemon.wait_ready()
    process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + PATIENCE_S
    while "Stack for <Task" not in (log := daemon.log.read_text()):
        assert time.monotonic() < deadline, log
        time.sleep(0.02)
    assert "Current thread" in log and "daemon.py" in log
    assert daemon.answers()
