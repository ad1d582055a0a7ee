"""The plan of a root file system, and its executor against a recording kernel. Runs anywhere."""

from __future__ import annotations

import copy
import ctypes
import errno
import mmap
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from swarmpy.runtime import RuntimeFailure, kernel, plan, uapi, warm_pages
from swarmpy.runtime.bundle import parse_bundle
from swarmpy.runtime.failure import KernelError
from swarmpy.runtime.mount_options import MountOptions, parse_options
from swarmpy.runtime.ready_mounts import make_ready, take_ready
from swarmpy.runtime.rootfs import Builder
from tests.runtime.conftest import READONLY, Bundles

CGROUPS = {"memory": "/sys/fs/cgroup/memory/c", "cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct/c"}
LINKS = {"cpu": "cpu,cpuacct", "cpuacct": "cpu,cpuacct"}


def config(**linux: object) -> dict[str, Any]:
    made = copy.deepcopy(Bundles(Path("/"), Path("/layer")).config("true"))
    made["linux"].update(linux)
    return made


def plan_of(value: dict[str, Any]) -> plan.Plan:
    return plan.build_plan(parse_bundle(value, "/bundle"), CGROUPS, LINKS)


class RecordingKernel(kernel.LinuxKernel):
    """Does nothing, and says in order what it was asked. Descriptors are those of /dev/null and of a directory."""

    def __init__(self, missing: set[str] | None = None) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.missing = missing or set()

    def _open(self) -> int:
        return os.open("/", os.O_PATH | os.O_CLOEXEC)

    def open_in_root(self, root: int, path: str, flags: int) -> int:
        if path in self.missing:
            raise KernelError(errno.ENOENT, "openat2", path)
        self.calls.append(("open", path))
        return self._open()

    def open_tree(self, directory: int, path: str, *, recursive: bool) -> int:
        self.calls.append(("tree", path, recursive))
        return self._open()

    def new_filesystem(
        self, kind: str, source: str, options: tuple[tuple[str, str | None], ...], attributes: int
    ) -> int:
        self.calls.append(("new", kind, options, attributes))
        return self._open()

    def move_mount(self, mount: int, target: int) -> None:
        self.calls.append(("move",))

    def set_mount(self, mount: int, *, add: int, remove: int, propagation: int, recursive: bool) -> None:
        self.calls.append(("set", add, remove, propagation, recursive))

    def pivot_root(self) -> None:
        self.calls.append(("pivot",))

    def make_directory(self, parent: int, name: str, mode: int) -> None:
        self.calls.append(("mkdir", name))
        self.missing = {path for path in self.missing if not path.endswith(f"/{name}")}

    def make_file(self, parent: int, name: str, mode: int) -> None:
        self.calls.append(("mkfile", name))
        self.missing = {path for path in self.missing if not path.endswith(f"/{name}")}

    def make_node(self, parent: int, name: str, mode: int, device: int) -> None:
        self.calls.append(("mknod", name, mode, device))

    def make_symlink(self, target: str, parent: int, name: str) -> None:
        self.calls.append(("symlink", target, name))


def run(steps: list[plan.Step], missing: set[str] | None = None) -> list[tuple[object, ...]]:
    recorder = RecordingKernel(missing)
    source = os.open("/", os.O_PATH | os.O_CLOEXEC)
    builder = Builder(recorder, [source, source], null="/null", staging="/")
    builder.run([plan.AttachRoot(), *steps])
    os.close(source)
    return recorder.calls


def test_the_order_of_things() -> None:
    kinds = [type(step).__name__ for step in plan_of(config()).steps]
    mounts_end = len(kinds) - kinds[::-1].index("NewMount")
    assert kinds[0] == "AttachRoot" and kinds[-1] == "FinishRoot"
    assert mounts_end <= kinds.index("MakeDevice") < kinds.index("MaskPath")
    assert kinds[-1 - len(READONLY) : -1] == ["MakeReadonly"] * len(READONLY)


def test_the_overlay_is_a_source() -> None:
    value = config()
    value["annotations"] = {"io.swarmpy.rootfs": '{"lower": ["/b", "/a"], "upper": "/u", "work": "/w"}'}
    [source, *_] = plan_of(value).sources
    assert isinstance(source, plan.OverlaySource)
    assert source.overlay.lower == ("/b", "/a")
    value = config()
    assert plan_of(value).sources[0] == plan.TreeSource("/bundle/rootfs", recursive=True)


def test_cgroups_show_only_the_containers_own() -> None:
    made = plan_of(config())
    trees = [source.path for source in made.sources[1:] if isinstance(source, plan.TreeSource)]
    assert trees == list(CGROUPS.values())
    links = [(s.target, s.path) for s in made.steps if isinstance(s, plan.MakeLink) and "cgroup" in s.path]
    assert links == [("cpu,cpuacct", "/sys/fs/cgroup/cpu"), ("cpu,cpuacct", "/sys/fs/cgroup/cpuacct")]
    unified = plan.build_plan(parse_bundle(config(), "/bundle"), {"": "/sys/fs/cgroup/c"}, {})
    assert plan.TreeSource("/sys/fs/cgroup/c", recursive=False) in unified.sources


def test_a_host_dev_gets_no_nodes() -> None:
    value = config()
    value["mounts"].append({"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]})
    assert not [step for step in plan_of(value).steps if isinstance(step, plan.MakeDevice)]


def test_a_user_namespace_takes_the_hosts_devices() -> None:
    maps = [{"containerID": 0, "hostID": 1000, "size": 1}]
    value = config(uidMappings=maps, gidMappings=maps)
    value["linux"]["namespaces"].append({"type": "user"})
    made = plan_of(value)
    assert not [step for step in made.steps if isinstance(step, plan.MakeDevice)]
    assert plan.TreeSource("/dev/null", recursive=False) in made.sources


def test_a_bind_mount_needs_a_source() -> None:
    value = config()
    value["mounts"].append({"destination": "/x", "type": "bind", "options": ["bind"]})
    with pytest.raises(RuntimeFailure, match="bind mount on /x has no source"):
        plan_of(value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ro", "nosuid"), MountOptions(3, 0, 0, 0, (), False, ())),
        (("ro", "rw"), MountOptions(0, 1, 0, 0, (), False, ())),
        (("rw", "ro"), MountOptions(1, 0, 0, 0, (), False, ())),
        (("rro", "rnoexec"), MountOptions(0, 0, 9, 0, (), False, ())),
        (("rbind", "rslave"), MountOptions(0, 0, 0, 0, ((uapi.PROPAGATION_SLAVE, True),), True, ())),
        (("noatime",), MountOptions(0x10, 0x70, 0, 0, (), False, ())),
        (("noatime", "strictatime"), MountOptions(0x20, 0x70, 0, 0, (), False, ())),
        (("mode=755", "newinstance"), MountOptions(0, 0, 0, 0, (), False, (("mode", "755"), ("newinstance", None)))),
        (("defaults", ""), MountOptions(0, 0, 0, 0, (), False, ())),
    ],
)
def test_mount_options(words: tuple[str, ...], expected: MountOptions) -> None:
    assert parse_options(words) == expected


def test_the_root_is_private_before_anything_is_in_it() -> None:
    calls = run([plan.FinishRoot(((uapi.PROPAGATION_SHARED, True),), readonly=True)])
    assert calls == [
        ("set", 0, 0, uapi.PROPAGATION_PRIVATE, True),
        ("move",),
        ("pivot",),
        ("set", 0, 0, uapi.PROPAGATION_SHARED, True),
        ("set", uapi.MOUNT_ATTR_RDONLY, 0, 0, False),
    ]


def test_missing_targets_are_made_from_the_top() -> None:
    step = plan.NewMount("tmpfs", "tmpfs", "/a/b/c", parse_options(("size=1m",)))
    calls = run([step], missing={"/a", "/a/b", "/a/b/c"})
    assert [call[1] for call in calls if call[0] == "mkdir"] == ["a", "b", "c"]


def test_what_is_missing_is_not_masked() -> None:
    calls = run([plan.MaskPath("/proc/none"), plan.MakeReadonly("/proc/none")], missing={"/proc/none"})
    assert calls == [("set", 0, 0, uapi.PROPAGATION_PRIVATE, True), ("move",)]


def test_directories_are_masked_by_one_empty_file_system() -> None:
    calls = run([plan.MaskPath("/one"), plan.MaskPath("/two")])
    assert [call[0] for call in calls].count("new") == 1
    assert ("tree", "", False) in calls


def test_failures_name_the_step() -> None:
    class Refusing(RecordingKernel):
        def move_mount(self, mount: int, target: int) -> None:
            raise KernelError(errno.EBUSY, "move_mount")

    source = os.open("/", os.O_PATH | os.O_CLOEXEC)
    builder = Builder(Refusing(), [source], null="/null", staging="/")
    with pytest.raises(RuntimeFailure, match=r"root file system: move_mount : EBUSY \(Device or resource busy\)"):
        builder.run([plan.AttachRoot()])
    os.close(source)


def test_structures_have_the_kernels_size() -> None:
    sizes = {
        kernel._OpenHow: 24, kernel._MountAttr: 32, kernel._CloneArgs: 88, kernel._SockFprog: 16,
    }  # fmt: skip
    for structure, size in sizes.items():
        assert ctypes.sizeof(structure) == size


def test_ready_mounts_are_used_where_they_fit() -> None:
    recorder = RecordingKernel()
    ready = make_ready(recorder)
    options = parse_options(("nosuid", "gid=5", "mode=620", "newinstance", "ptmxmode=0666"))
    found = take_ready(ready, "devpts", options.data)
    assert found is not None
    assert take_ready(ready, "devpts", options.data) is None  # once only
    assert take_ready(ready, "tmpfs", (("size", "1m"),)) is None
    recorder.calls.clear()
    source = os.open("/", os.O_PATH | os.O_CLOEXEC)
    builder = Builder(recorder, [source], null="/null", staging="/", ready=ready)
    builder.run([plan.AttachRoot(), plan.NewMount("proc", "proc", "/proc", parse_options(("ro", "noexec")))])
    assert ("set", uapi.MOUNT_ATTR_RDONLY | uapi.MOUNT_ATTR_NOEXEC, 0, 0, False) in recorder.calls
    assert not [call for call in recorder.calls if call[0] == "new"]
    for descriptor in (source, found, *ready.values()):
        os.close(descriptor)


def test_written_pages_are_joined_to_runs() -> None:
    written, shared, absent = 1 << 63 | 1 << 56, 1 << 63, 0
    entries = [written, written, absent, shared, written, shared, absent, shared, written]
    page = warm_pages.PAGE
    assert warm_pages._runs(page, entries) == [(page, 2 * page), (5 * page, page), (9 * page, page)]


@pytest.mark.root
def test_written_pages_are_found() -> None:
    """A child that fills a buffer tells just where that is; the parent's own memory is not touched."""
    size = 64 * warm_pages.PAGE
    buffer = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    buffer.write(b"x" * size)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    half = size // 2

    def fill() -> None:
        buffer[half:] = b"y" * half

    written = warm_pages.find_written(kernel.LinuxKernel(), fill)
    found = [part for ranges in written for part in struct.iter_unpack("=QQ", ranges)]
    inside = [(start, length) for start, length in found if start <= address + half < start + length]
    assert inside and all(start + length >= address + size for start, length in inside)
    assert not [1 for start, length in found if start <= address < start + length]
    assert buffer[half:] == b"x" * half


@pytest.mark.root
@pytest.mark.parametrize("together", [True, False])
def test_pages_are_there_before_they_are_written(monkeypatch: pytest.MonkeyPatch, *, together: bool) -> None:
    """Whether or not the kernel takes all ranges in one call."""
    made = kernel.LinuxKernel()
    if not together:
        system_call = made._syscall

        def without(number: int, *rest: object) -> int:
            return -1 if number == uapi.SYS_process_madvise else int(system_call(number, *rest))

        monkeypatch.setattr(made, "_syscall", without)
    page = warm_pages.PAGE
    buffer = mmap.mmap(-1, 6 * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    warm_pages.warm(made, [struct.pack("=4Q", address, 2 * page, address + 4 * page, page)])
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        entries = struct.unpack("=6Q", os.pread(pagemap.fileno(), 48, address // page * 8))
    assert [entry >> 63 for entry in entries] == [1, 1, 0, 0, 1, 0]
