"""The command against a daemon: what a shell sees of `run`, `exec` and `attach`."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import host
from tests.engine.host import DEADLINE_S, REPOSITORY, Host, until

__all__ = ["host"]

pytestmark = [pytest.mark.root, pytest.mark.cluster]


def environment(host: Host) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "SWARMPY_HOST": host.address, "TERM": "xterm"}


def swarmpy(host: Host, *words: str, input: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "swarmpy.cli.main", *words], env=environment(host), input=input, text=True,
        capture_output=True, timeout=DEADLINE_S * 3, check=False,
    )  # fmt: skip


class Terminal:
    """`swarmpy WORDS` with a terminal of its own, 30 lines of 100 columns."""

    def __init__(self, host: Host, *words: str) -> None:
        master, slave = pty.openpty()
        self.resize(master, 30, 100)
        self._master = master
        self.seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "swarmpy.cli.main", *words], env=environment(host),
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    @staticmethod
    def resize(master: int, rows: int, columns: int) -> None:
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def shrink(self) -> None:
        """To 20 lines of 60 columns; the command is told as a terminal tells it."""
        self.resize(self._master, 20, 60)
        self.process.send_signal(signal.SIGWINCH)

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    def until(self, wanted: bytes) -> None:
        """`wanted` has been shown since the last time."""
        end = time.monotonic() + DEADLINE_S * 3
        while wanted not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self._master, 4096)
                except OSError:  # the other side is closed: pty(7)
                    assert wanted in self.seen, self.seen
        self.seen = self.seen.partition(wanted)[2]

    def end(self) -> int:
        try:
            while select.select([self._master], [], [], 0.1)[0] or self.process.poll() is None:
                try:
                    self.seen += os.read(self._master, 4096)
                except OSError:
                    break
            return self.process.wait(DEADLINE_S * 3)
        finally:
            os.close(self._master)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("busybox", "sh", "-c", "exit 7"), 7, ""),
        (("busybox", "/etc/passwd"), 126, "permission denied"),
        (("busybox", "nowhere"), 127, "executable file not found"),
        (("--network", "nowhere", "busybox", "true"), 125, "network nowhere not found"),
        (("--memory", "1k", "busybox", "true"), 125, "Minimum memory limit"),
        (("--memory", "much", "busybox", "true"), 125, "is not a size"),
        (("--nonsense", "busybox"), 125, "No such option: --nonsense"),
        (("nowhere.invalid/none:1",), 125, "nowhere.invalid"),
        (("--pull", "never", "nowhere.invalid/none:1"), 125, "No such image: nowhere.invalid/none:1"),
        (("--pull", "always", "nowhere.invalid/none:1"), 125, "nowhere.invalid"),
        (("--pull", "sometimes", "busybox"), 125, "--pull: 'sometimes' is not one of always, missing, never"),
        (("--platform", "linux/sparc", "busybox", "true"), 125, "platform 'linux/sparc' is not supported"),
        (("-d", "-a", "stdout", "busybox", "true"), 125, "--attach and --detach exclude each other"),
        (("-a", "output", "busybox", "true"), 125, "--attach: 'output' is not one of stdin, stdout, stderr"),
        (("-it", "busybox", "true"), 1, "the input device is not a TTY"),
        (("--detach-keys", "ctrl-1", "busybox", "true"), 125, "--detach-keys: Invalid escape keys (ctrl-1)"),
    ],
)
def test_exit_codes_of_run(host: Host, words: tuple[str, ...], code: int, message: str) -> None:
    done = swarmpy(host, "run", "--rm", *words)
    assert (done.returncode, message in done.stderr) == (code, True), done
    until("--rm removes it", lambda: not host.out("ps", "-aq"))


@pytest.mark.parametrize("command", ["run -d", "create"])
def test_the_id_is_written_to_a_file_that_was_not_there(host: Host, tmp_path: Path, command: str) -> None:
    path = tmp_path / "id"
    words = [*command.split(), "--cidfile", str(path)]
    assert swarmpy(host, *words, "-m", "1k", "busybox", "true").returncode == (125 if "run" in command else 1)
    assert not path.exists()
    id_ = swarmpy(host, *words, "-h", "named", "busybox", "true").stdout.strip()
    assert path.read_text() == id_
    config = host.inspect(id_)
    assert (config["HostConfig"]["ContainerIDFile"], config["Config"]["Hostname"]) == (str(path), "named")
    again = swarmpy(host, *words, "busybox", "true")
    assert (again.returncode, "--cidfile" in again.stderr, path.read_text()) == (125, True, id_)
    host.docker("rm", "-f", id_)


def test_a_container_that_is_killed(host: Host) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "swarmpy.cli.main", "run", "--rm", "--name", "victim", "busybox", "sleep", "99"],
        env=environment(host), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    until("it runs", lambda: host.out("ps", "-q", "--filter", "name=victim"))
    host.docker("kill", "victim")
    assert running.wait(DEADLINE_S) == 128 + signal.SIGKILL
    running.communicate()


def test_a_container_that_is_made_and_started_later(host: Host) -> None:
    name = swarmpy(host, "create", "-i", "busybox", "sh", "-c", "cat; exit 4").stdout.strip()
    started = swarmpy(host, "start", "-ai", name, input="text")
    assert (started.stdout, started.returncode) == ("text", 4)
    several = swarmpy(host, "start", "-a", name, name)
    assert (several.returncode, several.stderr) == (1, "you cannot start and attach multiple containers at once\n")
    stopped = swarmpy(host, "attach", name)
    assert (stopped.returncode, "cannot attach to a stopped container" in stopped.stderr) == (1, True)
    host.docker("rm", "-f", name)


def test_only_the_streams_that_are_wanted(host: Host) -> None:
    done = swarmpy(host, "run", "--rm", "-a", "stderr", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr, done.returncode) == ("", "err\n", 0)


def test_nobody_answers() -> None:
    nowhere = Host()
    assert swarmpy(nowhere, "run", "busybox").returncode == 125
    assert swarmpy(nowhere, "ps").returncode == 1
    nowhere.root.rmdir()


def test_streams_of_run_and_exec(host: Host) -> None:
    done = swarmpy(host, "run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo err >&2", input="text")
    assert (done.stdout, done.stderr, done.returncode) == ("text", "err\n", 0)
    name = host.out("run", "-d", "busybox", "sleep", "99")
    for _ in range(10):  # what a quick process writes may come in one piece with the answer's head
        done = swarmpy(host, "exec", name, "echo", "out")
        assert (done.stdout, done.returncode) == ("out\n", 0)
    assert swarmpy(host, "exec", "-u", "stranger", name, "true").returncode == 126
    assert swarmpy(host, "exec", name, "nowhere").returncode == 127
    host.docker("rm", "-f", name)


def test_signals_are_passed_on(host: Host) -> None:
    script = "trap 'echo told; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    running = subprocess.Popen(
        [sys.executable, "-m", "swarmpy.cli.main", "run", "--rm", "busybox", "sh", "-c", script],
        env=environment(host), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    running.send_signal(signal.SIGTERM)
    assert running.stdout.read() == "told\n"
    assert running.wait(DEADLINE_S) == 9


@pytest.fixture
def sleeper(host: Host) -> Iterator[str]:
    name = host.out("run", "-dit", "busybox", "sh")
    yield name
    host.docker("rm", "-f", name)


def test_an_exec_knows_the_windows_size_from_the_start(host: Host, sleeper: str) -> None:
    terminal = Terminal(host, "exec", "-it", sleeper, "sh", "-c", "stty size; read x; stty size; exit 3")
    terminal.until(b"30 100")
    terminal.shrink()
    until("the exec is told", lambda: _size_of_last_exec(host, sleeper) == "20 60")
    terminal.type(b"\r")
    terminal.until(b"20 60")
    assert terminal.end() == 3


def _size_of_last_exec(host: Host, name: str) -> str:
    return host.out("exec", name, "sh", "-c", "stty size < /dev/pts/1")


def test_a_process_that_is_over_at_once(host: Host, sleeper: str) -> None:
    """It has no terminal any more whose size could be set."""
    for words in (("run", "-t", "--rm", "busybox", "echo", "quick"), ("exec", "-t", sleeper, "echo", "quick")):
        for _ in range(3):
            terminal = Terminal(host, *words)
            terminal.until(b"quick")
            assert terminal.end() == 0


def test_keys_that_detach(host: Host, sleeper: str) -> None:
    for words in (("attach", sleeper), ("exec", "-it", sleeper, "sh")):
        terminal = Terminal(host, *words)
        terminal.type(b"echo $((6*7))\r")
        terminal.until(b"42")
        terminal.type(b"\x10\x11")
        terminal.until(b"read escape sequence")
        assert terminal.end() == 0
    assert host.inspect(sleeper)["State"]["Running"]
