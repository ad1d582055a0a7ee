"""Control groups: v1, v2 and the hybrid layout of both.

`layout` finds what is mounted; one file per controller turns OCI `linux.resources` into writes of the kernel's own file
names, for either version; `cgroup` is one container's set of directories and the only one that touches files.
"""

from swarmpy.runtime.cgroups.cgroup import Cgroup, CgroupFiles, HostFiles
from swarmpy.runtime.cgroups.layout import Layout, detect_layout

__all__ = ["Cgroup", "CgroupFiles", "HostFiles", "Layout", "detect_layout"]
