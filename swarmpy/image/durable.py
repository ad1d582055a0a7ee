"""Files that are whole after a crash, and trees that are gone for good.

Owns    the write-aside-and-rename sequence for small files, and the trash: a directory into which what must vanish is
        renamed in one step, and emptied afterwards.
"""

from __future__ import annotations

import itertools
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Trash", "replace_file", "sync_directory"]


def sync_directory(path: Path) -> None:
    """The names in `path` are on disk. Source  fsync(2), second paragraph of the description."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes) -> None:
    """`path` holds `data` with mode 0600; after a crash at any point it is all of the old or all of the new."""
    beside = path.with_name(f".{path.name}.new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_directory(path.parent)


class Trash:
    """A directory whose content nobody needs. Must be on the file system of what is thrown into it."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self._names = itertools.count()
        self._prefix = f"{os.getpid()}-{os.urandom(4).hex()}"

    def throw(self, name: str | bytes | Path, *, dir_fd: int | None = None) -> None:
        """`name` is gone from where it was; its space is given back by `empty`. Raises OSError."""
        os.rename(name, self._new_name(), src_dir_fd=dir_fd)

    def empty(self) -> None:
        """Delete all of it.

        Trees are flattened on the way, each directory renamed up into the trash before it is emptied, so that the
        depth a hostile layer can make costs neither stack nor descriptors, and no link is ever followed.
        """
        pending = [entry.path for entry in os.scandir(self.path)]
        while pending:
            path = pending.pop()
            try:
                is_directory = stat.S_ISDIR(os.lstat(path).st_mode)
            except FileNotFoundError:
                continue  # another `empty` runs at the same time
            if not is_directory:
                _unlink(path)
                continue
            pending += self._flatten(path)
            try:
                os.rmdir(path)  # noqa: PTH106 (strings: this loop visits every file)
            except FileNotFoundError:
                continue

    def _flatten(self, path: str) -> list[str]:
        raised: list[str] = []
        try:
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return raised
        try:
            with os.scandir(directory) as entries:
                found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            for name, is_directory in found:
                if is_directory:
                    target = self._new_name()
                    os.rename(name, target, src_dir_fd=directory)
                    raised.append(target)
                else:
                    _unlink(name, directory)
        finally:
            os.close(directory)
        return raised

    def _new_name(self) -> str:
        return f"{self.path}/{self._prefix}-{next(self._names)}"


def _unlink(name: str, dir_fd: int | None = None) -> None:
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return
