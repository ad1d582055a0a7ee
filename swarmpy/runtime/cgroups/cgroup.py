"""One container's control group, whatever the layout: a directory in each hierarchy that is needed.

Owns    the life of the directories: made with their limits, joined, frozen, killed, asked, removed.
Laws    A controller that the bundle asks for and the host lacks is an error that names the field; one that only serves
        pause, statistics and defaults is left out quietly. Nothing is written outside the own directory, but for
        what v2's subtree_control and v1's cpusets need in the parents.
Source  cgroups(7); cgroup-v2.rst; cgroup-v1/freezer-subsystem.rst.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from swarmpy.runtime import uapi
from swarmpy.runtime.cgroups import block_io, cpu, cpuset, device_program, devices, memory, other, pids
from swarmpy.runtime.cgroups.layout import Hierarchy, Layout
from swarmpy.runtime.cgroups.write import Read, Write, key_values
from swarmpy.runtime.failure import FailureKind, RuntimeFailure, describe
from swarmpy.runtime.kernel import LinuxKernel
from swarmpy.runtime.reader import Fields

__all__ = ["Cgroup", "CgroupFiles", "HostFiles"]

ALWAYS = ("memory", "cpu", "cpuacct", "pids", "blkio", "io", "devices", "freezer")
"""Wanted for every container where the host has them: pause, statistics, the OOM mark, no devices."""

Driver = Callable[[Fields, int, Read], list[Write]]
DRIVERS: tuple[tuple[tuple[str, ...], Driver, Callable[[Fields], bool]], ...] = (
    (("memory",), memory.writes, lambda resources: resources.has("memory")),
    (("cpu",), cpu.writes, cpu.asked),
    (("cpuset",), cpuset.writes, cpuset.asked),
    (("pids",), pids.writes, lambda resources: resources.child("pids").has("limit")),
    (("blkio", "io"), block_io.writes, lambda resources: any(resources.child("blockIO").value.values())),
    (("hugetlb",), other.hugetlb_writes, lambda resources: bool(resources.items("hugepageLimits"))),
    (("net_cls",), other.net_cls_writes, lambda resources: resources.child("network").has("classID")),
    (("net_prio",), other.net_prio_writes, lambda resources: bool(resources.child("network").items("priorities"))),
    (("rdma",), other.rdma_writes, lambda resources: bool(resources.child("rdma").value)),
)

FREEZE_TIMEOUT_S = 10.0
REMOVE_TIMEOUT_S = 5.0


class CgroupFiles(Protocol):
    """The file operations of a cgroup mount. Errors are OSErrors."""

    def make(self, path: str) -> None: ...
    def remove(self, path: str) -> None: ...
    def read(self, path: str) -> str: ...
    def write(self, path: str, text: str) -> None: ...
    def exists(self, path: str) -> bool: ...
    def children(self, path: str) -> list[str]: ...


class HostFiles:
    """The kernel's own."""

    def make(self, path: str) -> None:
        os.mkdir(path, 0o755)

    def remove(self, path: str) -> None:
        os.rmdir(path)

    def read(self, path: str) -> str:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            while part := os.read(descriptor, 65536):
                parts.append(part)
            return b"".join(parts).decode()
        finally:
            os.close(descriptor)

    def write(self, path: str, text: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)

    def exists(self, path: str) -> bool:
        return os.access(path, os.F_OK)

    def children(self, path: str) -> list[str]:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


class Cgroup:
    """`path` is the same below every hierarchy's mount: `/swarmpy/<id>`. Nothing exists before `create`."""

    def __init__(self, layout: Layout, path: str, files: CgroupFiles | None = None) -> None:
        self.layout = layout
        self.path = "/" + path.strip("/")
        self._files = files or HostFiles()
        self._used: tuple[Hierarchy, ...] = ()
        self._device_program: int | None = None

    @classmethod
    def existing(cls, layout: Layout, path: str) -> Cgroup:
        """One that another process has made, with whatever of it is there."""
        cgroup = cls(layout, path)
        cgroup._used = tuple(h for h in layout.hierarchies if cgroup._files.exists(cgroup.directory(h)))
        return cgroup

    def directory(self, hierarchy: Hierarchy) -> str:
        return f"{hierarchy.mount}{self.path}"

    # -- making and limiting -------------------------------------------------------------------------------------

    def create(self, resources: dict[str, object]) -> None:
        """Make the directories and set all limits. Raises RuntimeFailure; what was made by then is removed again."""
        fields = Fields(resources, "linux.resources")
        self._used = self._needed(fields)
        made: list[Hierarchy] = []
        try:
            for hierarchy in self._used:
                self._make(hierarchy, fields)
                made.append(hierarchy)
            self._apply(fields)
            self._limit_devices(fields)
        except BaseException:
            for hierarchy in made:
                self._files.remove(self.directory(hierarchy))
            raise

    def update(self, resources: dict[str, object]) -> None:
        """Change limits of the running container. Devices only when the resources name some."""
        fields = Fields(resources, "linux.resources")
        for hierarchy in self._needed(fields):
            if hierarchy in self._used or hierarchy.version == 2:
                continue
            self._make(hierarchy, fields)
            for pid in self.processes():
                self._files.write(f"{self.directory(hierarchy)}/cgroup.procs", str(pid))
            self._used = (*self._used, hierarchy)
        self._apply(fields)
        if fields.items("devices"):
            self._limit_devices(fields)

    def _needed(self, resources: Fields) -> tuple[Hierarchy, ...]:
        needed = {owner for name in ALWAYS if (owner := self.layout.owner(name)) is not None}
        for names, _, asked in DRIVERS:
            if asked(resources):
                owners = [owner for name in names if (owner := self.layout.owner(name)) is not None]
                if not owners:
                    raise RuntimeFailure(
                        f"linux.resources: this host has no {names[0]} cgroup controller, which the limit needs",
                        FailureKind.INVALID,
                    )
                needed.add(owners[0])
        if resources.child("unified").value:
            needed.add(self._unified("linux.resources.unified"))
        # A v2 hierarchy without controllers of use still freezes and kills, but a v1 freezer does as well.
        return tuple(hierarchy for hierarchy in self.layout.hierarchies if hierarchy in needed)

    def _unified(self, field: str) -> Hierarchy:
        for hierarchy in self.layout.hierarchies:
            if hierarchy.version == 2:
                return hierarchy
        raise RuntimeFailure(f"{field}: this host has no cgroup v2 hierarchy", FailureKind.INVALID)

    def _make(self, hierarchy: Hierarchy, resources: Fields) -> None:
        directory = self.directory(hierarchy)
        if hierarchy.version == 2:
            self._enable_controllers(hierarchy, resources)
        try:
            self._files.make(directory)
        except FileNotFoundError:
            self._make_parents(hierarchy)
            self._files.make(directory)
        except FileExistsError:
            raise RuntimeFailure(f"cgroup {directory} already exists", FailureKind.CONFLICT) from None
        if hierarchy.version == 1 and "cpuset" in hierarchy.controllers:
            self._inherit_cpuset(hierarchy)

    def _parents(self, hierarchy: Hierarchy) -> list[str]:
        """From below the mount down to the directory's parent."""
        parts = self.path.strip("/").split("/")[:-1]
        return [hierarchy.mount + "".join(f"/{part}" for part in parts[: n + 1]) for n in range(len(parts))]

    def _make_parents(self, hierarchy: Hierarchy) -> None:
        for directory in self._parents(hierarchy):
            try:
                self._files.make(directory)
            except FileExistsError:
                pass

    def _enable_controllers(self, hierarchy: Hierarchy, resources: Fields) -> None:
        """cgroup-v2.rst, "Enabling and Disabling": a child has the controllers its parent's subtree_control names."""
        self._make_parents(hierarchy)
        names = {name for names, _, asked in DRIVERS if asked(resources) for name in names}
        wanted = hierarchy.controllers & ({"cpu", "memory", "pids", "io"} | names)
        for directory in [hierarchy.mount, *self._parents(hierarchy)]:
            file = f"{directory}/cgroup.subtree_control"
            missing = wanted - set(self._files.read(file).split())
            if missing:
                text = " ".join(f"+{name}" for name in sorted(missing))
                self._write(Write(file, text, "linux.resources"), file)

    def _inherit_cpuset(self, hierarchy: Hierarchy) -> None:
        chain = [hierarchy.mount, *self._parents(hierarchy), self.directory(hierarchy)]
        for parent, child in itertools.pairwise(chain):
            for write in cpuset.inherited(self._reader_of(parent), self._reader_of(child)):
                self._write(write, f"{child}/{write.file}")

    def _apply(self, resources: Fields) -> None:
        for names, driver, asked in DRIVERS:
            if not asked(resources):
                continue
            owner = next(owner for name in names if (owner := self.layout.owner(name)) is not None)
            for write in driver(resources, owner.version, self._reader(owner)):
                self._write(write, f"{self.directory(owner)}/{write.file}")
        for write in other.unified_writes(resources):
            self._write(write, f"{self.directory(self._unified(write.field))}/{write.file}")

    def _write(self, write: Write, path: str) -> None:
        try:
            self._files.write(path, write.text)
        except FileNotFoundError:
            raise RuntimeFailure(
                f"{write.field}: this kernel has no {path.rsplit('/', 1)[-1]}", FailureKind.INVALID
            ) from None
        except OSError as error:
            raise RuntimeFailure(f"{write.field}: write {write.text!r} to {path}: {describe(error)}") from None

    # -- devices -------------------------------------------------------------------------------------------------

    def _limit_devices(self, resources: Fields) -> None:
        owner = self.layout.owner("devices")
        rules = devices.parse_rules(resources)
        if owner is None:
            if resources.items("devices"):
                raise RuntimeFailure("linux.resources.devices: this host has no devices cgroup controller")
        elif owner.version == 1:
            for write in devices.writes(rules):
                self._write(write, f"{self.directory(owner)}/{write.file}")
        else:
            self._attach_program(self.directory(owner), device_program.assemble(rules))

    def _attach_program(self, directory: str, program: bytes) -> None:
        """The new program is attached before the old one goes, so that there is no moment without."""
        loaded = load_device_program(program)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        kernel = LinuxKernel()
        try:
            kernel.bpf(
                uapi.BPF_PROG_ATTACH,
                struct.pack("=IIII", descriptor, loaded, uapi.BPF_CGROUP_DEVICE, uapi.BPF_F_ALLOW_MULTI),
            )
            if self._device_program is not None:
                kernel.bpf(9, struct.pack("=III", descriptor, self._device_program, uapi.BPF_CGROUP_DEVICE))
                os.close(self._device_program)
            self._device_program = loaded
        except OSError as error:
            os.close(loaded)
            raise RuntimeFailure(f"linux.resources.devices: {error}") from None
        finally:
            os.close(descriptor)

    # -- joining -------------------------------------------------------------------------------------------------

    def open_for_joining(self, *, born_inside: bool) -> list[int]:
        """Descriptors into which a process of one thread writes 0 to join; one that was born inside is in v2's already.

        v1's `tasks` is used, not `cgroup.procs`: for the writing task alone the kernel does not stop all forks and
        exits of the host, which costs milliseconds (kernel/cgroup/cgroup.c, cgroup_procs_write_start).
        """
        opened = []
        for hierarchy in self._used:
            file = "tasks" if hierarchy.version == 1 else "cgroup.procs"
            if hierarchy.version == 1 or not born_inside:
                opened.append(os.open(f"{self.directory(hierarchy)}/{file}", os.O_WRONLY | os.O_CLOEXEC))
        return opened

    def open_for_clone(self) -> int | None:
        """The v2 directory, for CLONE_INTO_CGROUP; None when no v2 hierarchy is used."""
        for hierarchy in self._used:
            if hierarchy.version == 2:
                return os.open(self.directory(hierarchy), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return None

    def shown(self) -> tuple[dict[str, str], dict[str, str]]:
        """What a mount of type cgroup shows: names to directories, and links such as `cpu` to `cpu,cpuacct`."""
        if self.layout.kind == "v2":
            return {"": self.directory(self._used[0])} if self._used else {}, {}
        directories = {hierarchy.name: self.directory(hierarchy) for hierarchy in self._used}
        links = {
            name: hierarchy.name
            for hierarchy in self._used
            if len(hierarchy.controllers) > 1 and hierarchy.version == 1
            for name in sorted(hierarchy.controllers)
        }
        return directories, links

    # -- while it runs -------------------------------------------------------------------------------------------

    def processes(self) -> list[int]:
        """Host pids in the cgroup and the cgroups below it. Empty when it is gone."""
        hierarchy = self._main()
        if hierarchy is None:
            return []
        found: list[int] = []
        waiting = [self.directory(hierarchy)]
        while waiting:
            directory = waiting.pop()
            try:
                found += [int(line) for line in self._files.read(f"{directory}/cgroup.procs").split()]
                waiting += self._files.children(directory)
            except (FileNotFoundError, OSError) as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    raise
        return sorted(found)

    def _main(self) -> Hierarchy | None:
        """The hierarchy that is asked who is in the container."""
        for name in ("freezer", "pids", "memory", "devices"):
            if (owner := self.layout.owner(name)) in self._used:
                return owner
        return self._used[0] if self._used else None

    def freeze(self, frozen: bool) -> None:
        """Stop or continue every process; returns when the kernel says all are."""
        owner = self.layout.owner("freezer")
        if owner is None or owner not in self._used:
            raise RuntimeFailure("this host has no freezer cgroup controller, which pause needs")
        directory = self.directory(owner)
        file, words = ("freezer.state", ("THAWED", "FROZEN")) if owner.version == 1 else ("cgroup.freeze", ("0", "1"))

        def settled() -> bool:
            if owner.version == 1:
                return self._files.read(f"{directory}/freezer.state").strip() == words[frozen]
            return key_values(self._files.read(f"{directory}/cgroup.events")).get("frozen") == int(frozen)

        self._files.write(f"{directory}/{file}", words[frozen])
        if not _poll(settled, FREEZE_TIMEOUT_S):
            self._files.write(f"{directory}/{file}", words[False])
            what = "freeze" if frozen else "thaw"
            raise RuntimeFailure(f"cgroup {directory} did not {what} in {FREEZE_TIMEOUT_S:.0f} s")

    def kill_all(self) -> None:
        """SIGKILL to every process, also to those that fork meanwhile. A frozen v1 cgroup is thawed to die."""
        main = self._main()
        if main is None:
            return
        if main.version == 2 and self._files.exists(f"{self.directory(main)}/cgroup.kill"):
            self._files.write(f"{self.directory(main)}/cgroup.kill", "1")
            return
        deadline = time.monotonic() + REMOVE_TIMEOUT_S
        while (found := self.processes()) and time.monotonic() < deadline:
            for pid in found:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    continue
            if self.layout.owner("freezer") in self._used and main.version == 1:
                self._files.write(f"{self.directory(main)}/freezer.state", "THAWED")
            time.sleep(0.001)

    def oom_kills(self) -> int:
        owner = self.layout.owner("memory")
        return 0 if owner is None or owner not in self._used else memory.oom_kills(owner.version, self._reader(owner))

    def stats(self) -> dict[str, object]:
        """cpu, memory, pids and io; a part whose controller is missing is absent."""
        found: dict[str, object] = {}
        if (owner := self._using("cpu")) is not None:
            account = self._using("cpuacct") or owner
            found["cpu"] = cpu.stats(owner.version, self._reader(owner), self._reader(account))
        if (owner := self._using("memory")) is not None:
            found["memory"] = memory.stats(owner.version, self._reader(owner))
        if (owner := self._using("pids")) is not None:
            found["pids"] = pids.stats(self._reader(owner))
        if (owner := self._using("blkio") or self._using("io")) is not None:
            found["io"] = block_io.stats(owner.version, self._reader(owner))
        return found

    def _using(self, controller: str) -> Hierarchy | None:
        owner = self.layout.owner(controller)
        return owner if owner in self._used else None

    # -- the end -------------------------------------------------------------------------------------------------

    def remove(self) -> None:
        """Nothing of the cgroup is left, nor of those made below it. Raises RuntimeFailure when processes stay on."""
        for hierarchy in self._used:
            directory = self.directory(hierarchy)
            if not _poll(partial(self._remove_tree, directory), REMOVE_TIMEOUT_S):
                raise RuntimeFailure(f"cgroup {directory} is still in use after {REMOVE_TIMEOUT_S:.0f} s")
        self._used = ()
        if self._device_program is not None:
            os.close(self._device_program)
            self._device_program = None

    def _remove_tree(self, directory: str) -> bool:
        """rmdir(2) is EBUSY while a process dies in it or a cgroup lies below it."""
        try:
            self._files.remove(directory)
            return True
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise RuntimeFailure(f"remove cgroup {directory}: {describe(error)}") from None
        try:
            for child in self._files.children(directory):
                self._remove_tree(child)
        except FileNotFoundError:
            return True
        return False

    # ------------------------------------------------------------------------------------------------------------

    def _reader(self, hierarchy: Hierarchy) -> Read:
        return self._reader_of(self.directory(hierarchy))

    def _reader_of(self, directory: str) -> Read:
        def read(name: str) -> str | None:
            try:
                return self._files.read(f"{directory}/{name}")
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                    return None
                raise RuntimeFailure(f"read {directory}/{name}: {describe(error)}") from None

        return read


def load_device_program(program: bytes) -> int:
    """bpf(2) BPF_PROG_LOAD. Returns a descriptor.

    `struct { __u32 prog_type, insn_cnt; __u64 insns, license; __u32 log_level, log_size; __u64 log_buf; }`.
    Raises RuntimeFailure with what the verifier said.
    """
    import ctypes

    instructions = ctypes.create_string_buffer(program, len(program))
    license_text = ctypes.create_string_buffer(b"Apache-2.0")
    log = ctypes.create_string_buffer(65536)
    attributes = struct.pack(
        "=IIQQIIQ",
        uapi.BPF_PROG_TYPE_CGROUP_DEVICE, len(program) // 8,
        ctypes.addressof(instructions), ctypes.addressof(license_text), 1, len(log), ctypes.addressof(log),
    )  # fmt: skip
    try:
        return LinuxKernel().bpf(uapi.BPF_PROG_LOAD, attributes)
    except OSError as error:
        raise RuntimeFailure(
            f"linux.resources.devices: load device program: {error} {log.value.decode(errors='replace').strip()}"
        ) from None


def _poll(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether the condition came true in time. The kernel offers nothing to wait on here."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.0002
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.02)
    return True
