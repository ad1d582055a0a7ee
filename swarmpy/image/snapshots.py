"""Snapshots: the writable top that a container has on the layers of its image.

Owns    `snapshots/<key>/` with `upper` and `work`. The extended attribute `trusted.swarmpy.top` of the directory names
        the chain id of the layers below it, and is set last: what lacks it is a snapshot that was never finished.
        Nothing is mounted here: the runtime mounts the overlay inside the container's own mount namespace.
Law     A snapshot keeps its layers: as long as it exists none of them is deleted, whatever becomes of the image.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from swarmpy.errors import Conflict, Internal, InvalidArgument
from swarmpy.image.digest import Digest, parse_digest
from swarmpy.image.durable import Trash

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["OverlaySnapshotter", "RootFS", "Snapshotter"]

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_TOP = "trusted.swarmpy.top"
LOWER_LIMIT = 499
"""The kernel stacks 500 lower layers in one overlay (OVL_MAX_STACK in fs/overlayfs/params.h); one may lie beneath."""


@dataclass(frozen=True, slots=True)
class RootFS:
    """What an overlay mount needs. All of `lower` share one parent directory."""

    lower: tuple[Path, ...]
    """Topmost first. At least one."""
    upper: Path
    work: Path


class Snapshotter(Protocol):
    """How images become root file systems. All of it blocks; call it in a thread."""

    def prepare(self, key: str, top: Digest | None, lower: list[Path]) -> RootFS:
        """A writable snapshot on `lower`, whose topmost chain id is `top` (None: no layers). Once for each key.

        It is not synced: who keeps a record of the key does that. One that is lost with the power before was empty.
        """

    def find(self, key: str, top: Digest | None, lower: list[Path]) -> RootFS | None:
        """What `prepare` made, or None. Answers from memory, and raises as `prepare` does."""

    def release(self, key: str) -> bool:
        """The snapshot and what was written into it are gone. False when there was none."""

    def tops(self) -> dict[str, Digest | None]:
        """The chain id under each snapshot, by key. Answers from memory."""


class OverlaySnapshotter:
    """Snapshots for overlayfs. One thread at a time for one key."""

    def __init__(self, root: Path, trash: Trash) -> None:
        self._root = root / "snapshots"
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._trash = trash
        self._tops: dict[str, Digest | None] = {}
        self._recover()

    def prepare(self, key: str, top: Digest | None, lower: list[Path]) -> RootFS:
        """See `Snapshotter`. Raises InvalidArgument, or Conflict when the key belongs to another image's snapshot."""
        if not _KEY.fullmatch(key):
            raise InvalidArgument(f"snapshot key {key!r} may have letters, digits, _ . - and begins with no sign")
        if len(lower) > LOWER_LIMIT:
            raise InvalidArgument(f"the image has {len(lower)} layers; overlayfs stacks {LOWER_LIMIT} at most")
        if (found := self.find(key, top, lower)) is not None:
            return found
        place = self._root / key
        rootfs = self._rootfs(key, lower)
        place.mkdir(mode=0o700)
        rootfs.work.mkdir(mode=0o700)
        _like(rootfs.upper, lower[0])
        os.setxattr(place, _TOP, (top or "").encode())
        self._tops[key] = top
        return rootfs

    def find(self, key: str, top: Digest | None, lower: list[Path]) -> RootFS | None:
        """See `Snapshotter`."""
        if key not in self._tops:
            return None
        if (known := self._tops[key]) != top:
            raise Conflict(f"snapshot {key} exists already, on layer {known} and not {top}; release it first")
        return self._rootfs(key, lower)

    def _rootfs(self, key: str, lower: list[Path]) -> RootFS:
        place = self._root / key
        return RootFS(tuple(lower), place / "upper", place / "work")

    def release(self, key: str) -> bool:
        """See `Snapshotter`. The space is given back when the trash is emptied."""
        if key not in self._tops:
            return False
        del self._tops[key]
        self._trash.throw(self._root / key)
        return True

    def tops(self) -> dict[str, Digest | None]:
        """See `Snapshotter`."""
        return dict(self._tops)

    def _recover(self) -> None:
        for entry in os.scandir(self._root):
            try:
                top = os.getxattr(entry.path, _TOP).decode()
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise
                self._trash.throw(entry.path)
                continue
            try:
                self._tops[entry.name] = parse_digest(top) if top else None
            except InvalidArgument as error:
                raise Internal(f"{_TOP} of snapshot {entry.path} is damaged: {error}; remove its container") from error


def _like(path: Path, model: Path) -> None:
    """A new directory with owner and mode of another: the upper's root is what a container sees as its `/`."""
    status = model.stat()
    path.mkdir(mode=0o700)
    os.chown(path, status.st_uid, status.st_gid)
    path.chmod(stat.S_IMODE(status.st_mode))
