"""Running another process in a container that runs: exec.

Owns    how a process enters: cgroups, all namespaces of init at once (setns(2) with a pidfd), then the same last
        steps as init. Between fork and execve it is not dumpable and has no descriptor but its own.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from swarmpy.runtime import process_setup, uapi
from swarmpy.runtime.bundle import Bundle, Process
from swarmpy.runtime.cgroups import Cgroup
from swarmpy.runtime.failure import RuntimeFailure, describe
from swarmpy.runtime.init import join_cgroups, report, take_stdio, take_terminal, unexpected
from swarmpy.runtime.kernel import LinuxKernel
from swarmpy.runtime.process_setup import SeccompFilter
from swarmpy.runtime.spawn import spawn

__all__ = ["Entry", "enter"]


@dataclass(frozen=True, slots=True)
class Entry:
    """All that an entering process is given. Numbers are descriptors."""

    process: Process
    init: int  # pidfd
    namespaces: int  # the flags of those it joins
    user_namespace: bool
    cgroup_files: Sequence[int]
    stdio: tuple[int, int, int] | None  # None with a terminal
    channel: int
    seccomp: SeccompFilter | None
    last_capability: int

    def descriptors(self) -> list[int]:
        return [self.init, *self.cgroup_files, *(self.stdio or ()), self.channel]


def enter(
    kernel: LinuxKernel, bundle: Bundle, init_pid: int, cgroup: Cgroup, process: Process,
    stdio: tuple[int, int, int] | None, seccomp: SeccompFilter | None, last_capability: int,
) -> tuple[int, socket.socket]:  # fmt: skip
    """The pid of the new process, and the channel on which it reports: {"console"}, {"error"}, or its end by execve."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    flags = 0
    for kind in bundle.namespaces:
        flags |= uapi.NAMESPACE_FLAGS[kind]
    init = kernel.open_process(init_pid)
    clone_into = cgroup.open_for_clone()
    cgroup_files = cgroup.open_for_joining(born_inside=clone_into is not None)
    entry = Entry(
        process, init, flags & ~uapi.CLONE_NEWPID, "user" in bundle.namespaces, cgroup_files, stdio,
        theirs.fileno(), seccomp, last_capability,
    )  # fmt: skip
    try:
        pid = spawn(
            kernel, lambda: _run_entry(kernel, entry), keep=entry.descriptors(), cgroup=clone_into,
            join=[(init, uapi.CLONE_NEWPID)] if "pid" in bundle.namespaces else [],
        )  # fmt: skip
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
        for descriptor in (init, *entry.cgroup_files, *([] if clone_into is None else [clone_into])):
            os.close(descriptor)
    return pid, ours


def _run_entry(kernel: LinuxKernel, entry: Entry) -> None:
    channel = socket.socket(fileno=entry.channel)
    try:
        _enter(kernel, entry, channel)
    except RuntimeFailure as failure:
        report(channel, failure)
    except OSError as error:
        report(channel, RuntimeFailure(describe(error)))
    except Exception as error:  # noqa: BLE001  a fault of ours still has to reach the caller
        report(channel, unexpected(error))


def _enter(kernel: LinuxKernel, entry: Entry, channel: socket.socket) -> None:
    process = entry.process
    join_cgroups(entry.cgroup_files)
    apparmor = process_setup.set_host_attributes(process)
    kernel.set_namespace(entry.init, entry.namespaces)
    os.close(entry.init)
    if entry.user_namespace:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        kernel.prctl(uapi.PR_SET_DUMPABLE, 0)
    os.setsid()
    os.umask(0o022)
    if entry.stdio is None:
        _open_terminal(kernel, process, channel)
    else:
        take_stdio(entry.stdio)
    process_setup.enter_directory(process.cwd, create=False)
    process_setup.become_user(
        kernel, process, last_capability=entry.last_capability, apparmor=apparmor, seccomp=entry.seccomp
    )
    process_setup.die_with_parent(kernel)
    program = process_setup.find_program(process)
    process_setup.reset_signals()
    process_setup.execute(kernel, process, program, entry.seccomp)


def _open_terminal(kernel: LinuxKernel, process: Process, channel: socket.socket) -> None:
    """A terminal of the container's devpts. What lies at that path is the container's to choose, so it is looked at."""
    flags = os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
    master = os.open("/dev/pts/ptmx", flags)
    is_devpts = kernel.filesystem_type(master) == uapi.DEVPTS_SUPER_MAGIC
    if not is_devpts or os.fstat(master).st_rdev != os.makedev(5, 2):
        raise RuntimeFailure("/dev/pts/ptmx of the container is not a terminal multiplexer")
    fcntl.ioctl(master, 0x40045431, b"\0\0\0\0")  # TIOCSPTLCK: unlock the slave
    slave = fcntl.ioctl(master, uapi.TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    socket.send_fds(channel, [b'{"console":true}'], [master])
    os.close(master)
    take_terminal(slave, process.console_size, process.uid)
