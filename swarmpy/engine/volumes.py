"""Volumes of the "local" driver: directories of this host that outlive containers.

Owns    `<data>/volumes/<name>/`: `volume.json` and `_data`, what containers see. A volume that is empty when a
        container first uses it gets what the image has at that place.
Source  Docker Engine API, paths under /volumes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarmpy.engine.filters import Filters
from swarmpy.engine.record import replace_file
from swarmpy.engine.times import format_rfc3339
from swarmpy.errors import Conflict, InvalidArgument, NotFound, NotSupported

__all__ = ["Volume", "Volumes", "check_driver", "check_name", "copy_tree"]

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
ANONYMOUS = "com.docker.volume.anonymous"


@dataclass(frozen=True)
class Volume:
    """One volume."""

    name: str
    mountpoint: Path
    created_ns: int
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def anonymous(self) -> bool:
        """Made for one container, without a name."""
        return ANONYMOUS in self.labels

    def to_json(self) -> dict[str, Any]:
        """Volume, as the API shows it."""
        return {
            "CreatedAt": format_rfc3339(self.created_ns, digits=0), "Driver": "local", "Labels": dict(self.labels),
            "Mountpoint": str(self.mountpoint), "Name": self.name, "Options": {}, "Scope": "local",
        }  # fmt: skip


def check_name(name: str) -> None:
    """`InvalidArgument` for what cannot name a volume."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f'"{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are '
            "allowed. If you intended to pass a host directory, use absolute path"
        )


def check_driver(driver: str, options: Mapping[str, str]) -> None:
    """`NotSupported` for every driver but "local", and for options of that one."""
    if driver not in ("", "local"):
        raise NotSupported(f"volume driver '{driver}' is not supported; use local")
    if options:
        raise NotSupported(f"options {', '.join(sorted(options))} of the volume driver local are not supported")


class Volumes:
    """The volumes of this host. Methods touch the disk: call them off the event loop, and hold `turn` meanwhile."""

    def __init__(self, root: Path, clock: Callable[[], int]) -> None:
        self.turn = asyncio.Lock()
        self._root = root
        self._clock = clock
        self._volumes: dict[str, Volume] = {}

    def load(self) -> None:
        """Read what is on disk; what was never completely made is removed."""
        self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
        for directory in filter(Path.is_dir, self._root.iterdir()):
            described = directory / "volume.json"
            if not described.exists():
                shutil.rmtree(directory)
                continue
            data = json.loads(described.read_bytes())
            self._volumes[data["name"]] = Volume(
                data["name"], directory / "_data", data["created_ns"], data["labels"]
            )

    def create(
        self,
        name: str = "",
        *,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Volume:
        """The volume of that name, made if it is not there; an empty name makes one with a name of its own."""
        check_driver(driver, options or {})
        if name:
            check_name(name)
        if name in self._volumes:
            return self._volumes[name]
        given = dict(labels or {})
        if not name:
            name = secrets.token_hex(32)
            given[ANONYMOUS] = ""
        directory = self._root / name
        volume = Volume(name, directory / "_data", self._clock(), given)
        volume.mountpoint.mkdir(parents=True, mode=0o755, exist_ok=True)
        directory.chmod(0o711)
        described = {"name": name, "created_ns": volume.created_ns, "labels": given}
        replace_file(directory / "volume.json", json.dumps(described).encode())
        self._volumes[name] = volume
        return volume

    def __contains__(self, name: str) -> bool:
        return name in self._volumes

    def get(self, name: str) -> Volume:
        """`NotFound` when there is none."""
        if name not in self._volumes:
            raise NotFound(f"get {name}: no such volume")
        return self._volumes[name]

    def matching(self, filters: Filters, in_use: Container[str]) -> list[Volume]:
        """Volumes that pass the filters `dangling`, `driver`, `label` and `name`, by name."""
        dangling = filters.flag("dangling")

        def passes(volume: Volume) -> bool:
            return (
                filters.any("name", lambda part: part in volume.name)
                and filters.any("driver", lambda driver: driver == "local")
                and filters.labels_match("label", volume.labels)
                and (dangling is None or dangling == (volume.name not in in_use))
            )

        return sorted(filter(passes, self._volumes.values()), key=lambda volume: volume.name)

    def remove(self, name: str, in_use: Mapping[str, list[str]], *, force: bool = False) -> None:
        """The volume and what is in it are gone. `Conflict` while a container has it; `NotFound` unless `force`."""
        if name not in self._volumes:
            if force:
                return
            raise NotFound(f"get {name}: no such volume")
        if name in in_use:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(in_use[name])}]")
        directory = self._root / name
        del self._volumes[name]
        (directory / "volume.json").unlink()
        shutil.rmtree(directory)

    def prune(self, filters: Filters, in_use: Mapping[str, list[str]]) -> tuple[list[str], int]:
        """Remove unused volumes (anonymous ones only, unless the filter `all` is set): their names, bytes freed."""
        everything = filters.flag("all") or False
        removed, freed = [], 0
        for volume in list(self._volumes.values()):
            if volume.name in in_use or not (everything or volume.anonymous):
                continue
            if not filters.labels_match("label", volume.labels):
                continue
            freed += tree_size(volume.mountpoint)
            self.remove(volume.name, in_use)
            removed.append(volume.name)
        return removed, freed


def tree_size(root: Path) -> int:
    """Bytes of the regular files below `root`, each counted once. Files may come and go meanwhile."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for directory, _, files in os.walk(root):
        for name in files:
            try:
                status = os.lstat(os.path.join(directory, name))  # noqa: PTH118 (one call for each file)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_size
    return total


def copy_tree(source: Path, target: Path) -> None:
    """Copy what is in the directory `source` into `target`, owners, modes, times and xattrs too; links stay links."""
    _copy_attributes(source, target)
    for entry in os.scandir(source):
        to = target / entry.name
        origin = Path(entry.path)
        if entry.is_symlink():
            to.symlink_to(origin.readlink())
            os.lchown(to, *_owner(origin))
        elif entry.is_dir(follow_symlinks=False):
            to.mkdir()
            copy_tree(origin, to)
        elif entry.is_file(follow_symlinks=False):
            shutil.copyfile(origin, to)
            _copy_attributes(origin, to)


def _owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def _copy_attributes(source: Path, target: Path) -> None:
    os.chown(target, *_owner(source))
    shutil.copystat(source, target)
