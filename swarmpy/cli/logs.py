"""Log streams: taking the daemon's frames apart, and naming the task each line of a service comes from.

Source  Docker Engine API: stream format of ContainerAttach, ServiceLogs with `details`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote

from swarmpy.cli import values
from swarmpy.cli.failures import ApiError
from swarmpy.cli.output import short_id
from swarmpy.cli.tasks import Names

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from swarmpy.cli.client import Client

__all__ = ["frames", "print_logs", "print_service_logs"]

HEADER = 8


def frames(response: HTTPResponse) -> Iterator[tuple[int, bytes]]:
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


def print_service_logs(
    daemon: Client,
    reference: str,
    *,
    follow: bool,
    tail: str,
    since: str,
    timestamps: bool,
    raw: bool,
    no_trunc: bool,
) -> None:
    """`web.1.abc@node2    | line`, for a service or one of its tasks."""
    query = {
        "stdout": "1",
        "stderr": "1",
        "follow": str(follow).lower(),
        "tail": tail,
        "timestamps": str(timestamps).lower(),
        "details": str(not raw).lower(),
        "since": since_text(since),
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
    if tty or raw:
        print_logs(daemon, path, query, tty=tty)
        return
    labels = TaskLabels(daemon, no_trunc=no_trunc)
    with daemon.stream("GET", path, query) as response:
        for stream, data in frames(response):
            line = labels.named(data, timestamps=timestamps)
            write(sys.stderr.buffer if stream == 2 else sys.stdout.buffer, line)


class TaskLabels:
    """Turns the details before a line into the name of its task."""

    def __init__(self, daemon: Client, *, no_trunc: bool) -> None:
        self._daemon = daemon
        self._names = Names(daemon)
        self._no_trunc = no_trunc
        self._labels: dict[str, str] = {}

    def named(self, data: bytes, *, timestamps: bool) -> bytes:
        stamp = b""
        if timestamps:
            stamp, _, data = data.partition(b" ")
            stamp += b" "
        details, _, line = data.partition(b" ")
        text = details.decode()
        if text not in self._labels:
            self._labels[text] = self._label(
                {unquote(name): unquote(value) for name, _, value in (pair.partition("=") for pair in text.split(","))}
            )
        width = max(map(len, self._labels.values()))
        return stamp + f"{self._labels[text]:<{width}}    | ".encode() + line

    def _label(self, details: dict[str, str]) -> str:
        task_id = details["com.docker.swarm.task.id"]
        slot = self._daemon.get(f"/tasks/{task_id}").get("Slot", 0)
        service = self._names.service(details["com.docker.swarm.service.id"])
        shown = task_id if self._no_trunc else short_id(task_id)
        return f"{service}.{slot}.{shown}@{self._names.node(details['com.docker.swarm.node.id'])}"


def since_text(text: str) -> str | None:
    """A Unix time stays; `10m` is so long ago."""
    if not text or text.replace(".", "", 1).isdigit():
        return text or None
    return f"{time.time() - values.duration_ns('since', text) / 10**9:.9f}"


def write(out: BinaryIO, data: bytes) -> None:
    out.write(data)
    out.flush()
