"""The calls that a member's log makes to its disk, so that tests can pass in a disk that fails.

Laws    All of it blocks. What `write` was given is on the disk, synced, when it returns; a new name is durable once its
        directory is. Every failure is an OSError that names the file.
Source  pwritev2(2), RWF_DSYNC; rename(2); fsync(2), NOTES.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DISK", "File", "Files", "remove_unfinished", "replace", "write_all"]

_MODE = stat.S_IRUSR | stat.S_IWUSR
_UNFINISHED = ".new"


@dataclass(frozen=True, slots=True)
class File:
    """An open one; its owner closes it."""

    path: Path
    descriptor: int

    def close(self) -> None:
        os.close(self.descriptor)


class Files:
    """The operating system's."""

    def read(self, path: Path) -> bytes:
        with _naming(path):
            return path.read_bytes()

    def open(self, path: Path) -> File:
        """To be written to."""
        return File(path, os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))

    def create(self, path: Path) -> File:
        """Which must not be there yet."""
        return File(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE))

    def write(self, file: File, data: memoryview, at: int) -> int:
        """How many bytes of `data` are there now, durably: at least one."""
        with _naming(file.path):
            return os.pwritev(file.descriptor, [data], at, os.RWF_DSYNC)

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def sync_directory(self, directory: Path) -> None:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with _naming(directory):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


DISK = Files()


def write_all(files: Files, file: File, data: bytes, at: int) -> None:
    """Make all of `data` durable. Raises OSError; then any part of it may be."""
    rest = memoryview(data)
    while rest:
        written = files.write(file, rest, at)
        if written <= 0:
            raise OSError(errno.EIO, "the disk took nothing and gave no reason", str(file.path))
        rest = rest[written:]
        at += written


def replace(files: Files, path: Path, pieces: Iterable[bytes]) -> File:
    """Make `path` a file of these, end to end, durably and at once: a crash leaves the old one, or the new.

    Returns it open. Raises OSError; then either may be there.
    """
    remove_unfinished(files, path)    # of a writer that died
    unfinished = _unfinished(path)
    file = files.create(unfinished)
    try:
        at = 0
        for piece in pieces:
            write_all(files, file, piece, at)
            at += len(piece)
        files.rename(unfinished, path)
        files.sync_directory(path.parent)
    except BaseException:
        file.close()
        raise
    return File(path, file.descriptor)


def remove_unfinished(files: Files, path: Path) -> None:
    """Remove what a `replace` of `path` that failed has left. Raises OSError."""
    if _unfinished(path).exists():
        files.unlink(_unfinished(path))


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + _UNFINISHED)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """The kernel does not say which file a call on a descriptor was about."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
