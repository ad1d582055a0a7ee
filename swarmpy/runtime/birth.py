"""The birth of a container's init, before anybody knows whose it is.

Making namespaces and copying a process' memory is most of the time that a container takes to start, and needs to know
nothing but which namespaces are new. So the launcher keeps one shim ready that has one init ready, in the
namespaces that nearly all containers have; a request finds both waiting. Any other wish is served by a birth on demand.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swarmpy.runtime import uapi
from swarmpy.runtime.cgroups import Layout
from swarmpy.runtime.kernel import LinuxKernel
from swarmpy.runtime.spawn import spawn

__all__ = ["USUAL_NAMESPACES", "Host", "Newborn", "bear"]

USUAL_NAMESPACES = (
    uapi.CLONE_NEWPID | uapi.CLONE_NEWNET | uapi.CLONE_NEWIPC | uapi.CLONE_NEWNS | uapi.CLONE_NEWUTS
)  # fmt: skip
"""The cgroup namespace is made later by init itself, since its root is where init is by then."""


@dataclass(frozen=True, slots=True)
class Host:
    """What the launcher found out once for all containers."""

    state: str
    cgroup_parent: str
    layout: Layout
    last_capability: int
    blank: int  # the mount namespace that containers start from (blank_namespace.py)
    own_mounts: int  # our own mount namespace, to come back to
    shim_pages: Sequence[bytes]  # what a shim and an init write of the memory they share (warm_pages.py)
    init_pages: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Newborn:
    """An init that waits for its handover. `blank`: its mount namespace is a copy of the blank one, not the host's."""

    pid: int
    channel: socket.socket
    flags: int
    blank: bool
    in_cgroup: bool  # born in the container's cgroup v2 directory

    def alive(self) -> bool:
        return os.waitpid(self.pid, os.WNOHANG) == (0, 0)

    def discard(self) -> None:
        """It is of no use: it ends when the channel does, and is waited for."""
        self.channel.close()
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            return  # it had ended, and `alive` has reaped it


def bear(
    kernel: LinuxKernel, host: Host, run: Callable[[socket.socket], None], *, flags: int, blank: bool,
    join: Sequence[tuple[int, int]] = (), cgroup: int | None = None,
) -> Newborn:  # fmt: skip
    """A child that calls `run` with its end of the channel, in new namespaces of `flags` and those of `join`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if blank:
        kernel.set_namespace(host.blank, uapi.CLONE_NEWNS)
    try:
        pid = spawn(kernel, lambda: run(theirs), keep=[theirs.fileno()], flags=flags, cgroup=cgroup, join=join)
    except OSError:
        ours.close()
        raise
    finally:
        if blank:
            kernel.set_namespace(host.own_mounts, uapi.CLONE_NEWNS)
        theirs.close()
    return Newborn(pid, ours, flags, blank, in_cgroup=cgroup is not None)
