"""Looking into a container's root file system from outside, without ever leaving it.

Owns    the ways in: of a running container `/proc/<pid>/root`, or its root mount alone; of one that does not run an
        overlay that is mounted nowhere (fsmount(2) gives a descriptor; the mount ends with it). Every path is resolved
        by openat2(2) with RESOLVE_IN_ROOT, so symbolic links in the container point into the container.
Source  fsopen(2), fsmount(2), open_tree(2), openat2(2); overlayfs.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from swarmpy.errors import Conflict, Internal
from swarmpy.runtime import RuntimeFailure
from swarmpy.runtime.kernel import LinuxKernel
from swarmpy.runtime.overlay import mount_overlay

__all__ = [
    "bare_root", "directory_root", "mounted_overlay", "open_in_root", "read_text", "running_root", "writable_overlay",
]  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

# asm-generic numbers, the same on every architecture since Linux 5.2
_SYS_OPEN_TREE, _SYS_OPENAT2 = 428, 437
_OPEN_TREE_CLONE, _AT_FDCWD = 0x1, -100
_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV, _MOUNT_ATTR_NOEXEC = 0x1, 0x2, 0x4, 0x8
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10


class _OpenHow(ctypes.Structure):
    """struct open_how, linux/openat2.h, 24 bytes."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def _call(number: int, *arguments: object) -> int:
    return _checked(int(_libc.syscall(ctypes.c_long(number), *arguments)))


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


@contextmanager
def mounted_overlay(layers: Sequence[Path]) -> Iterator[int]:
    """A descriptor of the root of a read-only overlay of `layers`, the top one first. Nothing is mounted afterwards.

    The container's writable layer goes first. It must not be mounted elsewhere as an upper layer meanwhile, so this is
    for containers that do not run.
    """
    if len(layers) == 1:
        with directory_root(layers[0]) as descriptor:
            yield descriptor
        return
    attributes = _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV | _MOUNT_ATTR_NOEXEC
    root = _overlay(layers, None, attributes)
    try:
        yield root
    finally:
        os.close(root)


@contextmanager
def writable_overlay(lower: Sequence[Path], upper: Path, work: Path) -> Iterator[int]:
    """As `mounted_overlay`, and what is written goes to `upper`. For containers that do not run."""
    root = _overlay(lower, (upper, work), _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV | _MOUNT_ATTR_NOEXEC)
    try:
        yield root
    finally:
        os.close(root)


@contextmanager
def directory_root(path: Path) -> Iterator[int]:
    """A descriptor of a directory of the host, as a root."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _overlay(lower: Sequence[Path], writable: tuple[Path, Path] | None, attributes: int) -> int:
    """A descriptor of an overlay that is mounted nowhere."""
    paths = [str(path) for path in lower]
    above = None if writable is None else (str(writable[0]), str(writable[1]))

    def mount() -> int:
        _checked(_libc.unshare(_CLONE_FS))
        return mount_overlay(LinuxKernel(), paths, above, attributes=attributes)

    try:
        return _in_own_thread(mount, "overlay")
    except (OSError, RuntimeFailure) as error:
        raise Internal(f"a root file system of {', '.join(paths)} cannot be looked into: {error}") from error


def _in_own_thread(work: Callable[[], int], name: str) -> int:
    """What `work` returns or raises; it may change what a thread has of its own, as the thread ends with it."""
    outcome: list[int | Exception] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # noqa: BLE001 - raised below, where its reader is
            outcome.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()
    result = outcome[0]
    if isinstance(result, Exception):
        raise result
    return result


@contextmanager
def running_root(pid: int) -> Iterator[int]:
    """A descriptor of the root that process `pid` sees, with all its mounts; `Conflict` when it has ended."""
    try:
        descriptor = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise Conflict("the container has just ended") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def bare_root(pid: int) -> Iterator[int]:
    """A descriptor of the root file system of process `pid` without what is mounted into it; `Conflict` as above.

    A mount can only be copied from within its namespace (open_tree(2)), and one thread can go there alone if it shares
    its root directory with no other (setns(2)). It does not come back.
    """
    try:
        copied = _in_own_thread(lambda: _copy_of_root(pid), f"root of {pid}")
    except (FileNotFoundError, ProcessLookupError) as error:
        raise Conflict("the container has just ended") from error
    except OSError as error:
        raise Internal(f"the root file system of process {pid} cannot be looked into: {error}") from error
    try:
        yield copied
    finally:
        os.close(copied)


def _copy_of_root(pid: int) -> int:
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.unshare(_CLONE_FS))
        _checked(_libc.setns(namespace, _CLONE_NEWNS))
        return _call(
            _SYS_OPEN_TREE, ctypes.c_int(_AT_FDCWD), b"/", ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC)
        )
    finally:
        os.close(namespace)


def open_in_root(root: int, path: str, flags: int = os.O_RDONLY, mode: int = 0) -> int:
    """openat2(2): `path` as a process whose root is `root` would open it. The usual OSError when it is not there."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    return _call(
        _SYS_OPENAT2, ctypes.c_int(root), os.fsencode(path), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
    )


def read_text(root: int, path: str, limit: int = 1 << 20) -> str:
    """A small regular text file below `root`; "" when there is none. A device or pipe is never opened for reading."""
    try:
        place = open_in_root(root, path, os.O_PATH)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return ""
        raise
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            return ""
        with open(f"/proc/self/fd/{place}", "rb") as file:
            return file.read(limit).decode(errors="replace")
    finally:
        os.close(place)
