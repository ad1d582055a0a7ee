"""The processes that entered a container by exec, as the shim keeps them.

Owns    their numbers, streams and exit statuses. A peer that asks for one becomes its stream; every controller hears of
        its end. A process whose peer hangs up goes on, as with Docker.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from swarmpy.runtime.bundle import parse_process
from swarmpy.runtime.creation import Created
from swarmpy.runtime.entering import enter
from swarmpy.runtime.failure import FailureKind, RuntimeFailure, describe
from swarmpy.runtime.kernel import LinuxKernel
from swarmpy.runtime.loop import READ, Loop
from swarmpy.runtime.peer import Peer
from swarmpy.runtime.reader import Fields
from swarmpy.runtime.stdio import ProcessStreams, make_pipes

__all__ = ["Executions", "exit_numbers"]

Reply = Callable[[dict[str, object]], None]


@dataclass(slots=True)
class _Execution:
    number: int
    pid: int
    channel: socket.socket
    streams: ProcessStreams
    peer: Peer
    reply: Reply  # called once: when its program runs, or when a process that could not run one is gone
    pipes: tuple[int, int, int] | None
    console: int | None = None
    failure: RuntimeFailure | None = None


class Executions:
    """Calls `announce` with an event for every process that ends."""

    def __init__(
        self, kernel: LinuxKernel, loop: Loop, created: Created, last_capability: int, *,
        init_ended: Callable[[], bool], announce: Callable[[dict[str, object]], None], complain: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._kernel = kernel
        self._loop = loop
        self._created = created
        self._last_capability = last_capability
        self._init_ended = init_ended
        self._announce = announce
        self._complain = complain
        self._running: dict[int, _Execution] = {}  # by number
        self._last = 0

    def start(self, peer: Peer, fields: Fields, stdin: bool, reply: Reply) -> None:
        """Start `fields` (an OCI process). The reply comes when its program runs, or tells why it does not."""
        process = parse_process(fields)
        child, ours = (None, None) if process.terminal else make_pipes(stdin, self._created.bundle.host_owner(process))
        try:
            pid, channel = enter(
                self._kernel, self._created.bundle, self._created.pid, self._created.cgroup, process, child,
                self._created.seccomp, self._last_capability,
            )  # fmt: skip
        except OSError as error:
            for descriptor in ours or ():
                if descriptor >= 0:
                    os.close(descriptor)
            raise self._explained(RuntimeFailure(describe(error))) from None
        finally:
            for descriptor in child or ():
                os.close(descriptor)
        self._last += 1
        streams = ProcessStreams(self._loop, None, lambda: None, self._complain)
        execution = _Execution(self._last, pid, channel, streams, peer, reply, ours)
        self._running[self._last] = execution
        self._loop.watch(channel.fileno(), READ, lambda _: self._hear(execution))

    def _hear(self, execution: _Execution) -> None:
        """Its terminal, its failure, or the end of the channel, by which execve says that it worked."""
        data, descriptors, _, _ = socket.recv_fds(execution.channel, 65536, 1, socket.MSG_CMSG_CLOEXEC)
        if data and descriptors:
            execution.console = descriptors[0]
            return
        if data:
            execution.failure = RuntimeFailure.from_json(json.loads(data))
            return
        self._loop.forget(execution.channel.fileno())
        execution.channel.close()
        if execution.failure is None:
            execution.reply({"result": {"exec": execution.number, "pid": execution.pid}})
            execution.streams.attach(execution.peer)  # before anything is read, so that the peer misses nothing
        self._open_streams(execution)

    @staticmethod
    def _open_streams(execution: _Execution) -> None:
        if execution.console is not None:
            execution.streams.open_terminal(execution.console)
        elif execution.pipes is not None:
            execution.streams.open_pipes(*execution.pipes)

    def reaped(self, pid: int, status: int) -> None:
        """A child of the shim that is not init has ended: one of these, or an orphan of theirs."""
        for execution in list(self._running.values()):
            if execution.pid != pid:
                continue
            while execution.channel.fileno() >= 0:
                self._hear(execution)
            execution.streams.process_ended()
            del self._running[execution.number]
            if execution.failure is not None:
                execution.reply(self._explained(execution.failure).to_json())
                execution.peer.close_when_sent()
                continue
            code, number = exit_numbers(status)
            self._announce({"event": "exec_exit", "exec": execution.number, "exit_code": code, "signal": number})

    def resize(self, number: int, height: int, width: int) -> None:
        if not self._find(number).streams.resize(height, width):
            raise RuntimeFailure(f"exec {number} has no terminal", FailureKind.CONFLICT)

    def kill(self, number: int, signal: int) -> None:
        os.kill(self._find(number).pid, signal)

    def _explained(self, failure: RuntimeFailure) -> RuntimeFailure:
        """Namespaces and cgroups of an init that has just ended refuse whoever wants in, each in its own way."""
        if failure.kind is FailureKind.SYSTEM and self._init_ended():
            return RuntimeFailure("has ended already", FailureKind.CONFLICT)
        return failure

    def _find(self, number: int) -> _Execution:
        if number not in self._running:
            raise RuntimeFailure(f"exec {number} has ended", FailureKind.CONFLICT)
        return self._running[number]


def exit_numbers(status: int) -> tuple[int, int]:
    """A waitpid(2) status as exit code (128 + signal when killed) and signal."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return 128 + number, number
    return os.WEXITSTATUS(status), 0
