"""Carrying out a plan: the container's file system, built from inside its new mount namespace.

Owns    the descriptors between the steps. `open_sources` runs in the shim, which sees the host; `Builder.run` runs in
        the container's init, before anything of the image does.
Laws    Every target is resolved below the root with openat2(2) RESOLVE_IN_ROOT, and used through that descriptor.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Sequence

from swarmpy.runtime import plan, uapi
from swarmpy.runtime.failure import FailureKind, KernelError, RuntimeFailure
from swarmpy.runtime.kernel import Kernel
from swarmpy.runtime.mount_options import MountOptions
from swarmpy.runtime.overlay import mount_overlay
from swarmpy.runtime.ready_mounts import ReadyMounts, take_ready

__all__ = ["Builder", "open_sources"]

FOREIGN_ROOT = re.compile(r"/proc/(\d+)/root(/.*)")
NO_OPTIONS = MountOptions(0, 0, 0, 0, (), False, ())


def open_sources(kernel: Kernel, sources: Sequence[plan.Source]) -> list[int]:
    """Detached mounts of what a plan takes from the host, in order."""
    opened: list[int] = []
    for source in sources:
        if isinstance(source, plan.OverlaySource):
            overlay = source.overlay
            opened.append(mount_overlay(kernel, overlay.lower, (overlay.upper, overlay.work), source.options))
            continue
        try:
            opened.append(_open_tree(kernel, source))
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise RuntimeFailure(f"bind source {source.path} does not exist", FailureKind.INVALID) from None
            raise
    return opened


def _open_tree(kernel: Kernel, source: plan.TreeSource) -> int:
    """A mount can only be copied within its own namespace (open_tree(2)): for one of another process we go there.

    So containers share their /dev/shm. The shim has one thread, so setns(2) is free to change its root directory.
    """
    elsewhere = FOREIGN_ROOT.fullmatch(source.path)
    if elsewhere is None:
        return kernel.open_tree(uapi.AT_FDCWD, source.path, recursive=source.recursive)
    own, theirs = (os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC) for pid in ("self", elsewhere[1]))
    try:
        kernel.set_namespace(theirs, uapi.CLONE_NEWNS)
        try:
            return kernel.open_tree(uapi.AT_FDCWD, elsewhere[2], recursive=source.recursive)
        finally:
            kernel.set_namespace(own, uapi.CLONE_NEWNS)
    finally:
        os.close(own)
        os.close(theirs)


class Builder:
    """Runs the steps of one plan. `sources` are the descriptors of `open_sources`.

    `null` is a device node and `empty` a directory of the mount namespace as it is before pivot_root: what is masked
    shows one of them. `staging` is any directory on which the root can be attached meanwhile. Mounts of `ready` are
    used up where they fit.
    """

    def __init__(
        self, kernel: Kernel, sources: Sequence[int], *, null: str, staging: str, ready: ReadyMounts | None = None
    ) -> None:
        self._kernel = kernel
        self._sources = sources
        self._null = null
        self._staging = staging
        self._ready = ready or {}
        self._root = -1
        self._empty = -1
        self.console: tuple[int, int] | None = None  # master, slave

    def run(self, steps: Sequence[plan.Step]) -> None:
        """Carry out all steps. Raises RuntimeFailure that says which mount or device it was."""
        for step in steps:
            try:
                self._run(step)
            except OSError as error:
                raise RuntimeFailure(f"{_name(step)}: {error}") from None

    def _run(self, step: plan.Step) -> None:
        kernel = self._kernel
        match step:
            case plan.NewMount():
                self._new_mount(step)
            case plan.AttachSource():
                mount = self._sources[step.source]
                is_directory = stat.S_ISDIR(os.fstat(mount).st_mode)
                self._apply_options(mount, step.options)
                self._attach(mount, step.target, is_directory, step.options)
            case plan.MakeDevice():
                self._make_device(step)
            case plan.MakeLink():
                self._make_link(step)
            case plan.MaskPath():
                self._mask(step.path)
            case plan.MakeReadonly():
                self._make_readonly(step.path)
            case plan.AttachRoot():
                self._attach_root()
            case plan.MountConsole():
                self._mount_console()
            case plan.WriteSysctl():
                kernel.write_file(f"/proc/sys/{step.name.replace('.', '/')}", step.value)
            case plan.SetHostname():
                if step.hostname:
                    kernel.set_hostname(step.hostname)
                if step.domainname:
                    kernel.set_domainname(step.domainname)
            case plan.FinishRoot():
                self._finish_root(step)

    # -- the root ------------------------------------------------------------------------------------------------

    def _attach_root(self) -> None:
        """Private before anything is mounted in it, lest a mount in a shared root shows on the host."""
        root = self._sources[0]
        self._kernel.set_mount(root, add=0, remove=0, propagation=uapi.PROPAGATION_PRIVATE, recursive=True)
        target = os.open(self._staging, os.O_PATH | os.O_CLOEXEC)
        self._kernel.move_mount(root, target)
        os.close(target)
        self._root = root

    def _finish_root(self, step: plan.FinishRoot) -> None:
        os.fchdir(self._root)
        self._kernel.pivot_root()
        for kind, recursive in step.propagation:
            self._kernel.set_mount(self._root, add=0, remove=0, propagation=kind, recursive=recursive)
        if step.readonly:
            self._kernel.set_mount(self._root, add=uapi.MOUNT_ATTR_RDONLY, remove=0, propagation=0, recursive=False)

    # -- mounts --------------------------------------------------------------------------------------------------

    def _new_mount(self, step: plan.NewMount) -> None:
        options = step.options
        attributes = options.add | options.add_all
        mount = take_ready(self._ready, step.kind, options.data)
        if mount is None:
            mount = self._kernel.new_filesystem(step.kind, step.source, options.data, attributes)
        elif attributes:
            remove = uapi.MOUNT_ATTR__ATIME if attributes & uapi.MOUNT_ATTR__ATIME else 0
            self._kernel.set_mount(mount, add=attributes, remove=remove, propagation=0, recursive=False)
        self._attach(mount, step.target, True, options)
        os.close(mount)

    def _attach(self, mount: int, path: str, is_directory: bool, options: MountOptions) -> None:
        target = self.ensure(path, is_directory)
        self._kernel.move_mount(mount, target)
        os.close(target)
        for kind, recursive in options.propagation:
            self._kernel.set_mount(mount, add=0, remove=0, propagation=kind, recursive=recursive)

    def _apply_options(self, mount: int, options: MountOptions) -> None:
        """The attributes of a bind mount; those that no option names stay as they are on the host.

        Its mounts do not travel unless asked: OCI's default is rprivate.
        """
        propagation = 0 if options.propagation else uapi.PROPAGATION_PRIVATE
        if options.add_all or options.remove_all or propagation:
            self._kernel.set_mount(
                mount, add=options.add_all, remove=options.remove_all, propagation=propagation, recursive=True
            )
        if options.add or options.remove:
            self._kernel.set_mount(mount, add=options.add, remove=options.remove, propagation=0, recursive=False)

    # -- devices and links ---------------------------------------------------------------------------------------

    def _make_device(self, step: plan.MakeDevice) -> None:
        device = step.device
        parent, name = self._parent_of(device.path)
        try:
            self._kernel.make_node(parent, name, plan.device_mode(device), os.makedev(device.major, device.minor))
            if device.uid or device.gid:
                os.chown(name, device.uid, device.gid, dir_fd=parent, follow_symlinks=False)
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_IFMT(found.st_mode) != stat.S_IFMT(plan.device_mode(device)):
                raise RuntimeFailure("the image has something else there") from None
        finally:
            os.close(parent)

    def _make_link(self, step: plan.MakeLink) -> None:
        parent, name = self._parent_of(step.path)
        try:
            self._kernel.make_symlink(step.target, parent, name)
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
            if step.replace:
                os.unlink(name, dir_fd=parent)
                self._kernel.make_symlink(step.target, parent, name)
        finally:
            os.close(parent)

    def _mount_console(self) -> None:
        """ioctl_tty(2), TIOCGPTPEER: the slave is opened from the master, so its path is not trusted."""
        master = self._kernel.open_in_root(self._root, "dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
        if os.fstat(master).st_rdev != os.makedev(5, 2):
            raise RuntimeFailure("/dev/pts/ptmx is not a terminal multiplexer: mounts need devpts on /dev/pts")
        fcntl.ioctl(master, 0x40045431, b"\0\0\0\0")  # TIOCSPTLCK: unlock the slave
        slave = fcntl.ioctl(master, uapi.TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        mount = self._kernel.open_tree(slave, "", recursive=False)
        self._attach(mount, "/dev/console", False, NO_OPTIONS)
        os.close(mount)
        self.console = master, slave

    # -- masks ---------------------------------------------------------------------------------------------------

    def _mask(self, path: str) -> None:
        """Hide a path that exists: a file behind /dev/null, a directory behind an empty read-only one."""
        target = self._find(path)
        if target is None:
            return
        if stat.S_ISDIR(os.fstat(target).st_mode):
            cover = self._empty_directory()
        else:
            cover = self._kernel.open_tree(uapi.AT_FDCWD, self._null, recursive=False)
        self._kernel.move_mount(cover, target)
        os.close(target)
        if cover != self._empty:
            os.close(cover)

    def _empty_directory(self) -> int:
        """One small read-only tmpfs, copied for every further use."""
        if self._empty < 0:
            self._empty = self._kernel.new_filesystem(
                "tmpfs", "tmpfs", (("size", "0k"), ("mode", "555")), uapi.MOUNT_ATTR_RDONLY
            )
            return self._empty
        return self._kernel.open_tree(self._empty, "", recursive=False)

    def _make_readonly(self, path: str) -> None:
        target = self._find(path)
        if target is None:
            return
        if self._set_readonly(target):
            os.close(target)
            return
        mount = self._kernel.open_tree(target, "", recursive=True)
        self._kernel.set_mount(mount, add=uapi.MOUNT_ATTR_RDONLY, remove=0, propagation=0, recursive=False)
        self._kernel.move_mount(mount, target)
        os.close(mount)
        os.close(target)

    def _set_readonly(self, target: int) -> bool:
        """When the path is a mount already, its own flag does. mount_setattr(2): EINVAL when it is not."""
        try:
            self._kernel.set_mount(target, add=uapi.MOUNT_ATTR_RDONLY, remove=0, propagation=0, recursive=False)
        except KernelError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return True

    # -- paths ---------------------------------------------------------------------------------------------------

    def _find(self, path: str) -> int | None:
        try:
            return self._kernel.open_in_root(self._root, path, os.O_PATH)
        except KernelError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise

    def _parent_of(self, path: str) -> tuple[int, str]:
        parent, _, name = path.rstrip("/").rpartition("/")
        return self.ensure(parent or "/", True), name

    def ensure(self, path: str, is_directory: bool) -> int:
        """A descriptor (O_PATH) of `path` below the root, made with its parents when it is missing."""
        try:
            return self._kernel.open_in_root(self._root, path, os.O_PATH)
        except KernelError as error:
            if error.errno != errno.ENOENT or path == "/":
                raise
        parent, name = self._parent_of(path)
        try:
            if is_directory:
                self._kernel.make_directory(parent, name, 0o755)
            else:
                self._kernel.make_file(parent, name, 0o644)
        except KernelError as error:
            if error.errno != errno.EEXIST:  # another process made it, or it is a link to nowhere: the next call tells
                raise
        finally:
            os.close(parent)
        return self._kernel.open_in_root(self._root, path, os.O_PATH)


def _name(step: plan.Step) -> str:
    match step:
        case plan.NewMount():
            return f"mount {step.kind} on {step.target}"
        case plan.AttachSource():
            return f"bind mount on {step.target}"
        case plan.MakeDevice():
            return f"device {step.device.path}"
        case plan.MakeLink() | plan.MaskPath() | plan.MakeReadonly():
            return step.path
        case plan.WriteSysctl():
            return f"sysctl {step.name}"
        case plan.SetHostname():
            return f"hostname {step.hostname}"
        case plan.MountConsole():
            return "/dev/console"
        case plan.AttachRoot() | plan.FinishRoot():
            return "root file system"


