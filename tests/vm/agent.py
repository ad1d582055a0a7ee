"""Running commands in a machine through QEMU's guest agent: a serial line, so no network of the machine is needed.

Source  QEMU Guest Agent Protocol Reference: guest-sync-delimited, guest-exec, guest-exec-status.
"""

from __future__ import annotations

import base64
import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Agent", "Outcome", "Silent"]

FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 1.0
SYNC_S = 30.0


class Silent(Exception):
    """The machine's agent does not answer (yet, or any more)."""


@dataclass(frozen=True)
class Outcome:
    """What a command in a machine said."""

    command: str
    code: int
    out: str
    err: str

    def ok(self) -> str:
        assert self.code == 0, f"{self.command}: exit code {self.code}:\n{self.out}\n{self.err}"
        return self.out.strip()


class Agent:
    """`path` is the unix socket that QEMU made for the line. One command at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def answers(self) -> bool:
        try:
            with self._line(SYNC_S):
                return True
        except Silent:
            return False

    def run(self, command: str, timeout_s: float) -> Outcome:
        """`sh -c command` in the machine. Raises Silent when the machine goes away meanwhile, or takes too long."""
        end_s = time.monotonic() + timeout_s
        with self._line(timeout_s) as line:
            process = line.start(command)
            pause_s = FIRST_PAUSE_S
            while not (status := line.ask("guest-exec-status", {"pid": process}))["exited"]:
                if time.monotonic() > end_s:
                    raise Silent(f"after {timeout_s:g} s still running: {command}")
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
        code = status.get("exitcode", 128 + int(status.get("signal", 0)))
        return Outcome(command, code, _text(status.get("out-data")), _text(status.get("err-data")))

    def start(self, command: str) -> None:
        """`sh -c command` is on its way; for what ends the agent itself. Raises Silent."""
        with self._line(SYNC_S) as line:
            line.start(command)

    @contextmanager
    def _line(self, timeout_s: float) -> Iterator[_Line]:
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(timeout_s)
            try:
                channel.connect(str(self._path))
                line = _Line(channel)
                line.synchronize()
                yield line
            except OSError as error:
                raise Silent(f"{self._path}: {error}") from error


class _Line:
    """One JSON object a line, each way."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._reader = channel.makefile("rb")

    def synchronize(self) -> None:
        """Whatever was said to a caller before is passed over: the agent puts 0xFF before its answer."""
        token = random.randrange(1 << 31)
        self._say("guest-sync-delimited", {"id": token}, before=b"\xff")
        while True:
            said = self._hear().rpartition(b"\xff")[2]
            try:
                if json.loads(said).get("return") == token:
                    return
            except ValueError:
                continue

    def start(self, command: str) -> int:
        """The process that runs it, which the agent remembers until its end was asked for."""
        argv = {"path": "/bin/sh", "arg": ["-c", command], "capture-output": True}
        return int(self.ask("guest-exec", argv)["pid"])

    def ask(self, command: str, arguments: dict[str, Any]) -> Any:
        self._say(command, arguments)
        answer = json.loads(self._hear())
        if "error" in answer:
            raise AssertionError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def _say(self, command: str, arguments: dict[str, Any], before: bytes = b"") -> None:
        self._channel.sendall(before + json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")

    def _hear(self) -> bytes:
        line = self._reader.readline()
        if not line:
            raise ConnectionResetError("the machine is off")
        return line


def _text(data: str | None) -> str:
    return base64.b64decode(data or "").decode(errors="replace")
