"""The two system calls that layer work needs and Python's `os` lacks.

Owns    openat2(2) and syncfs(2), through libc.
"""

from __future__ import annotations

import ctypes
import errno
import os

__all__ = ["open_in_root", "sync_filesystem"]

_SYS_OPENAT2 = 437
"""The same on every architecture: openat2 came after the tables were unified (arch/*/kernel/syscalls, Linux 5.6)."""

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10


class _OpenHow(ctypes.Structure):
    """`struct open_how { __u64 flags; __u64 mode; __u64 resolve; }` of include/uapi/linux/openat2.h, 24 bytes."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def open_in_root(root_fd: int, path: bytes, flags: int) -> int:
    """Open `path` as if `root_fd` were `/`: neither `..`, nor a symbolic link, nor a magic link leads out of it.

    The descriptor is close-on-exec and the caller's to close. Raises OSError. Source  openat2(2), RESOLVE_IN_ROOT.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    for _ in range(128):
        fd: int = _syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(root_fd),
            ctypes.c_char_p(path or b"."),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        # EAGAIN: a rename somewhere on the system ran at the same time, so `..` is not certain (openat2(2)).
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), os.fsdecode(path))


def sync_filesystem(fd: int) -> None:
    """Everything written to the file system that holds `fd` is on disk. Raises OSError. Source  syncfs(2)."""
    if _libc.syncfs(ctypes.c_int(fd)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "syncfs")
