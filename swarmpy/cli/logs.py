"""Log streams: taking the daemon's frames apart, and naming the task each line of a service comes from.

Source  Docker Engine API: stream format of ContainerAttach, ServiceLogs with `details`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple
from urllib.parse import unquote

from swarmpy.cli import values
from swarmpy.cli.failures import ApiError
from swarmpy.cli.output import short_id
from swarmpy.cli.tasks import Names

if TYPE_CHECKING:
    import io

    from swarmpy.cli.client import Client

__all__ = ["Shown", "frames", "print_logs", "print_service_logs", "since_text"]

HEADER = 8


def frames(response: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """(1 for stdout or 2 for stderr, data), until the stream ends."""
    while len(header := response.read(HEADER)) == HEADER:
        yield header[0], response.read(int.from_bytes(header[4:], "big"))


def print_logs(daemon: Client, path: str, query: dict[str, Any], *, tty: bool) -> None:
    """A container's log to this process's stdout and stderr."""
    with daemon.stream("GET", path, query) as response:
        if tty:
            while data := response.read1(65536):
                write(sys.stdout.buffer, data)
            return
        for stream, data in frames(response):
            write(sys.stderr.buffer if stream == 2 else sys.stdout.buffer, data)


class Shown(NamedTuple):
    """What of a service's lines is shown, and how."""

    timestamps: bool
    raw: bool
    no_trunc: bool
    no_resolve: bool
    no_task_ids: bool
    details: bool


def print_service_logs(daemon: Client, reference: str, query: dict[str, Any], shown: Shown) -> None:
    """`web.1.abc@node2    | line`, for a service or one of its tasks."""
    query = query | {
        "stdout": "1",
        "stderr": "1",
        "timestamps": str(shown.timestamps).lower(),
        "details": str(shown.details or not shown.raw).lower(),
    }
    try:
        service = daemon.get(f"/services/{reference}")
        path, tty = (
            f"/services/{service['ID']}/logs",
            service["Spec"]["TaskTemplate"]["ContainerSpec"].get("TTY", False),
        )
    except ApiError as error:
        if error.status != 404:
            raise
        task = daemon.get(f"/tasks/{reference}")
        path, tty = f"/tasks/{task['ID']}/logs", task["Spec"]["ContainerSpec"].get("TTY", False)
    if tty or shown.raw:
        print_logs(daemon, path, query, tty=tty)
        return
    labels = TaskLabels(daemon, shown)
    with daemon.stream("GET", path, query) as response:
        for stream, data in frames(response):
            line = labels.named(data)
            write(sys.stderr.buffer if stream == 2 else sys.stdout.buffer, line)


class TaskLabels:
    """Turns the details before a line into the name of its task."""

    def __init__(self, daemon: Client, shown: Shown) -> None:
        self._daemon = daemon
        self._names = Names(daemon, resolve=not shown.no_resolve)
        self._shown = shown
        self._labels: dict[str, str] = {}

    def named(self, data: bytes) -> bytes:
        stamp = b""
        if self._shown.timestamps:
            stamp, _, data = data.partition(b" ")
            stamp += b" "
        text, _, line = data.partition(b" ")
        pairs = (pair.partition("=") for pair in text.decode().split(","))
        details = {unquote(name): unquote(value) for name, _, value in pairs}
        of_task = tuple(details.pop(f"com.docker.swarm.{name}.id") for name in ("service", "task", "node"))
        key = ",".join(of_task)
        if key not in self._labels:
            self._labels[key] = self._label(*of_task)
        width = max(map(len, self._labels.values()))
        others = ",".join(f"{name}={value}" for name, value in details.items())
        more = f"{others} ".encode() if self._shown.details and others else b""
        return stamp + f"{self._labels[key]:<{width}}    | ".encode() + more + line

    def _label(self, service_id: str, task_id: str, node_id: str) -> str:
        slot = self._daemon.get(f"/tasks/{task_id}").get("Slot", 0)
        shown = task_id if self._shown.no_trunc else short_id(task_id)
        task = "" if self._shown.no_task_ids else f".{shown}"
        return f"{self._names.service(service_id)}.{slot}{task}@{self._names.node(node_id)}"


def since_text(text: str) -> str | None:
    """A Unix time stays; `10m` is so long ago."""
    if not text or text.replace(".", "", 1).isdigit():
        return text or None
    return f"{time.time() - values.duration_ns('since', text) / 10**9:.9f}"


def write(out: BinaryIO, data: bytes) -> None:
    out.write(data)
    out.flush()
