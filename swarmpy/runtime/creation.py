"""Making a container, on the shim's side: from a request to an init that waits for start.

Owns    the order in which things come to exist, and that all of them go again when a later one fails: the state
        directory, the cgroups, the log, the streams, the process.
Law     What names the leftovers (shim.json) is written before there can be any.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from swarmpy.runtime import seccomp, uapi
from swarmpy.runtime.bundle import Bundle, IdMap, load_bundle
from swarmpy.runtime.cgroups import Cgroup, Layout
from swarmpy.runtime.failure import FailureKind, RuntimeFailure, describe
from swarmpy.runtime.hooks import hook_state, run_hooks
from swarmpy.runtime.init import InitSetup, run_init
from swarmpy.runtime.json_log import JsonLog
from swarmpy.runtime.kernel import LinuxKernel
from swarmpy.runtime.plan import build_plan
from swarmpy.runtime.process_setup import SeccompFilter
from swarmpy.runtime.rootfs import open_sources
from swarmpy.runtime.spawn import spawn
from swarmpy.runtime.state import StateDirectory, process_start
from swarmpy.runtime.stdio import make_pipes

__all__ = ["Created", "Host", "Request", "create_container"]


@dataclass(frozen=True, slots=True)
class Host:
    """What the launcher found out once for all containers."""

    state: str
    cgroup_parent: str
    layout: Layout
    last_capability: int
    blank: int | None  # the mount namespace that containers start from (blank_namespace.py)
    own_mounts: int  # our own mount namespace, to come back to


@dataclass(frozen=True, slots=True)
class Request:
    """A `create`, as the daemon sends it to the launcher."""

    container_id: str
    bundle: str
    terminal: bool
    stdin: bool
    stdin_once: bool
    log_path: str | None
    log_max_size: int | None
    log_max_files: int
    console_size: tuple[int, int] | None

    @classmethod
    def from_json(cls, value: dict[str, object]) -> Request:
        size = value.pop("console_size")
        return cls(**value, console_size=tuple(size) if isinstance(size, list) else None)  # type: ignore[arg-type]


@dataclass(slots=True)
class Created:
    """A container whose init waits for start. Descriptors are the shim's own ends."""

    bundle: Bundle
    cgroup: Cgroup
    state: StateDirectory
    seccomp: SeccompFilter | None
    pid: int
    channel: socket.socket
    pipes: tuple[int, int, int] | None
    console: int | None
    log: JsonLog | None
    created_ns: int


def create_container(kernel: LinuxKernel, host: Host, request: Request) -> Created:
    """Raises RuntimeFailure; nothing of the container exists then."""
    state = StateDirectory(f"{host.state}/containers", request.container_id)
    try:
        os.mkdir(state.path, 0o700)
    except FileExistsError:
        raise RuntimeFailure("already exists", FailureKind.CONFLICT) from None
    with ExitStack() as undo:
        undo.callback(state.remove)
        bundle = load_bundle(Path(request.bundle))
        if bundle.process.terminal != request.terminal:
            raise RuntimeFailure(
                f"config.json: process.terminal is {bundle.process.terminal}, and the request says {request.terminal}",
                FailureKind.INVALID,
            )
        cgroup = Cgroup(host.layout, _cgroup_path(bundle, host, request.container_id))
        state.write(
            "shim.json", {"pid": os.getpid(), "start": process_start(os.getpid()), "cgroup": cgroup.path}
        )
        filter_ = None if bundle.seccomp is None else seccomp.compiled(bundle.seccomp, Path(host.state) / "seccomp")
        cgroup.create(bundle.resources)
        undo.callback(cgroup.remove)
        created = _start_init(kernel, host, request, bundle, cgroup, state, filter_, undo)
        undo.pop_all()
        return created


def _cgroup_path(bundle: Bundle, host: Host, container_id: str) -> str:
    path = bundle.cgroups_path or container_id
    return path if path.startswith("/") else f"{host.cgroup_parent}/{path}"


def _start_init(
    kernel: LinuxKernel, host: Host, request: Request, bundle: Bundle, cgroup: Cgroup, state: StateDirectory,
    filter_: SeccompFilter | None, undo: ExitStack,
) -> Created:  # fmt: skip
    log = _open_log(request)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    owner = bundle.host_owner(bundle.process)
    child_pipes, our_pipes = (None, None) if request.terminal else make_pipes(request.stdin, owner)
    undo.callback(ours.close)
    blank = None if bundle.hooks["createContainer"] else host.blank
    plan = build_plan(bundle, *cgroup.shown())
    sources = open_sources(kernel, plan.sources)
    join = _open_namespaces(bundle)
    setup = InitSetup(
        container_id=request.container_id,
        bundle=bundle,
        plan=plan,
        sources=sources,
        cgroup_files=cgroup.open_for_joining(),
        join=[entry for entry in join if entry[1] not in BORN_IN],
        stdio=child_pipes,
        channel=theirs.fileno(),
        seccomp=filter_,
        last_capability=host.last_capability,
        null="/null" if blank is not None else "/dev/null",
        staging="/root" if blank is not None else state.path,
        whole_mount_table=blank is None,
    )
    clone_into = cgroup.open_for_clone()
    flags = bundle.new_namespaces() & ~uapi.CLONE_NEWCGROUP
    if blank is not None:
        kernel.set_namespace(blank, uapi.CLONE_NEWNS)
    try:
        pid = spawn(
            kernel, lambda: run_init(kernel, setup), keep=setup.descriptors(), flags=flags, cgroup=clone_into,
            join=[entry for entry in join if entry[1] in BORN_IN],
        )  # fmt: skip
    finally:
        if blank is not None:
            kernel.set_namespace(host.own_mounts, uapi.CLONE_NEWNS)
        theirs.close()
        for descriptor in (*setup.descriptors(), *([] if clone_into is None else [clone_into]), *(d for d, _ in join)):
            if descriptor != setup.channel:
                _close(descriptor)
    undo.callback(_reap, pid)
    console = _see_it_ready(request, bundle, pid, ours)
    created_ns = time.time_ns()
    start = process_start(pid)
    state.write(
        "container.json",
        {"pid": pid, "start": start, "bundle": bundle.path, "created_ns": created_ns, "terminal": request.terminal},
    )
    return Created(bundle, cgroup, state, filter_, pid, ours, our_pipes, console, log, created_ns)


BORN_IN = (uapi.CLONE_NEWPID, uapi.CLONE_NEWUSER)
"""Namespaces that a process is in from birth (spawn.py); others it joins itself."""


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:  # named twice in the list
        return


def _open_log(request: Request) -> JsonLog | None:
    if request.log_path is None:
        return None
    try:
        return JsonLog(request.log_path, request.log_max_size, request.log_max_files)
    except OSError as error:
        raise RuntimeFailure(f"log {describe(error)}") from None


def _open_namespaces(bundle: Bundle) -> list[tuple[int, int]]:
    """The namespaces that are joined by path; the user namespace first, since it owns what is made after it."""
    opened = []
    for kind in ("user", "pid", "network", "ipc", "uts", "cgroup"):
        path = bundle.namespaces.get(kind)
        if path:
            try:
                opened.append((os.open(path, os.O_RDONLY | os.O_CLOEXEC), uapi.NAMESPACE_FLAGS[kind]))
            except OSError as error:
                raise RuntimeFailure(f"join {kind} namespace: {describe(error)}", FailureKind.INVALID) from None
    return opened


def _see_it_ready(request: Request, bundle: Bundle, pid: int, channel: socket.socket) -> int | None:
    """Give init what it waits for until it is ready. Returns the terminal's master."""
    if bundle.namespaces.get("user") == "":
        _write_id_maps(pid, bundle)
        channel.send(b"mapped")
    console: int | None = None
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, 65536, 1, socket.MSG_CMSG_CLOEXEC)
        if not data:
            raise RuntimeFailure("init ended while it was being set up")
        message = json.loads(data)
        if "error" in message:
            raise RuntimeFailure.from_json(message)
        if "namespaces" in message:
            for kind in ("prestart", "createRuntime"):
                run_hooks(kind, bundle.hooks[kind], hook_state(request.container_id, "creating", pid, bundle))
            channel.send(b"go")
        if "console" in message:
            console = _checked_terminal(descriptors[0])
        if "ready" in message:
            return console


def _checked_terminal(descriptor: int) -> int:
    if not stat.S_ISCHR(os.fstat(descriptor).st_mode) or not os.isatty(descriptor):
        raise RuntimeFailure("/dev/pts/ptmx of the container is not a terminal")
    return descriptor


def _write_id_maps(pid: int, bundle: Bundle) -> None:
    """user_namespaces(7), "User and group ID mappings": written once, from outside."""
    for name, maps in (("uid_map", bundle.uid_maps), ("gid_map", bundle.gid_maps)):
        path = f"/proc/{pid}/{name}"
        text = "".join(_line(entry) for entry in maps)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise RuntimeFailure(f"linux.{name[:3]}Mappings: {describe(error)}") from None


def _line(entry: IdMap) -> str:
    return f"{entry.container_id} {entry.host_id} {entry.size}\n"


def _reap(pid: int) -> None:
    """Init of a failed creation: killed, whatever state it is in, and waited for."""
    try:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return
