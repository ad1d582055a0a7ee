"""The privileged door: every system call with which a container is made.

Owns    `Kernel`, the protocol that the executors of plans speak; `LinuxKernel` does the calls through ctypes. Tests
        have a recording one.
Laws    A refused call raises `KernelError` with its arguments. Descriptors that are returned are close-on-exec.
Note    The mount calls are the descriptor based ones (fsopen(2), open_tree(2), move_mount(2)): a target is a
        descriptor that was resolved safely, so that no path is walked twice.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Callable
from typing import Protocol

from swarmpy.runtime import uapi
from swarmpy.runtime.failure import KernelError

__all__ = ["Kernel", "LinuxKernel"]


class Kernel(Protocol):
    """What the steps of a plan may ask of the kernel."""

    def open_in_root(self, root: int, path: str, flags: int) -> int:
        """openat2(2) with RESOLVE_IN_ROOT: symbolic links and `..` never lead out of `root`."""

    def open_tree(self, directory: int, path: str, *, recursive: bool) -> int: ...
    def new_filesystem(
        self, kind: str, source: str, options: tuple[tuple[str, str | None], ...], attributes: int
    ) -> int:
        """fsopen, fsconfig and fsmount: a detached mount. `options` with None are flags."""

    def move_mount(self, mount: int, target: int) -> None: ...
    def set_mount(self, mount: int, *, add: int, remove: int, propagation: int, recursive: bool) -> None: ...
    def set_propagation(self, path: str, flags: int) -> None: ...
    def pivot_root(self) -> None:
        """Make the working directory the root of this mount namespace, and detach the old one."""

    def make_directory(self, parent: int, name: str, mode: int) -> None: ...
    def make_file(self, parent: int, name: str, mode: int) -> None: ...
    def make_node(self, parent: int, name: str, mode: int, device: int) -> None: ...
    def make_symlink(self, target: str, parent: int, name: str) -> None: ...
    def unshare(self, flags: int) -> None: ...
    def set_namespace(self, descriptor: int, flags: int) -> None: ...
    def set_hostname(self, name: str) -> None: ...
    def set_domainname(self, name: str) -> None: ...
    def write_file(self, path: str, text: str) -> None: ...
    def prctl(self, option: int, a: int = 0, b: int = 0) -> int: ...
    def set_capabilities(self, effective: int, permitted: int, inheritable: int) -> None: ...
    def load_seccomp(self, program: bytes, flags: int) -> None: ...


class _OpenHow(ctypes.Structure):
    """`struct open_how { __u64 flags; __u64 mode; __u64 resolve; }`, linux/openat2.h, 24 bytes."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class _MountAttr(ctypes.Structure):
    """`struct mount_attr { __u64 attr_set, attr_clr, propagation, userns_fd; }`, linux/mount.h, 32 bytes."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


class _CloneArgs(ctypes.Structure):
    """`struct clone_args`, linux/sched.h, 88 bytes: flags, pidfd, child_tid, parent_tid, exit_signal, stack,
    stack_size, tls, set_tid, set_tid_size, cgroup; each a __u64.
    """

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack",
            "stack_size", "tls", "set_tid", "set_tid_size", "cgroup",
        )
    ]


class _SockFprog(ctypes.Structure):
    """`struct sock_fprog { unsigned short len; struct sock_filter *filter; }`, linux/filter.h, 16 bytes."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


class LinuxKernel:
    """`Kernel` by ctypes. Also what only the shim and the launcher need: clone, namespaces by process, bpf."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._syscall = self._libc.syscall
        self._syscall.restype = ctypes.c_long

    # -- paths ---------------------------------------------------------------------------------------------------

    def open_in_root(self, root: int, path: str, flags: int) -> int:
        how = _OpenHow(flags | os.O_CLOEXEC, 0, uapi.RESOLVE_IN_ROOT | uapi.RESOLVE_NO_MAGICLINKS)
        while True:
            try:
                return self._call(
                    "openat2", (path,), uapi.SYS_openat2, root, os.fsencode(path), ctypes.byref(how), 24
                )
            except KernelError as error:
                if error.errno != 11:  # EAGAIN: a rename happened underneath while `..` was walked (openat2(2))
                    raise

    def make_directory(self, parent: int, name: str, mode: int) -> None:
        _python("mkdirat", name, lambda: os.mkdir(name, mode, dir_fd=parent))

    def make_file(self, parent: int, name: str, mode: int) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        _python("openat", name, lambda: os.close(os.open(name, flags, mode, dir_fd=parent)))

    def make_node(self, parent: int, name: str, mode: int, device: int) -> None:
        _python("mknodat", name, lambda: os.mknod(name, mode, device, dir_fd=parent))

    def make_symlink(self, target: str, parent: int, name: str) -> None:
        _python("symlinkat", name, lambda: os.symlink(target, name, dir_fd=parent))

    def write_file(self, path: str, text: str) -> None:
        def write() -> None:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)

        _python(f"write {text.strip()!r} to", path, write)

    # -- mounts --------------------------------------------------------------------------------------------------

    def open_tree(self, directory: int, path: str, *, recursive: bool) -> int:
        flags = uapi.OPEN_TREE_CLONE | uapi.OPEN_TREE_CLOEXEC | uapi.AT_EMPTY_PATH
        flags |= uapi.AT_RECURSIVE if recursive else 0
        return self._call("open_tree", (path,), uapi.SYS_open_tree, directory, os.fsencode(path), flags)

    def new_filesystem(
        self, kind: str, source: str, options: tuple[tuple[str, str | None], ...], attributes: int
    ) -> int:
        context = self._call("fsopen", (kind,), uapi.SYS_fsopen, kind.encode(), uapi.FSOPEN_CLOEXEC)
        try:
            if source:
                self._fsconfig(context, kind, uapi.FSCONFIG_SET_STRING, "source", source)
            for key, value in options:
                command = uapi.FSCONFIG_SET_FLAG if value is None else uapi.FSCONFIG_SET_STRING
                self._fsconfig(context, kind, command, key, value)
            self._fsconfig(context, kind, uapi.FSCONFIG_CMD_CREATE, None, None)
            return self._call("fsmount", (kind,), uapi.SYS_fsmount, context, uapi.FSMOUNT_CLOEXEC, attributes)
        finally:
            os.close(context)

    def _fsconfig(self, context: int, kind: str, command: int, key: str | None, value: str | None) -> None:
        raw_key = None if key is None else key.encode()
        raw_value = None if value is None else os.fsencode(value)
        if self._syscall(uapi.SYS_fsconfig, context, command, raw_key, raw_value, 0) == 0:
            return
        number = ctypes.get_errno()
        shown = "" if key is None else key if value is None else f"{key}={value}"
        raise KernelError(number, f"mount {kind}", shown, detail=_mount_log(context))

    def move_mount(self, mount: int, target: int) -> None:
        flags = uapi.MOVE_MOUNT_F_EMPTY_PATH | uapi.MOVE_MOUNT_T_EMPTY_PATH
        self._call("move_mount", (), uapi.SYS_move_mount, mount, b"", target, b"", flags)

    def set_mount(self, mount: int, *, add: int, remove: int, propagation: int, recursive: bool) -> None:
        attributes = _MountAttr(add, remove, propagation, 0)
        flags = uapi.AT_EMPTY_PATH | (uapi.AT_RECURSIVE if recursive else 0)
        self._call(
            "mount_setattr", (f"+{add:#x}", f"-{remove:#x}", f"propagation {propagation:#x}"),
            uapi.SYS_mount_setattr, mount, b"", flags, ctypes.byref(attributes), 32,
        )  # fmt: skip

    def set_propagation(self, path: str, flags: int) -> None:
        self._check("mount propagation", (path,), self._libc.mount(b"none", os.fsencode(path), None, flags, None))

    def pivot_root(self) -> None:
        self._call("pivot_root", (".",), uapi.SYS_pivot_root, b".", b".")
        # pivot_root(2): with both arguments ".", the old root now lies on top of the new one.
        self._check("umount2", (".",), self._libc.umount2(b".", uapi.MNT_DETACH))
        os.chdir("/")

    # -- namespaces and processes --------------------------------------------------------------------------------

    def unshare(self, flags: int) -> None:
        self._check("unshare", (f"{flags:#x}",), self._libc.unshare(flags))

    def set_namespace(self, descriptor: int, flags: int) -> None:
        self._check("setns", (f"{flags:#x}",), self._libc.setns(descriptor, flags))

    def clone(self, flags: int, cgroup: int | None = None) -> int:
        """fork(2) with `flags`: the child's pid here, 0 in the child.

        Safe only in a process of one thread that uses no Python feature with fork hooks, as launcher, shim and init.
        With `cgroup` (a descriptor of a cgroup v2 directory) the child starts in it, which spares the migration.
        """
        extra = 0 if cgroup is None else uapi.CLONE_INTO_CGROUP
        signal = 0 if flags & uapi.CLONE_PARENT else 17  # SIGCHLD; clone3(2) takes no signal with CLONE_PARENT
        arguments = _CloneArgs(flags=flags | extra, exit_signal=signal, cgroup=cgroup or 0)
        return self._call("clone3", (f"{flags:#x}",), uapi.SYS_clone3, ctypes.byref(arguments), 88)

    def open_process(self, pid: int) -> int:
        return self._call("pidfd_open", (pid,), uapi.SYS_pidfd_open, pid, 0)

    def close_range(self, first: int, last: int) -> None:
        self._call("close_range", (first, last), uapi.SYS_close_range, first, last, 0)

    def set_hostname(self, name: str) -> None:
        raw = name.encode()
        self._check("sethostname", (name,), self._libc.sethostname(raw, len(raw)))

    def set_domainname(self, name: str) -> None:
        raw = name.encode()
        self._check("setdomainname", (name,), self._libc.setdomainname(raw, len(raw)))

    def prctl(self, option: int, a: int = 0, b: int = 0) -> int:
        result = self._libc.prctl(option, ctypes.c_ulong(a), ctypes.c_ulong(b), 0, 0)
        return self._check("prctl", (option, a), result)

    def populate(self, ranges: bytes) -> None:
        """MADV_POPULATE_WRITE for each range of an array of struct iovec: have pages of our own there. A hint, and no
        harm when it is refused.

        All in one call where the kernel lets a process ask that of itself (process_madvise(2), Linux 6.13), else one
        by one (madvise(2)).
        """
        myself = os.pidfd_open(os.getpid())
        done = self._syscall(uapi.SYS_process_madvise, myself, ranges, ctypes.c_size_t(len(ranges) // 16), 23, 0)
        os.close(myself)
        if done < 0:
            for address, length in struct.iter_unpack("=QQ", ranges):
                self._libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), 23)

    def default_signal(self, number: int) -> None:
        """rt_sigaction(2) with SIG_DFL. The system call itself: libc keeps two signals from its callers."""
        action = ctypes.create_string_buffer(32)   # struct kernel_sigaction: handler, flags, restorer, mask, all 0
        self._call("rt_sigaction", (number,), uapi.SYS_rt_sigaction, number, action, None, ctypes.c_size_t(8))

    def set_process_name(self, name: bytes) -> None:
        """What ps(1) shows; the kernel keeps 15 bytes."""
        self._check("prctl", (name,), self._libc.prctl(uapi.PR_SET_NAME, ctypes.c_char_p(name), 0, 0, 0))

    # -- privileges ----------------------------------------------------------------------------------------------

    def set_capabilities(self, effective: int, permitted: int, inheritable: int) -> None:
        """capset(2), version 3: a header, then two structs of effective, permitted, inheritable (low, high word)."""
        header = struct.pack("=Ii", 0x2008_0522, 0)
        low = struct.pack("=III", *(mask & 0xFFFF_FFFF for mask in (effective, permitted, inheritable)))
        high = struct.pack("=III", *(mask >> 32 for mask in (effective, permitted, inheritable)))
        self._call("capset", (f"{permitted:#x}",), uapi.SYS_capset, header, low + high)

    def load_seccomp(self, program: bytes, flags: int) -> None:
        filters = _SockFprog(len(program) // 8, program)
        self._call(
            "seccomp", (f"{len(program) // 8} instructions",),
            uapi.SYS_seccomp, uapi.SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(filters),
        )  # fmt: skip

    def bpf(self, command: int, attributes: bytes) -> int:
        buffer = ctypes.create_string_buffer(attributes, len(attributes))
        return self._call("bpf", (command,), uapi.SYS_bpf, command, buffer, len(attributes))

    def filesystem_type(self, descriptor: int) -> int:
        """`f_type` of fstatfs(2): its first word on both machines."""
        buffer = ctypes.create_string_buffer(256)
        self._check("fstatfs", (descriptor,), self._libc.fstatfs(descriptor, buffer))
        return int.from_bytes(buffer.raw[:8], "little")

    # ------------------------------------------------------------------------------------------------------------

    def _call(self, name: str, shown: tuple[object, ...], number: int, *arguments: object) -> int:
        return self._check(name, shown, self._syscall(number, *arguments))

    @staticmethod
    def _check(name: str, shown: tuple[object, ...], result: int) -> int:
        if result < 0:
            raise KernelError(ctypes.get_errno(), name, *shown)
        return result


def _python(call: str, shown: str, act: Callable[[], object]) -> None:
    """Run a call that Python itself offers, with its error in this module's form."""
    try:
        act()
    except OSError as error:
        raise KernelError(error.errno or 0, call, shown) from None


def _mount_log(context: int) -> str:
    """What the kernel says about a failed fsconfig(2): messages are read from the context, one a read."""
    messages: list[str] = []
    while True:
        try:
            raw = os.read(context, 4096)
        except OSError:  # ENODATA: no more messages
            return "; ".join(messages)
        messages.append(raw.decode(errors="replace").strip().removeprefix("e ").removeprefix("w "))


def kernel_release() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    major, minor = platform.release().split(".")[:2]
    return int(major), int("".join(character for character in minor if character.isdigit()) or "0")
