"""The kernel's side of a cgroup: its files, and the program that v2 asks about devices."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import Protocol

from swarmpy.runtime.cgroups.device_attachment import attach
from swarmpy.runtime.cgroups.write import Read, Write
from swarmpy.runtime.failure import FailureKind, RuntimeFailure, describe

__all__ = ["CgroupFiles", "HostFiles", "carry_out", "poll", "reader"]

MISSING = (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP)
"""The file is not there, its cgroup is gone, or the controller is there but not for this cgroup."""


class CgroupFiles(Protocol):
    """The operations of a cgroup mount. Errors are OSErrors."""

    def make(self, path: str) -> None: ...
    def remove(self, path: str) -> None: ...
    def read(self, path: str) -> str: ...
    def write(self, path: str, text: str) -> None: ...
    def exists(self, path: str) -> bool: ...
    def children(self, path: str) -> list[str]: ...
    def attach(self, path: str, program: bytes, previous: int | None) -> int: ...


class HostFiles:
    """The kernel's own."""

    def make(self, path: str) -> None:
        os.mkdir(path, 0o755)

    def remove(self, path: str) -> None:
        os.rmdir(path)

    def read(self, path: str) -> str:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            while part := os.read(descriptor, 65536):
                parts.append(part)
            return b"".join(parts).decode()
        finally:
            os.close(descriptor)

    def write(self, path: str, text: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)

    def exists(self, path: str) -> bool:
        return os.access(path, os.F_OK)

    def children(self, path: str) -> list[str]:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]

    def attach(self, path: str, program: bytes, previous: int | None) -> int:
        """The device program of `path` is `program`, in place of `previous`. Returns its descriptor."""
        return attach(path, program, previous)


def reader(files: CgroupFiles, directory: str) -> Read:
    """Reads files of `directory` by name."""

    def read(name: str) -> str | None:
        try:
            return files.read(f"{directory}/{name}")
        except OSError as error:
            if error.errno in MISSING:
                return None
            raise RuntimeFailure(f"read {directory}/{name}: {describe(error)}") from None

    return read


def carry_out(files: CgroupFiles, write: Write, directory: str) -> None:
    """`write`, in `directory`. The failure names the field of the bundle that wanted it."""
    path = f"{directory}/{write.file}"
    try:
        files.write(path, write.text)
    except FileNotFoundError:
        raise RuntimeFailure(f"{write.field}: this kernel has no {write.file}", FailureKind.INVALID) from None
    except OSError as error:
        raise RuntimeFailure(f"{write.field}: write {write.text!r} to {path}: {describe(error)}") from None


def poll(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether the condition came true in time. The kernel offers nothing to wait on here."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.0002
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.02)
    return True
