"""Processes started in running containers: `docker exec`, and the probes of HEALTHCHECK.

Owns    the execs of this daemon's life, each from its creation until its container is gone. They do not outlive the
        daemon: after a restart their processes go on, and nothing is known of them.
Source  Docker Engine API, tag Exec.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from swarmpy.detach_keys import parse_detach_keys
from swarmpy.engine.containers import Containers
from swarmpy.engine.exec_process import exec_process
from swarmpy.engine.live import LiveContainer
from swarmpy.engine.parts import Parts
from swarmpy.engine.runtime_errors import NotExecutable, translated
from swarmpy.engine.schema import api
from swarmpy.engine.state import Status
from swarmpy.errors import Conflict, InvalidArgument, NotFound, SwarmpyError
from swarmpy.runtime import Exec, RuntimeFailure, Streams

__all__ = ["ExecConfig", "ExecRecord", "Execs"]

_CANNOT_RUN = 126  # what Docker reports for an exec that never ran for another reason than a missing command


@dataclass(frozen=True)
class ExecConfig:
    """ExecConfig: what is run, as whom, and which streams are wanted."""

    IGNORED: ClassVar[frozenset[str]] = frozenset({"Container"})  # older clients repeat the path

    attach_stdin: bool = api("AttachStdin", False)
    attach_stdout: bool = api("AttachStdout", False)
    attach_stderr: bool = api("AttachStderr", False)
    console_size: tuple[int, ...] = api("ConsoleSize", ())
    detach_keys: str = api("DetachKeys", "")
    """Keys that end the attachment of a terminal; see `detach_keys.py`."""
    tty: bool = api("Tty", False)
    env: tuple[str, ...] = api("Env", ())
    cmd: tuple[str, ...] = api("Cmd", ())
    privileged: bool = api("Privileged", False)
    user: str = api("User", "")
    working_dir: str = api("WorkingDir", "")
    detach: bool = api("Detach", False)


@dataclass
class ExecRecord:
    """One exec. `exit_code` is None until it has ended."""

    id: str
    container_id: str
    config: ExecConfig
    process: Exec | None = None
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def to_json(self) -> dict[str, Any]:
        """ExecInspectResponse."""
        config = self.config
        return {
            "ID": self.id,
            "Running": self.running,
            "ExitCode": self.exit_code,
            "ProcessConfig": {
                "tty": config.tty, "entrypoint": config.cmd[0], "arguments": list(config.cmd[1:]),
                "privileged": config.privileged, "user": config.user,
            },
            "OpenStdin": config.attach_stdin,
            "OpenStderr": config.attach_stderr,
            "OpenStdout": config.attach_stdout,
            "CanRemove": False,
            "ContainerID": self.container_id,
            "DetachKeys": config.detach_keys,
            "Pid": self.process.pid if self.process else 0,
        }  # fmt: skip


class Execs:
    """All execs of one engine."""

    def __init__(self, parts: Parts, containers: Containers) -> None:
        self._parts = parts
        self._containers = containers
        self._execs: dict[str, ExecRecord] = {}
        self._watchers: set[asyncio.Task[None]] = set()

    def create(self, reference: str, config: ExecConfig) -> str:
        """The id of an exec that does not run yet; `Conflict` unless the container runs."""
        if not config.cmd:
            raise InvalidArgument("No exec command specified: Cmd must be set")
        parse_detach_keys(config.detach_keys)
        container = self._containers.live(reference)
        _require_running(container)
        self._forget_gone()
        record = ExecRecord(secrets.token_hex(32), container.record.id, config)
        self._execs[record.id] = record
        container.publish(f"exec_create: {' '.join(config.cmd)}", execID=record.id)
        return record.id

    def get(self, exec_id: str) -> ExecRecord:
        """`NotFound` when there is none, or its container is gone."""
        record = self._execs.get(exec_id)
        if record is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        return record

    def running_in(self, container_id: str) -> list[str]:
        """Ids of what runs in a container."""
        return [item.id for item in self._execs.values() if item.container_id == container_id and item.running]

    def check_startable(self, exec_id: str) -> tuple[ExecRecord, LiveContainer]:
        """`Conflict` when it was started before or its container does not run."""
        record = self.get(exec_id)
        if record.started:
            raise Conflict(f"exec {exec_id} has already been run")
        container = self._containers.live(record.container_id)
        _require_running(container)
        return record, container

    async def start(self, exec_id: str, *, console_size: Sequence[int] = ()) -> Streams:
        """Its streams; it runs. See `check_startable`; `NotExecutable` when the command cannot be executed."""
        record, container = self.check_startable(exec_id)
        record.started = True
        try:
            record.process = await self._run(record.config, container, console_size)
        except SwarmpyError as failure:
            record.exit_code = failure.exit_code if isinstance(failure, NotExecutable) else _CANNOT_RUN
            raise
        record.running = True
        container.publish(f"exec_start: {' '.join(record.config.cmd)}", execID=record.id)
        watcher = asyncio.create_task(self._watch(record, container), name=f"exec {exec_id[:12]}")
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return record.process.streams()

    def tell_of_detaching(self, exec_id: str) -> None:
        """Its client has let go of it; it goes on."""
        record = self.get(exec_id)
        self._containers.live(record.container_id).publish("exec_detach", execID=record.id)

    async def _run(self, config: ExecConfig, container: LiveContainer, console_size: Sequence[int]) -> Exec:
        """The process; `SwarmpyError` says why there is none."""
        handle = container.running_handle()
        process = await exec_process(
            self._parts, container.record, handle.pid, args=config.cmd, env=config.env, user=config.user,
            cwd=config.working_dir, tty=config.tty, stdin=config.attach_stdin, privileged=config.privileged,
            console_size=console_size or config.console_size,
        )  # fmt: skip
        try:
            return await handle.exec(process)
        except RuntimeFailure as error:
            raise translated(error) from error

    async def _watch(self, record: ExecRecord, container: LiveContainer) -> None:
        if record.process is None:
            return
        record.exit_code = await record.process.wait()
        record.running = False
        record.ended.set()
        container.publish("exec_die", execID=record.id, exitCode=str(record.exit_code))

    async def resize(self, exec_id: str, height: int, width: int) -> None:
        """Set the terminal's size; `Conflict` unless it runs."""
        record = self.get(exec_id)
        if record.process is None or not record.running:
            raise Conflict(f"exec {exec_id} is not running")
        try:
            await record.process.resize(height, width)
        except RuntimeFailure as error:
            raise translated(error) from error

    def _forget_gone(self) -> None:
        known = {record.id for record in self._containers.records()}
        for record in [item for item in self._execs.values() if item.container_id not in known]:
            del self._execs[record.id]

    async def close(self) -> None:
        """Stop watching; the processes go on."""
        for watcher in self._watchers:
            watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._watchers, return_exceptions=True)


def _require_running(container: LiveContainer) -> None:
    if container.state.status is Status.PAUSED:
        raise Conflict(f"Container {container.display} is paused, unpause the container before exec")
    container.running_handle()
