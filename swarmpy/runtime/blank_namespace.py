"""An almost empty mount namespace from which containers start.

A new mount namespace is a copy of its maker's. Copied from the host's it would hold every mount of the host for a
moment, be as slow as the host has mounts, and keep file systems busy that the host wants to unmount. So the launcher
makes one namespace with a tmpfs, /proc, /sys and a null device, and containers are copies of that.

/proc and /sys are there because a container in a user namespace may mount its own only when the namespace has one that
is fully visible (user_namespaces(7)).
"""

from __future__ import annotations

import os
import signal

from swarmpy.runtime import uapi
from swarmpy.runtime.kernel import LinuxKernel

__all__ = ["make_blank_namespace"]


def make_blank_namespace(kernel: LinuxKernel, staging: str) -> int:
    """A descriptor of the namespace. `staging` is any directory. Raises OSError."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = kernel.clone(uapi.CLONE_NEWNS)
    if pid == 0:
        code = 1
        try:
            _furnish(kernel, staging)
            os.write(writer, b"x")
            signal.pause()
        except OSError as error:
            os.write(writer, b"")
            code = error.errno or 1
        finally:
            os._exit(code)
    os.close(writer)
    try:
        if not os.read(reader, 1):
            _, status = os.waitpid(pid, 0)
            code = os.waitstatus_to_exitcode(status)
            raise OSError(code, os.strerror(code), "blank mount namespace")
        return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(reader)
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # it failed, and was waited for above


def _furnish(kernel: LinuxKernel, staging: str) -> None:
    kernel.set_propagation("/", uapi.MS_REC | uapi.MS_PRIVATE)
    root = kernel.new_filesystem("tmpfs", "tmpfs", (("mode", "755"), ("size", "64k")), 0)
    target = os.open(staging, os.O_PATH | os.O_CLOEXEC)
    kernel.move_mount(root, target)
    for name in ("proc", "sys", "root"):
        kernel.make_directory(root, name, 0o755)
    kernel.make_node(root, "null", 0o020666, os.makedev(1, 3))
    os.chmod("null", 0o666, dir_fd=root)
    for name, kind in (("proc", "proc"), ("sys", "sysfs")):
        attributes = uapi.MOUNT_ATTR_NOSUID | uapi.MOUNT_ATTR_NODEV | uapi.MOUNT_ATTR_NOEXEC
        mount = kernel.new_filesystem(kind, kind, (), attributes)
        target = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=root)
        kernel.move_mount(mount, target)
    os.fchdir(root)
    kernel.pivot_root()
