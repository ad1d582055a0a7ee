"""What is found under a state directory that no shim answers for.

Owns    the judgement over leftovers. A shim may be killed at any moment, and a daemon too; whatever was on its way then
        is either a container that can be told about, or nothing at all.
Laws    Nothing of a container runs on without its shim. One that was never reported as created vanishes.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from swarmpy.runtime.cgroups import Cgroup, Layout, detect_layout
from swarmpy.runtime.state import ExitStatus, StateDirectory, process_start

__all__ = ["Found", "Leftovers", "survey"]


@dataclass(frozen=True)
class Found:
    """A container's directory, and the connection to its shim when there is one."""

    container_id: str
    pid: int
    connection: socket.socket | None


class Leftovers:
    """Settles and removes containers without a shim. All methods block and belong off the event loop."""

    def __init__(self, containers: Path, cgroup_parent: str) -> None:
        self.containers = containers
        self._cgroup_parent = cgroup_parent
        self._layout: Layout | None = None

    def settle(self, container_id: str) -> ExitStatus | None:
        """How the container ended; None when it never was, and then nothing of it is left.

        Call it only when the shim does not answer: one that still lives is killed first, it has lost its way.
        """
        state = StateDirectory(self.containers, container_id)
        status = state.read_status()
        if status is None:
            _kill(state.read("shim.json"))
            status = state.read_status()  # it may have been quicker
        if status is not None:
            return status
        created = state.read("container.json")
        _kill(created)
        self._remove_cgroup(state)
        if created is None:
            state.remove()
            return None
        status = ExitStatus(
            137, 9, False, time.time_ns(), 0,
            f"container {container_id[:12]}: its shim ended unexpectedly, and the container was killed with it",
        )  # fmt: skip
        state.write_status(status)
        return status

    def remove(self, container_id: str) -> None:
        """Nothing is left of a container that has ended."""
        state = StateDirectory(self.containers, container_id)
        self._remove_cgroup(state)
        state.remove()

    def _remove_cgroup(self, state: StateDirectory) -> None:
        written = state.read("shim.json")
        if written is None:
            return
        cgroup = Cgroup.existing(self._find_layout(), str(written["cgroup"]))
        cgroup.kill_all()
        cgroup.remove()

    def remove_parent(self) -> None:
        """The daemon's own cgroup goes too, unless containers are in it."""
        for hierarchy in self._find_layout().hierarchies:
            try:
                os.rmdir(f"{hierarchy.mount}{self._cgroup_parent}")
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EBUSY, errno.ENOTEMPTY):
                    raise

    def _find_layout(self) -> Layout:
        if self._layout is None:
            self._layout = detect_layout(_read("/proc/self/mountinfo"), _read)
        return self._layout


def survey(leftovers: Leftovers) -> list[Found]:
    """Every container's directory, with a connection where the shim answers."""
    found = []
    for container_id in sorted(os.listdir(leftovers.containers)) if leftovers.containers.is_dir() else []:
        state = StateDirectory(leftovers.containers, container_id)
        created = state.read("container.json")
        connection: socket.socket | None
        try:
            connection = state.connect()
        except OSError:  # no socket, or nobody listening
            connection = None
        pid = 0 if created is None else int(str(created["pid"]))
        found.append(Found(container_id, pid, connection))
    return found


def _kill(process: dict[str, object] | None) -> None:
    """Kill the process that a state file names, if it still is that one, and see it gone."""
    if process is None:
        return
    pid, start = int(str(process["pid"])), int(str(process["start"]))
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if process_start(pid) == start:
            _kill_and_wait(descriptor)
    finally:
        os.close(descriptor)


def _kill_and_wait(descriptor: int) -> None:
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(5000)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()

