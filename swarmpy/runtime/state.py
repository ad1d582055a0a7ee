"""The files of one container's state directory, which outlive shim and daemon.

    <state>/containers/<id>/
        shim.json       who is responsible, and which cgroup to clean: written before there is anything to clean
        container.json  what was created: written before create is answered
        shim.sock       the shim answers here, mode 0600
        status.json     how it ended: durable before anybody is told

Owns    names, atomic writing and reading. A process is named by pid and start time, since pids come again.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["ExitStatus", "StateDirectory", "process_ends", "process_start"]

PF_EXITING = 0x4


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a container ended. `error` is set when that is not by its own doing: its shim was lost."""

    exit_code: int  # 128 + signal when killed by one
    signal: int
    oom_killed: bool
    finished_ns: int
    started_ns: int  # 0 when it never started
    error: str = ""


def process_start(pid: int) -> int:
    """Clock ticks since boot at which `pid` started; 0 when there is no such process. proc_pid_stat(5), field 22."""
    fields = _fields_after_name(pid)
    return int(fields[19]) if fields else 0


def process_ends(pid: int) -> bool:
    """Whether `pid` is on its way out, is a zombie, or is gone. proc_pid_stat(5), field 9; PF_EXITING, linux/sched.h.

    A process has given up its namespaces before it can be waited for.
    """
    fields = _fields_after_name(pid)
    return not fields or bool(int(fields[6]) & PF_EXITING)


def _fields_after_name(pid: int) -> list[bytes]:
    """/proc/<pid>/stat from field 3 on; empty when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


class StateDirectory:
    """One container's. Writers are the shim, and the daemon once the shim is gone."""

    def __init__(self, containers: Path | str, container_id: str) -> None:
        self.path = f"{containers}/{container_id}"

    def write(self, name: str, value: dict[str, object], *, durable: bool = False) -> None:
        """Atomic: readers see the old file or the new one. Durable: also after a power failure."""
        final = f"{self.path}/{name}"
        descriptor = os.open(f"{final}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, json.dumps(value).encode())
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(f"{final}.new", final)
        if durable:
            directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def read(self, name: str) -> dict[str, object] | None:
        """None when it was never written."""
        try:
            with open(f"{self.path}/{name}", "rb") as file:
                value: dict[str, object] = json.loads(file.read())
                return value
        except FileNotFoundError:
            return None

    def write_status(self, status: ExitStatus) -> None:
        self.write("status.json", asdict(status), durable=True)

    def read_status(self) -> ExitStatus | None:
        value = self.read("status.json")
        return None if value is None else ExitStatus(**value)  # type: ignore[arg-type]  # written by write_status

    def remove(self) -> None:
        """Nothing is left of it. Fine when there is nothing."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return
        for name in names:
            os.unlink(f"{self.path}/{name}")
        os.rmdir(self.path)

    def socket_address(self) -> tuple[int, str]:
        """A descriptor to keep open meanwhile, and a short path through it: unix(7) allows 107 bytes."""
        directory = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return directory, f"/proc/self/fd/{directory}/shim.sock"

    def connect(self) -> socket.socket:
        """A connection to the shim. Raises OSError when none listens. Waits while its backlog is full (listen(2))."""
        directory, address = self.socket_address()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(address)
        except OSError:
            connection.close()
            raise
        finally:
            os.close(directory)
        return connection
