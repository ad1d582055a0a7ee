"""The layer beneath the layers of every image: places for the mounts that nearly all containers have.

A container of an image without them would make each of them in its own layer, which costs a disk more than all the
rest of a short life. What the image has at the same place is above, and is what the container sees.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["DIRECTORIES", "FILES", "MARK", "lay_ground"]

MARK = ".dockerenv"
"""An empty file by which programs know that they are in a container."""

DIRECTORIES = ("dev", "etc", "proc", "sys")
FILES = ("etc/hostname", "etc/hosts", "etc/resolv.conf")


def lay_ground(path: Path) -> None:
    """The layer is at `path`, whole, whatever was there of it before."""
    for directory in (path, *(path / name for name in DIRECTORIES)):
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
    for name, mode in ((MARK, 0o755), *((name, 0o644) for name in FILES)):
        (path / name).touch()
        (path / name).chmod(mode)
