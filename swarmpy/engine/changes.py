"""What a container changed in its root file system: `docker diff`.

Owns    the reading of an overlay's writable layer: a character device 0:0 is a whiteout, a directory with the xattr
        "opaque" hides what was below it. The container goes on writing meanwhile: the layer is read by descriptors, and
        no link in it is followed.
Law     What the engine itself put there is no change: places for its mounts, and the mark of a container.
Source  overlayfs.rst, "whiteouts and opaque directories"; Docker Engine API, `GET /containers/{id}/changes`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swarmpy.engine.ground import DIRECTORIES, FILES, MARK
from swarmpy.engine.rootfs import directory_root, open_in_root

__all__ = ["ADDED", "DELETED", "MODIFIED", "changes"]

MODIFIED, ADDED, DELETED = 0, 1, 2

_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_OWN_FILES = frozenset(f"/{name}" for name in (MARK, *FILES))
_OWN_DIRECTORIES = frozenset(f"/{name}" for name in DIRECTORIES)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Change = tuple[str, int]


def changes(upper: Path, lower_root: int) -> list[dict[str, Any]]:
    """FilesystemChange for each path that differs from the image, parents first. `lower_root` is the image's root."""
    with directory_root(upper) as root:
        descriptor = os.open(".", _DIRECTORY, dir_fd=root)
    try:
        return [{"Path": path, "Kind": kind} for path, kind in _walk(descriptor, "", lower_root)]
    finally:
        os.close(descriptor)


def _walk(directory: int, at: str, lower_root: int) -> Iterator[Change]:
    """The changes below one directory of the layer, which is open."""
    for name in sorted(os.listdir(directory)):
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue  # the container has just removed it
        path = f"{at}/{name}"
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            yield path, DELETED
            continue
        before = _status(lower_root, path)
        below = list(_below(directory, name, path, lower_root, was_there=before is not None)) if _is_dir(status) else []
        if not _is_ours(path, status, before, below):
            yield path, ADDED if before is None else MODIFIED
        yield from below


def _below(directory: int, name: str, path: str, lower_root: int, *, was_there: bool) -> Iterator[Change]:
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):
        return  # the container has put something else there
    try:
        if was_there and _is_opaque(descriptor):
            yield from _hidden(lower_root, path, descriptor)
        yield from _walk(descriptor, path, lower_root)
    finally:
        os.close(descriptor)


def _is_ours(path: str, status: os.stat_result, before: os.stat_result | None, below: list[Change]) -> bool:
    """Whether it is there only because the engine needed a place for a mount."""
    if path in _OWN_FILES:
        return before is None and stat.S_ISREG(status.st_mode) and status.st_size == 0
    if path not in _OWN_DIRECTORIES or below:
        return False
    return before is None or _rights(before) == _rights(status)


def _rights(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mode, status.st_uid, status.st_gid


def _is_dir(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode)


def _hidden(lower_root: int, path: str, upper: int) -> Iterator[Change]:
    """What the image has in a directory that was made anew."""
    try:
        descriptor = open_in_root(lower_root, path, _DIRECTORY)
    except NotADirectoryError:
        return
    try:
        names = sorted(os.listdir(descriptor))  # noqa: PTH208 (by descriptor)
    finally:
        os.close(descriptor)
    kept = set(os.listdir(upper))
    for name in names:
        if name not in kept:
            yield f"{path}/{name}", DELETED


def _status(root: int, path: str) -> os.stat_result | None:
    try:
        descriptor = open_in_root(root, path, os.O_PATH | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _is_opaque(descriptor: int) -> bool:
    for name in _OPAQUE:
        try:
            if os.getxattr(descriptor, name) == b"y":
                return True
        except OSError:
            continue
    return False
