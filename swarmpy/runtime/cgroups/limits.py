"""Which controllers a bundle needs, and what it wants written to them.

Owns    the table of drivers, one for each controller. Decides only; `cgroup` carries out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from swarmpy.runtime.cgroups import block_io, cpu, cpuset, memory, other, pids
from swarmpy.runtime.cgroups.layout import Hierarchy, Layout
from swarmpy.runtime.cgroups.write import Read, Write
from swarmpy.runtime.failure import FailureKind, RuntimeFailure
from swarmpy.runtime.reader import Fields

__all__ = ["asked_controllers", "hierarchies_for", "writes_for"]

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
"""Names of the controller in v1 and v2, what it does with resources, and whether resources ask for it."""


def hierarchies_for(resources: Fields, layout: Layout) -> tuple[Hierarchy, ...]:
    """Where a container needs a directory. Raises INVALID for a limit whose controller this host lacks."""
    needed = {owner for name in ALWAYS if (owner := layout.owner(name)) is not None}
    needed |= {_owner(names, layout) for names, _, asked in DRIVERS if asked(resources)}
    if resources.child("unified").value:
        needed.add(_unified("linux.resources.unified", layout))
    return tuple(hierarchy for hierarchy in layout.hierarchies if hierarchy in needed)


def asked_controllers(resources: Fields) -> frozenset[str]:
    """The controllers without which the limits cannot be kept, in v2's names and v1's."""
    by_name = {name.partition(".")[0] for name in resources.child("unified").value} - {"cgroup"}
    return frozenset(name for names, _, asked in DRIVERS if asked(resources) for name in names) | by_name


def writes_for(
    resources: Fields, layout: Layout, read: Callable[[Hierarchy], Read]
) -> Iterator[tuple[Hierarchy, Write]]:
    """All writes, in an order in which the kernel takes them. `read` gives what the container's files hold now."""
    for names, driver, asked in DRIVERS:
        if asked(resources):
            owner = _owner(names, layout)
            yield from ((owner, write) for write in driver(resources, owner.version, read(owner)))
    for write in other.unified_writes(resources):
        yield _unified(write.field, layout), write


def _owner(names: tuple[str, ...], layout: Layout) -> Hierarchy:
    for name in names:
        if (owner := layout.owner(name)) is not None:
            return owner
    raise RuntimeFailure(
        f"linux.resources: this host has no {names[0]} cgroup controller, which the limit needs", FailureKind.INVALID
    )


def _unified(field: str, layout: Layout) -> Hierarchy:
    for hierarchy in layout.hierarchies:
        if hierarchy.version == 2:
            return hierarchy
    raise RuntimeFailure(f"{field}: this host has no cgroup v2 hierarchy", FailureKind.INVALID)
