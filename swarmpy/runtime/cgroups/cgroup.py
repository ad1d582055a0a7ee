"""One container's control group, whatever the layout: a directory in each hierarchy that is needed.

Owns    the life of the directories: made with their limits, joined, frozen, killed, asked, removed.
Laws    A controller that the bundle asks for and the host lacks is an error that names the field; one that only serves
        pause, statistics and defaults is left out quietly. Nothing is written outside the own directory, but for
        what v2's subtree_control and v1's cpusets need in the parents.
Source  cgroups(7); cgroup-v2.rst; cgroup-v1/freezer-subsystem.rst.
"""

from __future__ import annotations

import errno
import os
import time

from swarmpy.runtime.cgroups import block_io, cpu, device_program, devices, directories, limits, memory, pids
from swarmpy.runtime.cgroups.files import CgroupFiles, HostFiles, carry_out, poll, reader
from swarmpy.runtime.cgroups.layout import Hierarchy, Layout
from swarmpy.runtime.cgroups.write import Read, key_values
from swarmpy.runtime.failure import RuntimeFailure
from swarmpy.runtime.reader import Fields

__all__ = ["Cgroup"]

FREEZE_TIMEOUT_S = 10.0
KILL_TIMEOUT_S = 5.0


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
        self._used = limits.hierarchies_for(fields, self.layout)
        made: list[Hierarchy] = []
        try:
            for hierarchy in self._used:
                directories.make(self._files, hierarchy, self.path, limits.asked_controllers(fields))
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
        asked = limits.asked_controllers(fields)
        for hierarchy in limits.hierarchies_for(fields, self.layout):
            if hierarchy not in self._used:
                directories.make(self._files, hierarchy, self.path, asked)
                for pid in self.processes():
                    self._files.write(f"{self.directory(hierarchy)}/cgroup.procs", str(pid))
                self._used = (*self._used, hierarchy)
            elif hierarchy.version == 2:
                directories.enable_controllers(self._files, hierarchy, self.path, asked)
        self._apply(fields)
        if fields.items("devices"):
            self._limit_devices(fields)

    def _apply(self, resources: Fields) -> None:
        for hierarchy, write in limits.writes_for(resources, self.layout, self._reader):
            carry_out(self._files, write, self.directory(hierarchy))

    def _limit_devices(self, resources: Fields) -> None:
        owner = self.layout.owner("devices")
        rules = devices.parse_rules(resources)
        if owner is None:
            if resources.items("devices"):
                raise RuntimeFailure("linux.resources.devices: this host has no devices cgroup controller")
        elif owner.version == 1:
            for write in devices.writes(rules):
                carry_out(self._files, write, self.directory(owner))
        else:
            program = device_program.assemble(rules)
            self._device_program = self._files.attach(self.directory(owner), program, self._device_program)

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
        shown = {hierarchy.name: self.directory(hierarchy) for hierarchy in self._used}
        links = {
            name: hierarchy.name
            for hierarchy in self._used
            if len(hierarchy.controllers) > 1 and hierarchy.version == 1
            for name in sorted(hierarchy.controllers)
        }
        return shown, links

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
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    raise
        return sorted(found)

    def _main(self) -> Hierarchy | None:
        """The hierarchy that is asked who is in the container."""
        for name in ("freezer", "pids", "memory", "devices"):
            if (owner := self._using(name)) is not None:
                return owner
        return self._used[0] if self._used else None

    def _using(self, controller: str) -> Hierarchy | None:
        owner = self.layout.owner(controller)
        return owner if owner in self._used else None

    def freeze(self, frozen: bool) -> None:
        """Stop or continue every process; returns when the kernel says all are."""
        owner = self._using("freezer")
        if owner is None:
            raise RuntimeFailure("this host has no freezer cgroup controller, which pause needs")
        directory = self.directory(owner)
        file, words = ("freezer.state", ("THAWED", "FROZEN")) if owner.version == 1 else ("cgroup.freeze", ("0", "1"))

        def settled() -> bool:
            if owner.version == 1:
                return self._files.read(f"{directory}/freezer.state").strip() == words[frozen]
            return key_values(self._files.read(f"{directory}/cgroup.events")).get("frozen") == int(frozen)

        self._files.write(f"{directory}/{file}", words[frozen])
        if not poll(settled, FREEZE_TIMEOUT_S):
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
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while (found := self.processes()) and time.monotonic() < deadline:
            for pid in found:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    continue
            if self._using("freezer") is not None and main.version == 1:
                self._files.write(f"{self.directory(main)}/freezer.state", "THAWED")
            time.sleep(0.001)

    def oom_kills(self) -> int:
        owner = self._using("memory")
        return 0 if owner is None else memory.oom_kills(owner.version, self._reader(owner))

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

    def _reader(self, hierarchy: Hierarchy) -> Read:
        return reader(self._files, self.directory(hierarchy))

    # -- the end -------------------------------------------------------------------------------------------------

    def remove(self) -> None:
        """Nothing of the cgroup is left, nor of those made below it. Raises RuntimeFailure when processes stay on."""
        for hierarchy in self._used:
            directories.remove(self._files, self.directory(hierarchy))
        self._used = ()
        if self._device_program is not None:
            os.close(self._device_program)
            self._device_program = None
