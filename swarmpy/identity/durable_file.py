"""Small files that are either the old or the new one after a crash, never half of each."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["remove_durably", "write_durably"]


def write_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `data`; on return it is on the disk. Nobody ever sees a part of it (rename(2), fsync(2)).

    Directories that are missing are made, open to their owner alone. Blocks: call it off the event loop.
    """
    for directory in reversed(path.parents):
        directory.mkdir(mode=0o700, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()                          # of a writer that died
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    _sync_directory(path.parent)


def remove_durably(path: Path) -> None:
    """On return `path` is gone, also after a crash. Nothing happens when it was not there."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
