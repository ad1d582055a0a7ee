"""Control groups: v1, v2 and the hybrid layout of both.

`layout` finds what is mounted; one file per controller turns OCI `linux.resources` into writes of the kernel's own file
names, for either version, and `limits` is the table of them; `cgroup` is one container's set of directories, which
`directories` makes and removes; `files` alone touches the kernel.
"""

from swarmpy.runtime.cgroups.cgroup import Cgroup
from swarmpy.runtime.cgroups.files import CgroupFiles, HostFiles
from swarmpy.runtime.cgroups.layout import Layout, detect_layout

__all__ = ["Cgroup", "CgroupFiles", "HostFiles", "Layout", "detect_layout"]
