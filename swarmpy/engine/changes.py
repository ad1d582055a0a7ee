"""What a container changed in its root file system: `docker diff`.

Owns    the reading of an overlay's writable layer: a character device 0:0 is a whiteout, a directory with the xattr
        "opaque" hides what was below it.
Source  overlayfs.rst, "whiteouts and opaque directories"; Docker Engine API, `GET /containers/{id}/changes`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swarmpy.engine.rootfs import open_in_root

__all__ = ["ADDED", "DELETED", "MODIFIED", "changes"]

MODIFIED, ADDED, DELETED = 0, 1, 2
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


def changes(upper: Path, lower_root: int) -> list[dict[str, Any]]:
    """FilesystemChange for each path that differs from the image, parents first. `lower_root` is the image's root."""
    return [{"Path": path, "Kind": kind} for path, kind in _walk(upper, "", lower_root)]


def _walk(directory: Path, at: str, lower_root: int) -> Iterator[tuple[str, int]]:
    for entry in sorted(os.scandir(directory), key=lambda item: item.name):
        path = f"{at}/{entry.name}"
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            yield path, DELETED
            continue
        was_there = _exists(lower_root, path)
        yield path, MODIFIED if was_there else ADDED
        if stat.S_ISDIR(status.st_mode):
            if was_there and _is_opaque(entry.path):
                yield from _hidden(lower_root, path, Path(entry.path))
            yield from _walk(Path(entry.path), path, lower_root)


def _hidden(lower_root: int, path: str, upper: Path) -> Iterator[tuple[str, int]]:
    """What the image has in a directory that was made anew."""
    descriptor = open_in_root(lower_root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        names = sorted(os.listdir(descriptor))  # noqa: PTH208 (by descriptor)
    finally:
        os.close(descriptor)
    for name in names:
        if not os.path.lexists(upper / name):
            yield f"{path}/{name}", DELETED


def _exists(root: int, path: str) -> bool:
    try:
        os.close(open_in_root(root, path, os.O_PATH | os.O_NOFOLLOW))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _is_opaque(path: str) -> bool:
    for name in _OPAQUE:
        try:
            if os.getxattr(path, name, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return False
