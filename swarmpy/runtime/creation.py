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

from swarmpy.runtime import seccomp, uapi
from swarmpy.runtime.birth import Host, Newborn, bear
from swarmpy.runtime.bundle import Bundle, IdMap, load_bundle
from swarmpy.runtime.cgroups import Cgroup
from swarmpy.runtime.failure import FailureKind, RuntimeFailure, describe
from swarmpy.runtime.handover import Handover, send_bundle, send_handover
from swarmpy.runtime.hooks import hook_state, run_hooks
from swarmpy.runtime.init import run_init
from swarmpy.runtime.json_log import JsonLog
from swarmpy.runtime.kernel import LinuxKernel
from swarmpy.runtime.plan import build_plan
from swarmpy.runtime.process_setup import SeccompFilter
from swarmpy.runtime.rootfs import open_sources
from swarmpy.runtime.state import StateDirectory, process_start
from swarmpy.runtime.stdio import make_pipes

__all__ = ["Created", "Request", "create_container"]


@dataclass(frozen=True, slots=True)
class Request:
    """A `create`, as the daemon sends it to the launcher."""

    container_id: str
    bundle: str
    config: str | None  # what stands for the bundle's config.json
    terminal: bool
    stdin: bool
    stdin_once: bool
    log_path: str | None
    log_max_size: int | None
    log_max_files: int
    log_attributes: dict[str, str]
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


def create_container(kernel: LinuxKernel, host: Host, request: Request, spare: Newborn) -> Created:
    """Raises RuntimeFailure; nothing of the container exists then. Makes use of `spare` or discards it."""
    state = StateDirectory(f"{host.state}/containers", request.container_id)
    try:
        os.mkdir(state.path, 0o700)
    except FileExistsError:
        raise RuntimeFailure("already exists", FailureKind.CONFLICT) from None
    with ExitStack() as undo:
        undo.callback(state.remove)
        bundle, config = load_bundle(request.bundle, None if request.config is None else request.config.encode())
        if bundle.process.terminal != request.terminal:
            raise RuntimeFailure(
                f"config.json: process.terminal is {bundle.process.terminal}, and the request says {request.terminal}",
                FailureKind.INVALID,
            )
        join = _open_namespaces(bundle)
        cgroup = Cgroup(host.layout, _cgroup_path(bundle, host, request.container_id))
        undo.callback(cgroup.remove)  # after init is gone: what is done last is undone first
        init = _usable(spare, bundle, join, host)
        if init is not None:
            undo.callback(_reap, init)
            _send_bundle(init, bundle, config)
        state.write("shim.json", {"pid": os.getpid(), "start": process_start(os.getpid()), "cgroup": cgroup.path})
        filter_ = None if bundle.seccomp is None else seccomp.compiled(bundle.seccomp, f"{host.state}/seccomp")
        cgroup.create(bundle.resources)
        log = _open_log(request)
        if init is None:
            init = _born_for(kernel, host, bundle, cgroup, join)
            undo.callback(_reap, init)
            _send_bundle(init, bundle, config)
        if bundle.namespaces.get("user") == "":
            _write_id_maps(init.pid, bundle)
        pipes = _hand_over(kernel, host, request, bundle, cgroup, filter_, join, init)
        console = _see_it_ready(request, bundle, init)
        created_ns = time.time_ns()
        state.write(
            "container.json",
            {
                "pid": init.pid, "start": process_start(init.pid), "bundle": bundle.path, "created_ns": created_ns,
                "terminal": request.terminal,
            },
        )  # fmt: skip
        undo.pop_all()
        return Created(bundle, cgroup, state, filter_, init.pid, init.channel, pipes, console, log, created_ns)


def _cgroup_path(bundle: Bundle, host: Host, container_id: str) -> str:
    path = bundle.cgroups_path or container_id
    return path if path.startswith("/") else f"{host.cgroup_parent}/{path}"


def _usable(spare: Newborn, bundle: Bundle, join: list[tuple[int, int]], host: Host) -> Newborn | None:
    """The spare init, when it was born as this bundle wants it and still lives."""
    unified = all(hierarchy.version == 2 for hierarchy in host.layout.hierarchies)
    fits = (
        spare.flags == _new_namespaces(bundle)
        and spare.blank == _from_blank(bundle)
        and not any(flag in BORN_IN for _, flag in join)
        and not unified  # there a birth inside the cgroup is cheaper than a move into it
    )
    if spare.alive() and fits:
        return spare
    spare.discard()
    return None


def _born_for(
    kernel: LinuxKernel, host: Host, bundle: Bundle, cgroup: Cgroup, join: list[tuple[int, int]]
) -> Newborn:
    clone_into = cgroup.open_for_clone()
    try:
        return bear(
            kernel, host, lambda channel: run_init(kernel, channel), flags=_new_namespaces(bundle),
            blank=_from_blank(bundle), join=[entry for entry in join if entry[1] in BORN_IN], cgroup=clone_into,
        )  # fmt: skip
    finally:
        if clone_into is not None:
            os.close(clone_into)


def _new_namespaces(bundle: Bundle) -> int:
    """The cgroup namespace is made by init itself, once it is in its cgroup."""
    return bundle.new_namespaces() & ~uapi.CLONE_NEWCGROUP


def _from_blank(bundle: Bundle) -> bool:
    """createContainer hooks are to run with the host's files, in the new mount namespace."""
    return not bundle.hooks["createContainer"]


def _send_bundle(init: Newborn, bundle: Bundle, config: bytes) -> None:
    try:
        send_bundle(init.channel, bundle.path, config)
    except BrokenPipeError:
        raise RuntimeFailure(ENDED_EARLY) from None


def _hand_over(
    kernel: LinuxKernel, host: Host, request: Request, bundle: Bundle, cgroup: Cgroup,
    filter_: SeccompFilter | None, join: list[tuple[int, int]], init: Newborn,
) -> tuple[int, int, int] | None:  # fmt: skip
    """Open what init needs and give it away. Returns our ends of the pipes, if there are any."""
    shown = cgroup.shown()
    theirs: tuple[int, ...] = ()
    ours = None
    if not request.terminal:
        theirs, ours = make_pipes(request.stdin, bundle.host_owner(bundle.process))
    handover = Handover(
        container_id=request.container_id,
        shown=shown,
        seccomp=filter_,
        last_capability=host.last_capability,
        whole_mount_table=not init.blank,
        null="/null" if init.blank else "/dev/null",
        staging="/root" if init.blank else f"{host.state}/containers/{request.container_id}",
        sources=open_sources(kernel, build_plan(bundle, *shown).sources),
        cgroup_files=cgroup.open_for_joining(born_inside=init.in_cgroup),
        join=[entry for entry in join if entry[1] not in BORN_IN],
        stdio=theirs,
    )
    try:
        send_handover(init.channel, handover)
    except BrokenPipeError:
        raise RuntimeFailure(ENDED_EARLY) from None
    for descriptor in {*handover.descriptors(), *(descriptor for descriptor, _ in join)}:
        os.close(descriptor)
    return ours


ENDED_EARLY = "init ended while it was being set up"
BORN_IN = (uapi.CLONE_NEWPID, uapi.CLONE_NEWUSER)
"""Namespaces that a process is in from birth (spawn.py); others it joins itself."""


def _open_log(request: Request) -> JsonLog | None:
    if request.log_path is None:
        return None
    try:
        return JsonLog(request.log_path, request.log_max_size, request.log_max_files, request.log_attributes)
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


def _see_it_ready(request: Request, bundle: Bundle, init: Newborn) -> int | None:
    """Follow init until it waits for start. Returns the terminal's master."""
    console: int | None = None
    while True:
        data, descriptors, _, _ = socket.recv_fds(init.channel, 65536, 1, socket.MSG_CMSG_CLOEXEC)
        if not data:
            raise RuntimeFailure(ENDED_EARLY)
        message = json.loads(data)
        if "error" in message:
            raise RuntimeFailure.from_json(message)
        if "namespaces" in message:
            for kind in ("prestart", "createRuntime"):
                run_hooks(kind, bundle.hooks[kind], hook_state(request.container_id, "creating", init.pid, bundle))
            init.channel.send(b"go")
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


def _reap(init: Newborn) -> None:
    """Init of a failed creation: killed, whatever state it is in, and waited for."""
    init.channel.close()
    try:
        os.kill(init.pid, 9)
        os.waitpid(init.pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return
