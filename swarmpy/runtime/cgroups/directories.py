"""The directories of a cgroup: made where their controllers work, and removed with all below.

Source  cgroup-v2.rst, "Enabling and Disabling" and "Top-down Constraint"; cgroup-v1/cpusets.rst.
"""

from __future__ import annotations

import errno
import itertools
from functools import partial

from swarmpy.runtime.cgroups import cpuset
from swarmpy.runtime.cgroups.files import CgroupFiles, carry_out, poll, reader
from swarmpy.runtime.cgroups.layout import Hierarchy
from swarmpy.runtime.cgroups.write import Write
from swarmpy.runtime.failure import FailureKind, RuntimeFailure, describe

__all__ = ["enable_controllers", "make", "remove"]

REMOVE_TIMEOUT_S = 5.0
USEFUL = frozenset({"cpu", "memory", "pids", "io"})
"""v2 controllers that every container gets for its statistics, where they can be had."""


def make(files: CgroupFiles, hierarchy: Hierarchy, path: str, asked: frozenset[str]) -> None:
    """The directory exists, with the `asked` controllers at work. Raises CONFLICT when it was there before."""
    directory = f"{hierarchy.mount}{path}"
    if hierarchy.version == 2:
        enable_controllers(files, hierarchy, path, asked)
    try:
        files.make(directory)
    except FileNotFoundError:
        _make_parents(files, hierarchy, path)
        files.make(directory)
    except FileExistsError:
        raise RuntimeFailure(f"cgroup {directory} already exists", FailureKind.CONFLICT) from None
    if hierarchy.version == 1 and "cpuset" in hierarchy.controllers:
        try:
            _inherit_cpuset(files, hierarchy, path)
        except RuntimeFailure:
            files.remove(directory)
            raise


def _parents(hierarchy: Hierarchy, path: str) -> list[str]:
    """From below the mount down to the directory's parent."""
    parts = path.strip("/").split("/")[:-1]
    return [hierarchy.mount + "".join(f"/{part}" for part in parts[: n + 1]) for n in range(len(parts))]


def _make_parents(files: CgroupFiles, hierarchy: Hierarchy, path: str) -> None:
    for directory in _parents(hierarchy, path):
        try:
            files.make(directory)
        except FileExistsError:
            pass


def enable_controllers(files: CgroupFiles, hierarchy: Hierarchy, path: str, asked: frozenset[str]) -> None:
    """A child has the controllers that its parent's subtree_control names, so it is written from the mount down.

    One at a time: the kernel takes all names of a write or none, and a controller can be refused for reasons of its own
    (`cpu` while a real-time process runs below). What serves statistics alone may be missing then.
    """
    _make_parents(files, hierarchy, path)
    wanted = hierarchy.controllers & (USEFUL | asked)
    for directory in [hierarchy.mount, *_parents(hierarchy, path)]:
        enabled = frozenset(files.read(f"{directory}/cgroup.subtree_control").split())
        for name in sorted(wanted - enabled):
            try:
                carry_out(files, Write("cgroup.subtree_control", f"+{name}", "linux.resources"), directory)
            except RuntimeFailure:
                if name in asked:
                    raise
                wanted -= {name}


def _inherit_cpuset(files: CgroupFiles, hierarchy: Hierarchy, path: str) -> None:
    chain = [hierarchy.mount, *_parents(hierarchy, path), f"{hierarchy.mount}{path}"]
    for parent, child in itertools.pairwise(chain):
        for write in cpuset.inherited(reader(files, parent), reader(files, child)):
            carry_out(files, write, child)


def remove(files: CgroupFiles, directory: str) -> None:
    """It is gone, with those made below it. Raises RuntimeFailure when processes stay in it."""
    if not poll(partial(_remove_tree, files, directory), REMOVE_TIMEOUT_S):
        raise RuntimeFailure(f"cgroup {directory} is still in use after {REMOVE_TIMEOUT_S:.0f} s")


def _remove_tree(files: CgroupFiles, directory: str) -> bool:
    """rmdir(2) is EBUSY while a process dies in it or a cgroup lies below it."""
    try:
        files.remove(directory)
        return True
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise RuntimeFailure(f"remove cgroup {directory}: {describe(error)}") from None
    try:
        for child in files.children(directory):
            _remove_tree(files, child)
    except FileNotFoundError:
        return True
    return False
