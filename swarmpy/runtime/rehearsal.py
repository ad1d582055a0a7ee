"""A creation without effect: the kernel and the cgroup files are deaf.

CPython adapts code to what it works on after some runs, so the launcher rehearses before its first fork; and a child
that rehearses shows which memory a creation writes (warm_pages.py).
"""

from __future__ import annotations

import json
import os
import socket

from swarmpy.runtime.bundle import Bundle, parse_bundle
from swarmpy.runtime.capabilities import DEFAULT_CAPABILITIES, apply_sets, drop_bounding
from swarmpy.runtime.cgroups import Cgroup, Layout
from swarmpy.runtime.kernel import Kernel
from swarmpy.runtime.loop import Loop
from swarmpy.runtime.peer import Peer
from swarmpy.runtime.plan import build_plan
from swarmpy.runtime.rootfs import Builder, open_sources
from swarmpy.runtime.seccomp_profile import default_profile
from swarmpy.runtime.stdio import ProcessStreams, make_pipes
from swarmpy.runtime.wire import FrameParser, Kind, json_frame

__all__ = ["rehearse_init", "rehearse_shim"]


class DeafKernel:
    """Takes every call and does none. Descriptors are copies of a harmless one."""

    def _descriptor(self) -> int:
        return os.open("/", os.O_PATH | os.O_CLOEXEC)

    def open_in_root(self, root: int, path: str, flags: int) -> int:
        return self._descriptor()

    def open_tree(self, directory: int, path: str, *, recursive: bool) -> int:
        return self._descriptor()

    def new_filesystem(
        self, kind: str, source: str, options: tuple[tuple[str, str | None], ...], attributes: int
    ) -> int:
        return self._descriptor()

    def move_mount(self, mount: int, target: int) -> None: ...
    def set_mount(self, mount: int, *, add: int, remove: int, propagation: int, recursive: bool) -> None: ...
    def set_propagation(self, path: str, flags: int) -> None: ...
    def pivot_root(self) -> None: ...
    def make_directory(self, parent: int, name: str, mode: int) -> None: ...
    def make_file(self, parent: int, name: str, mode: int) -> None: ...
    def make_node(self, parent: int, name: str, mode: int, device: int) -> None: ...
    def make_symlink(self, target: str, parent: int, name: str) -> None: ...
    def unshare(self, flags: int) -> None: ...
    def set_namespace(self, descriptor: int, flags: int) -> None: ...
    def set_hostname(self, name: str) -> None: ...
    def set_domainname(self, name: str) -> None: ...
    def write_file(self, path: str, text: str) -> None: ...
    def prctl(self, option: int, a: int = 0, b: int = 0) -> int:
        return 0

    def set_capabilities(self, effective: int, permitted: int, inheritable: int) -> None: ...
    def load_seccomp(self, program: bytes, flags: int) -> None: ...


class DeafFiles:
    """Cgroup files that are always there and empty, and a device program that judges nothing."""

    def make(self, path: str) -> None: ...
    def remove(self, path: str) -> None: ...
    def read(self, path: str) -> str:
        return ""

    def write(self, path: str, text: str) -> None: ...
    def exists(self, path: str) -> bool:
        return True

    def children(self, path: str) -> list[str]:
        return []

    def attach(self, path: str, program: bytes, previous: int | None) -> int:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _sample() -> str:
    """A configuration as the engine writes it for an ordinary container."""
    names = list(DEFAULT_CAPABILITIES)
    mounts = [
        {"destination": destination, "type": kind, "source": kind, "options": ["nosuid", "noexec", "mode=755"]}
        for destination, kind in (
            ("/proc", "proc"), ("/dev", "tmpfs"), ("/dev/pts", "devpts"), ("/sys", "sysfs"), ("/dev/mqueue", "mqueue"),
            ("/dev/shm", "tmpfs"), ("/sys/fs/cgroup", "cgroup"),
        )
    ]  # fmt: skip
    mounts += [
        {"destination": f"/etc/{name}", "type": "bind", "source": f"/etc/{name}", "options": ["rbind", "rprivate"]}
        for name in ("hosts", "hostname", "resolv.conf")
    ]
    return json.dumps(
        {
            "ociVersion": "1.2.0",
            "process": {
                "args": ["sh", "-c", "true"],
                "env": ["PATH=/usr/bin:/bin", "HOME=/root", "HOSTNAME=sample"],
                "cwd": "/",
                "user": {"uid": 0, "gid": 0, "additionalGids": [10]},
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), names),
            },
            "root": {"path": "rootfs"},
            "annotations": {"io.swarmpy.rootfs": '{"lower": ["/", "/"], "upper": "/u", "work": "/w"}'},
            "hostname": "sample",
            "mounts": mounts,
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
                "resources": {
                    "devices": [{"allow": False, "access": "rwm"}], "memory": {"limit": 1 << 30},
                    "cpu": {"shares": 512}, "pids": {"limit": 100},
                },
                "seccomp": default_profile(names),
                "maskedPaths": ["/proc/acpi", "/proc/kcore", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/sys"],
            },
        }
    )  # fmt: skip


SAMPLE = _sample()
SHOWN = {name: f"/sys/fs/cgroup/{name}/sample" for name in ("memory", "cpu", "pids", "devices", "freezer", "blkio")}


def rehearse_shim(layout: Layout) -> None:
    """What a shim does for a container: read the bundle, plan, limit, keep streams, answer."""
    bundle = _read()
    json.dumps(bundle.seccomp)
    kernel: Kernel = DeafKernel()
    for descriptor in open_sources(kernel, build_plan(bundle, SHOWN, {}).sources):
        os.close(descriptor)
    cgroup = Cgroup(layout, "/sample/sample", DeafFiles())
    cgroup.create(bundle.resources)
    cgroup.oom_kills()
    cgroup.remove()
    _keep_company()


def _read() -> Bundle:
    return parse_bundle(json.loads(SAMPLE), "/")


def _keep_company() -> None:
    """A peer that asks, gets an answer and hangs up, and a process whose output ends."""
    loop = Loop()
    here, there = socket.socketpair()
    peer = Peer(loop, here, _hear, _nothing)
    peer.send_json({"event": "hello"})
    there.send(json_frame({"id": 1, "op": "start"}))
    loop.turn()
    peer.close()
    there.close()
    theirs, ours = make_pipes(False, None)
    streams = ProcessStreams(loop, None, _nothing, lambda message: None)
    streams.open_pipes(*ours)
    for descriptor in theirs:
        os.close(descriptor)
    streams.process_ended()
    loop.close()


def _hear(kind: Kind, data: bytes) -> None:
    FrameParser().feed(json_frame({"answer": json.loads(data)}))


def rehearse_init() -> None:
    """What an init does before it becomes the user's program."""
    bundle = _read()
    kernel: Kernel = DeafKernel()
    plan = build_plan(bundle, SHOWN, {})
    sources = open_sources(kernel, plan.sources)
    before = os.open(".", os.O_PATH | os.O_CLOEXEC)
    Builder(kernel, sources, null="/null", staging="/").run(plan.steps)
    os.fchdir(before)
    for descriptor in (*sources, before):
        os.close(descriptor)
    drop_bounding(kernel, bundle.process.capabilities.bounding, 40)
    apply_sets(kernel, bundle.process.capabilities)


def _nothing() -> None:
    """What a rehearsal has to say when something ends."""
