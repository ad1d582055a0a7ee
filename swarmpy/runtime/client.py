"""The daemon's side of the runtime: `Runtime`, and the handles it gives for containers and processes in them.

Owns    the launcher process and the connections to shims. All that is true about a container lives in its shim and its
        state directory; a handle can be dropped and made again by `adopt`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from swarmpy.runtime.connection import Control, Streams, ended, lost, open_connection, read_json
from swarmpy.runtime.failure import FailureKind, RuntimeFailure, describe
from swarmpy.runtime.recovery import Found, Leftovers, survey
from swarmpy.runtime.shims import Shims
from swarmpy.runtime.state import ExitStatus, StateDirectory
from swarmpy.runtime.wire import json_frame

__all__ = ["Container", "ContainerIO", "Exec", "ExecProcess", "ExitStatus", "Runtime", "Streams"]


@dataclass(frozen=True)
class ContainerIO:
    """What becomes of a container's streams. `terminal` must agree with the bundle's process.terminal."""

    terminal: bool = False
    stdin: bool = False
    stdin_once: bool = False  # standard input ends when the first peer that wrote to it detaches
    log_path: Path | None = None
    log_max_size: int | None = None  # bytes
    log_max_files: int = 1
    log_attributes: Mapping[str, str] = field(default_factory=dict)  # of every entry
    console_size: tuple[int, int] | None = None  # height, width


@dataclass(frozen=True)
class ExecProcess:
    """A process to run in a container. Everything not said is what OCI `process` says of it when absent."""

    args: Sequence[str]
    env: Sequence[str] = ()
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    additional_gids: Sequence[int] = ()
    terminal: bool = False
    stdin: bool = False
    console_size: tuple[int, int] | None = None
    capabilities: Mapping[str, Sequence[str]] = field(default_factory=dict)  # OCI process.capabilities
    no_new_privileges: bool = False
    rlimits: Sequence[Mapping[str, object]] = ()
    umask: int | None = None
    oom_score_adj: int | None = None

    def to_oci(self) -> dict[str, object]:
        user: dict[str, object] = {"uid": self.uid, "gid": self.gid, "additionalGids": list(self.additional_gids)}
        if self.umask is not None:
            user["umask"] = self.umask
        process: dict[str, object] = {
            "args": list(self.args),
            "env": list(self.env),
            "cwd": self.cwd,
            "user": user,
            "terminal": self.terminal,
            "capabilities": {name: list(names) for name, names in self.capabilities.items()},
            "noNewPrivileges": self.no_new_privileges,
            "rlimits": [dict(limit) for limit in self.rlimits],
        }
        if self.oom_score_adj is not None:
            process["oomScoreAdj"] = self.oom_score_adj
        if self.console_size is not None:
            process["consoleSize"] = {"height": self.console_size[0], "width": self.console_size[1]}
        return process


class Runtime:
    """One for each daemon and state directory. Raises RuntimeFailure, whose text begins with the container."""

    def __init__(
        self, state_dir: Path, *, cgroup_parent: str, log: Callable[[str], None] = lambda message: None
    ) -> None:
        self._state = state_dir
        self._log = log
        parent = "/" + cgroup_parent.strip("/")
        self._shims = Shims(state_dir, parent, log)
        self._leftovers = Leftovers(state_dir / "containers", parent)

    async def start(self) -> None:
        """The launcher is up afterwards. Containers of an earlier daemon are untouched; `adopt` finds them."""
        await self._shims.start()

    async def close(self) -> None:
        """The launcher ends. Shims and containers stay; handles given out must not be used any more."""
        await self._shims.close()
        await asyncio.to_thread(self._leftovers.remove_parent)

    async def adopt(self) -> list[Container]:
        """Every container that is known under the state directory: running, ended, or lost with its shim.

        What a creation left that was cut short is removed. A container whose shim is gone without a status is killed,
        and gets a status whose `error` says so.
        """
        adopted = []
        for found in await asyncio.to_thread(survey, self._leftovers):
            container = await self._adopt_one(found)
            if container is not None:
                adopted.append(container)
        return adopted

    async def _adopt_one(self, found: Found) -> Container | None:
        container = Container(found.container_id, found.pid, self._leftovers)
        if found.connection is not None:
            try:
                await container._connect(found.connection)
                return container
            except RuntimeFailure:
                pass  # the shim ended between survey and now: what it left is read below
        return await asyncio.to_thread(self._settle, container)

    def _settle(self, container: Container) -> Container | None:
        status = self._leftovers.settle(container.id)
        if status is None:
            return None
        if status.error:
            self._log(status.error)
        container._ended(status)
        return container

    async def create(self, container_id: str, bundle: Path, io: ContainerIO, config: str | None = None) -> Container:
        """OCI "created" afterwards: namespaces exist, the user's process does not yet run.

        `config` is the text of config.json, for who does not want to write it into the bundle.
        """
        _check_id(container_id)
        request = {**asdict(io), "container_id": container_id, "bundle": _absolute(bundle), "config": config}
        request["log_path"] = None if io.log_path is None else _absolute(io.log_path)
        shim = await self._shims.take()
        container = Container(container_id, 0, self._leftovers)
        try:
            await container._connect(shim, request)
        except RuntimeFailure as failure:
            if failure.kind is FailureKind.LOST:
                await asyncio.to_thread(self._leftovers.settle, container_id)
                raise RuntimeFailure(
                    f"container {container_id[:12]}: its shim was killed while it was being created", FailureKind.LOST
                ) from None
            raise
        finally:
            self._shims.ask_ahead()
        return container


def _absolute(path: Path) -> str:
    """The launcher works in another directory."""
    return os.path.abspath(path)


def _check_id(container_id: str) -> None:
    if not container_id or len(container_id) > 128 or not container_id.replace("-", "").replace("_", "").isalnum():
        raise RuntimeFailure(f"container id {container_id!r}: letters, digits, - and _ only", FailureKind.INVALID)


class Container:
    """A handle. Methods raise RuntimeFailure; CONFLICT when the container's state does not allow it."""

    def __init__(self, container_id: str, pid: int, leftovers: Leftovers) -> None:
        self.id = container_id
        self.pid = pid  # of init, on the host; /proc/<pid>/ns/net is its network namespace
        self.started_ns = 0
        self.paused = False
        self._leftovers = leftovers
        self._state = StateDirectory(leftovers.containers, container_id)
        self._control: Control | None = None
        self._status: ExitStatus | None = None
        self._end: asyncio.Future[ExitStatus] | None = None
        self._settling: asyncio.Task[ExitStatus | None] | None = None
        self._exec_ends: dict[int, asyncio.Future[tuple[int, int]]] = {}

    @property
    def status(self) -> ExitStatus | None:
        """How it ended; None while it has not."""
        return self._status

    async def _connect(self, connection: socket.socket, request: dict[str, object] | None = None) -> None:
        """Take `connection` as this container's controller; `request` makes the container first."""
        reader, writer = await open_connection(connection)
        try:
            if request is not None:
                writer.write(json_frame(request))
            hello = await read_json(reader, self.id)
        except RuntimeFailure:
            writer.close()
            raise
        self.pid = int(str(hello["pid"]))
        self.started_ns = int(str(hello["started_ns"]))
        self.paused = bool(hello["paused"])
        self._control = Control(self.id, reader, writer, self._on_event)
        if isinstance(hello["status"], dict):
            self._ended(ExitStatus(**hello["status"]))

    def _on_event(self, event: dict[str, object]) -> None:
        if event["event"] == "exit" and isinstance(event["status"], dict):
            self._ended(ExitStatus(**event["status"]))
        elif event["event"] == "exec_exit":
            end = self._exec_end(int(str(event["exec"])))
            if not end.done():
                end.set_result((int(str(event["exit_code"])), int(str(event["signal"]))))

    def _ended(self, status: ExitStatus) -> None:
        self._status = status
        if self._end is not None and not self._end.done():
            self._end.set_result(status)

    def _exec_end(self, number: int) -> asyncio.Future[tuple[int, int]]:
        return self._exec_ends.setdefault(number, asyncio.get_running_loop().create_future())

    async def _request(self, op: str, **fields: object) -> dict[str, object]:
        if self._control is None or self._status is not None:
            raise ended(self.id)
        try:
            return await self._control.request(op, **fields)
        except RuntimeFailure as failure:
            if failure.kind is not FailureKind.LOST:
                raise
        await self.wait()  # a shim goes when its container has ended, and no container goes on without one
        raise ended(self.id)

    # -- the life of a container ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """The user's program runs afterwards. The failure's `exit_code` is 127 or 126 when it cannot be executed."""
        result = await self._request("start")
        self.started_ns = int(str(result["started_ns"]))

    async def kill(self, signal: int, *, everyone: bool = False) -> None:
        await self._request("kill", signal=signal, everyone=everyone)
        if signal == 9:
            self.paused = False

    async def wait(self) -> ExitStatus:
        """Returns at once when it has ended. A container that is lost with its shim gets a status with an `error`."""
        if self._status is not None:
            return self._status
        assert self._control is not None
        if self._end is None:
            self._end = asyncio.get_running_loop().create_future()
        await _first(self._end, asyncio.create_task(self._control.closed.wait()))
        if self._status is None:
            if self._settling is None:
                self._settling = asyncio.create_task(asyncio.to_thread(self._leftovers.settle, self.id))
            status = await asyncio.shield(self._settling)
            if self._status is None:
                self._ended(status or _never_created())
        assert self._status is not None
        return self._status

    async def delete(self) -> None:
        """Nothing of it is left: cgroup, state, shim. Raises CONFLICT while it has not ended."""
        if self._control is not None:
            if self._status is None and not self._control.closed.is_set():
                raise RuntimeFailure(
                    f"container {self.id[:12]}: has not ended; kill it and wait before delete", FailureKind.CONFLICT
                )
            await self._control.closed.wait()
            await self._control.close()
        await asyncio.to_thread(self._leftovers.remove, self.id)

    async def pause(self) -> None:
        await self._request("pause")
        self.paused = True

    async def resume(self) -> None:
        await self._request("resume")
        self.paused = False

    async def update(self, resources: dict[str, object]) -> None:
        """Change limits: OCI linux.resources, of which what is absent stays as it is."""
        await self._request("update", resources=resources)

    async def stats(self) -> dict[str, object]:
        """cpu (ns), memory (bytes), pids and io of the whole container (cgroups/)."""
        return await self._request("stats")

    async def processes(self) -> list[int]:
        """Host pids of all processes."""
        result = await self._request("processes")
        pids = result["pids"]
        assert isinstance(pids, list)
        return pids

    # -- streams and further processes ---------------------------------------------------------------------------

    async def resize(self, height: int, width: int) -> None:
        await self._request("resize", height=height, width=width)

    async def attach(self, *, patient: bool = False) -> Streams:
        """Live streams of init, from now on. Any number of peers may be attached.

        Who does not read makes the process wait, and is dropped when it takes nothing for half a minute; if `patient`,
        the process waits for it however long that takes.
        """
        streams, _ = await self._stream("attach", patient=patient)
        return streams

    async def exec(self, process: ExecProcess) -> Exec:
        """Its program runs afterwards. The failure's `exit_code` is 127 or 126 when it cannot be executed."""
        streams, result = await self._stream("exec", process=process.to_oci(), stdin=process.stdin)
        number = int(str(result["exec"]))
        return Exec(self, number, int(str(result["pid"])), streams, self._exec_end(number))

    async def _stream(self, op: str, **fields: object) -> tuple[Streams, dict[str, object]]:
        if self._status is not None:
            raise ended(self.id)
        try:
            return await self._open_stream(op, **fields)
        except RuntimeFailure as failure:
            if failure.kind is not FailureKind.LOST:
                raise
        await self.wait()
        raise ended(self.id)

    async def _open_stream(self, op: str, **fields: object) -> tuple[Streams, dict[str, object]]:
        try:
            connection = await asyncio.to_thread(self._state.connect)  # a shim that is behind lets it wait
        except (FileNotFoundError, ConnectionError):
            raise lost(self.id) from None
        except OSError as error:
            raise RuntimeFailure(f"container {self.id[:12]}: connect to its shim: {describe(error)}") from error
        reader, writer = await open_connection(connection)
        try:
            await read_json(reader, self.id)  # the hello that every connection begins with
            writer.write(json_frame({"id": 0, "op": op, **fields}))
            while "id" not in (reply := await read_json(reader, self.id)):
                continue  # an event of before it became a stream
        except BaseException:
            writer.close()
            raise
        result = reply["result"]
        assert isinstance(result, dict)
        return Streams(reader, writer), result


async def _first(future: asyncio.Future[Any], task: asyncio.Task[Any]) -> None:
    """Wait for either. The task is ended, the future is left as it is."""
    waiting: set[asyncio.Future[Any]] = {future, task}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()


def _never_created() -> ExitStatus:
    return ExitStatus(137, 9, False, time.time_ns(), 0, "the container was lost before it was created")


class Exec:
    """A process that entered a container. It goes on when its streams are closed."""

    def __init__(
        self, container: Container, number: int, pid: int, streams: Streams, end: asyncio.Future[tuple[int, int]]
    ) -> None:
        self._container = container
        self._number = number
        self._streams = streams
        self._end = end
        self.pid = pid  # on the host

    def streams(self) -> Streams:
        """Complete from the first byte. Close them when nobody will read."""
        return self._streams

    async def wait(self) -> int:
        """The exit code, 128 + signal when killed. 137 when the container ended and took the process with it."""
        await _first(self._end, asyncio.create_task(self._container.wait()))
        return self._end.result()[0] if self._end.done() else 137

    async def resize(self, height: int, width: int) -> None:
        await self._container._request("exec_resize", exec=self._number, height=height, width=width)

    async def kill(self, signal: int) -> None:
        await self._container._request("exec_kill", exec=self._number, signal=signal)
