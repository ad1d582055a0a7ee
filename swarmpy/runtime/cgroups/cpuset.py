"""Which CPUs and memory nodes.

Source  cgroup-v1/cpusets.rst: a new v1 cpuset is empty and takes no task until both files are set, in every directory
        from the root down; v2 inherits (cgroup-v2.rst, "Cpuset Interface Files").
"""

from __future__ import annotations

from swarmpy.runtime.cgroups.write import Read, Write
from swarmpy.runtime.reader import Fields

FILES = {"cpus": "cpuset.cpus", "mems": "cpuset.mems"}


def asked(resources: Fields) -> bool:
    return any(resources.child("cpu").value.get(name) for name in FILES)


def writes(resources: Fields, version: int, read: Read) -> list[Write]:
    cpu = resources.child("cpu")
    return [Write(file, cpu.text(name), cpu.at(name)) for name, file in FILES.items() if cpu.text(name)]


def inherited(parent: Read, own: Read) -> list[Write]:
    """What v1 needs in a new directory: the parent's values in place of nothing."""
    return [
        Write(file, (parent(file) or "").strip(), file)
        for file in FILES.values()
        if not (own(file) or "").strip() and (parent(file) or "").strip()
    ]
