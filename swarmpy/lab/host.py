"""A running host of a lab: its first process, and what is asked of it.

Nothing is remembered but a file with the pid, and even that can be found again: the first process of a host names lab
and host on its command line.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from swarmpy.errors import Conflict, Internal, Unavailable

__all__ = ["MARKER", "Host", "find_hosts", "poll_until"]

T = TypeVar("T")

MARKER = "swarmpy-lab"
HERE = Path(__file__).parent
POLL_S = 0.01
END_DEADLINE_S = 20.0


def poll_until(condition: Callable[[], T | None], deadline_s: float, what: str) -> T:
    """The first truthy answer of `condition`. Unavailable, naming `what`, when there is none within `deadline_s`."""
    end_s = time.monotonic() + deadline_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end_s:
            raise Unavailable(f"{what}: still waiting after {deadline_s:g} s")
        time.sleep(POLL_S)


@dataclass(frozen=True, slots=True)
class Host:
    """A place where a host is or can be: `directory` holds its control socket and logs."""

    lab: str
    name: str
    directory: Path

    # ------------------------------------------------------------------------------------------- life

    def boot(self) -> None:
        """The first process runs in new namespaces; there is no daemon and no network yet. Conflict when it does."""
        if self.pid() is not None:
            raise Conflict(f"host {self.name} of lab {self.lab} is already up")
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._socket_path.unlink(missing_ok=True)
        argv = [sys.executable, "-I", "-S", str(HERE / "host_init.py"), MARKER, self.lab, self.name]
        made = subprocess.run([*argv, str(self._socket_path)], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise Internal(f"host {self.name} cannot be made: {made.stderr.strip().splitlines()[-1:]}; are you root?")
        self._pid_path.write_text(made.stdout.strip())
        self.status()

    def pid(self) -> int | None:
        """The first process as the machine sees it; None when the host is down."""
        try:
            pid = int(self._pid_path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if _is_host(pid, self.lab, self.name) else None

    def end(self) -> None:
        """No process of the host is left; the kernel takes them all with the first. Idempotent."""
        pid = self.pid()
        if pid is not None:
            end_process(pid)
        self._pid_path.unlink(missing_ok=True)
        self._socket_path.unlink(missing_ok=True)

    # -------------------------------------------------------------------------------------- its processes

    def spawn(self, service: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """`service` runs; what it says is appended to its log."""
        request = {"do": "spawn", "name": service, "argv": list(argv), "env": dict(env), "log": str(self.log(service))}
        self._ask(request)

    def log(self, service: str) -> Path:
        return self.directory / f"{service}.log"

    def signal(self, service: str, number: int) -> bool:
        """Whether `service` ran and was signalled."""
        return bool(self._ask({"do": "signal", "name": service, "signal": int(number)})["sent"])

    def signal_all(self, number: int) -> None:
        """Signal every process of the host but its first."""
        self._ask({"do": "signal-all", "signal": int(number)})

    def kill(self, service: str) -> bool:
        """`service` has been killed with SIGKILL and is gone; whether it ran."""
        sent = self.signal(service, signal.SIGKILL)
        if sent:
            poll_until(lambda: not self.running(service), END_DEADLINE_S, f"{service} of host {self.name} to end")
        return sent

    def running(self, service: str) -> bool:
        return bool(self.status()["services"].get(service, {}).get("running"))

    def status(self) -> dict[str, Any]:
        """`services` (name to pid, running, exit_code) and `paused`. Unavailable when the host is down."""
        return self._ask({"do": "status"})

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` inside the host, with the terminal of whoever runs it."""
        return [sys.executable, "-I", "-S", str(HERE / "enter.py"), str(self._living_pid()), *argv]

    # -------------------------------------------------------------------------------------------- its network

    def namespace(self) -> int:
        """A descriptor of the host's network namespace; the caller closes it."""
        return os.open(f"/proc/{self._living_pid()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def with_links(self, work: Callable[[Any], T]) -> T:
        """`work(links)` inside the host's network namespace; `links` is a pyroute2 IPRoute."""
        from pyroute2 import IPRoute  # see `Lab.wire`

        from swarmpy.network.kernel import in_namespace

        descriptor = self.namespace()

        def inside() -> T:
            links: Any = IPRoute()
            try:
                return work(links)
            finally:
                links.close()

        try:
            return in_namespace(descriptor, inside)
        finally:
            os.close(descriptor)

    # ------------------------------------------------------------------------------------------------ inside

    @property
    def _socket_path(self) -> Path:
        return self.directory / "init.sock"

    @property
    def _pid_path(self) -> Path:
        return self.directory / "init.pid"

    def _living_pid(self) -> int:
        pid = self.pid()
        if pid is None:
            raise Unavailable(f"host {self.name} of lab {self.lab} is down; start it first")
        return pid

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._living_pid()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(10)
            try:
                connection.connect(str(self._socket_path))
                connection.sendall(json.dumps(request).encode() + b"\n")
                with connection.makefile("rb") as stream:
                    reply: dict[str, Any] = json.loads(stream.readline() or b'{"error": "no answer"}')
            except OSError as failure:
                raise Unavailable(f"host {self.name} of lab {self.lab} does not answer: {failure}") from failure
        if "error" in reply:
            raise Internal(f"host {self.name} of lab {self.lab}: {reply['error']}")
        return reply


def find_hosts() -> Iterator[tuple[int, str, str, str]]:
    """Pid, lab, host and socket path of every first process on this machine, whatever files say."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            words = _command_line(int(entry.name))
            if _marks_host(words):
                yield int(entry.name), words[5], words[6], words[7]


def end_process(pid: int) -> None:
    """SIGKILL, and wait until the process and, when it is the first of a host, all that was in there is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)
    poll_until(lambda: not _alive(pid), END_DEADLINE_S, f"process {pid} to end")


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def _marks_host(words: Sequence[str]) -> bool:
    return len(words) > 7 and words[3].endswith("/host_init.py") and words[4] == MARKER


def _is_host(pid: int, lab: str, name: str) -> bool:
    words = _command_line(pid)
    return _marks_host(words) and (words[5], words[6]) == (lab, name)


def _alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
