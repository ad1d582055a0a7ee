"""The cgroups a lab's daemons made: removed once their processes are gone, in every hierarchy of the machine.

Source  cgroups(7): a cgroup without processes and children is removed by rmdir(2).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from swarmpy.lab.host import poll_until

__all__ = ["remove_cgroups", "thaw"]

DEADLINE_S = 10.0


def remove_cgroups(name: str, *, and_empty_parents: bool = True) -> None:
    """No cgroup `name` ("/lab/host") is left, nor what was below it, nor empty parents. Unavailable if one is busy."""
    for root in _hierarchies():
        top = root / name.lstrip("/")
        if top.is_dir():
            poll_until(partial(_remove_tree, top), DEADLINE_S, f"the processes of cgroup {top} to end")
        if and_empty_parents:
            _remove_empty(top.parent, root)


def thaw(name: str) -> None:
    """No process below cgroup `name` is frozen: in cgroup v1 a frozen process does not die of SIGKILL."""
    for root in _hierarchies():
        for state in (root / name.lstrip("/")).glob("**/freezer.state"):
            state.write_text("THAWED")


def _hierarchies() -> Iterator[Path]:
    """Mount points of cgroup file systems, v1 and v2 (proc_pid_mountinfo(5))."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.split()[0] in ("cgroup", "cgroup2"):
            yield Path(fields.split()[4])


def _remove_tree(top: Path) -> bool:
    """Whether it is gone; the kernel needs a moment after the last process."""
    return all(_rmdir(Path(directory)) for directory, _, _ in os.walk(top, topdown=False))


def _remove_empty(path: Path, root: Path) -> None:
    while path != root and root in path.parents and path.is_dir() and _rmdir(path):
        path = path.parent


def _rmdir(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError as failure:
        if failure.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True
