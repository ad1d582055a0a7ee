"""Which cgroup hierarchies this host has, and which of them owns each controller.

Source  cgroup-v2.rst, "Mounting"; cgroups(7), "Cgroups version 1"; proc_pid_mountinfo(5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Hierarchy", "Layout", "detect_layout"]

CONTROLLERS = frozenset(
    {"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "io", "pids", "hugetlb", "net_cls",
     "net_prio", "perf_event", "rdma", "misc"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hierarchy:
    version: int
    mount: str
    controllers: frozenset[str]

    @property
    def name(self) -> str:
        """The last part of the mount point: `memory`, `cpu,cpuacct`."""
        return self.mount.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Layout:
    """Answers by controller. v2's freezer and devices are no controllers in the kernel's words, and always there."""

    hierarchies: tuple[Hierarchy, ...]

    @property
    def kind(self) -> str:
        """v1, v2, hybrid, or none."""
        versions = {hierarchy.version for hierarchy in self.hierarchies}
        return "hybrid" if len(versions) == 2 else "v1" if 1 in versions else "v2" if 2 in versions else "none"

    def owner(self, controller: str) -> Hierarchy | None:
        for hierarchy in self.hierarchies:
            if controller in hierarchy.controllers:
                return hierarchy
        return None


def detect_layout(mountinfo: str, read: Callable[[str], str]) -> Layout:
    """Read the layout from /proc/self/mountinfo. `read` gives a file's text, for v2's cgroup.controllers.

    A hierarchy that is mounted more than once counts once, where it is mounted first. v1 wins over v2 for a controller,
    as in the kernel, where a controller is in one hierarchy at a time.
    """
    found: list[Hierarchy] = []
    unified: Hierarchy | None = None
    for line in mountinfo.splitlines():
        fields, _, tail = line.partition(" - ")
        kind, _, options = [*tail.split(), "", "", ""][:3]
        mount = fields.split()[4].replace("\\040", " ") if len(fields.split()) > 4 else ""
        if kind == "cgroup":
            controllers = frozenset(options.split(",")) & CONTROLLERS
            if controllers and all(controllers != other.controllers for other in found):
                found.append(Hierarchy(1, mount, controllers))
        elif kind == "cgroup2" and unified is None:
            names = frozenset(read(f"{mount}/cgroup.controllers").split()) & CONTROLLERS
            unified = Hierarchy(2, mount, names)
    if unified is not None:
        taken: frozenset[str] = frozenset().union(*(hierarchy.controllers for hierarchy in found))
        builtin = frozenset({"freezer", "devices"}) - taken
        found.append(Hierarchy(2, unified.mount, unified.controllers | builtin))
    return Layout(tuple(found))
