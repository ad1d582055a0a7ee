"""A disk that fails as disks do: what was written lies in the cache and, once synced, on the platter.

The files are real, and are the cache: a process that starts again finds what was written, whether or not a sync failed.
After `cut_power` they hold what the platter had.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

from swarmpy.manager.raft.files import DISK, File, Files

__all__ = ["SECTOR", "FaultyDisk", "PowerCut"]

SECTOR = 512
_MEANINGS = {errno.ENOSPC: "No space left on device", errno.EIO: "Input/output error"}


class PowerCut(BaseException):
    """Not an Exception: nothing on its way may think that it can go on."""


class FaultyDisk(Files):
    """`fault` is asked before each call, by name, whether it goes wrong: an errno, or one of those below, or 0 for no.

    Of a write that goes wrong any part may have reached the cache, and any sectors of that the platter. Of the
    changes of names that nobody has synced, any may survive a power cut.
    """

    POWER = -1    # the power is cut within the call
    SHORT = -2    # a write takes only the beginning
    LOST = -3     # a write fails, all of it is in the cache, and nothing on the platter

    def __init__(
        self, directory: Path, random: Random, fault: Callable[[str, Path], int] = lambda call, path: 0
    ) -> None:
        self.fault = fault
        self._directory = directory
        self._random = random
        self._is_off = False
        self._platter: list[bytearray] = []            # of each file that there ever was
        self._cached: dict[str, int] = {}              # names, and which file each is
        self._durable: dict[str, int] = {}             # the same as after a power cut
        self._unsynced: list[tuple[str, str, int]] = []    # changes of names: (new, old, file)
        for path in self._files():
            self._durable[path.name] = self._cached[path.name] = len(self._platter)
            self._platter.append(bytearray(path.read_bytes()))

    # The calls.

    def read(self, path: Path) -> bytes:
        self._raise_if(self._fault("read", path), path)
        return DISK.read(path)

    def open(self, path: Path) -> File:
        self._raise_if(self._fault("open", path), path)
        return DISK.open(path)

    def create(self, path: Path) -> File:
        self._raise_if(self._fault("create", path), path)
        file = DISK.create(path)
        self._cached[path.name] = len(self._platter)
        self._unsynced.append((path.name, "", len(self._platter)))
        self._platter.append(bytearray())
        return file

    def write(self, file: File, data: memoryview, at: int) -> int:
        wrong = self._fault("write", file.path)
        count = len(data)
        if wrong == self.SHORT:
            count = self._random.randint(1, count)
        elif wrong:
            cached = count if wrong == self.LOST else self._random.choice((0, count, self._random.randint(0, count)))
            os.pwrite(file.descriptor, data[:cached], at)
            if wrong != self.LOST and self._random.random() < 0.7:
                self._some_sectors(file, bytes(data[:cached]), at)
            self._raise_if(errno.EIO if wrong == self.LOST else wrong, file.path)
        os.pwrite(file.descriptor, data[:count], at)
        self._to_platter(file, bytes(data[:count]), at)
        return count

    def rename(self, old: Path, new: Path) -> None:
        wrong = self._fault("rename", old)
        if wrong in (0, self.POWER):
            DISK.rename(old, new)
            self._cached[new.name] = self._cached.pop(old.name)
            self._unsynced.append((new.name, old.name, self._cached[new.name]))
        self._raise_if(wrong, old)

    def unlink(self, path: Path) -> None:
        wrong = self._fault("unlink", path)
        if wrong in (0, self.POWER):
            DISK.unlink(path)
            self._cached.pop(path.name)
            self._unsynced.append(("", path.name, 0))
        self._raise_if(wrong, path)

    def sync_directory(self, directory: Path) -> None:
        self._raise_if(self._fault("sync", directory), directory)
        self._settle(self._unsynced)

    # Afterwards.

    def cut_power(self) -> FaultyDisk:
        """The cache is gone. Returns the disk as it is found when the power is back, with no fault."""
        self._settle([change for change in self._unsynced if self._random.random() < 0.5])
        for path in self._files():
            path.unlink()
        for name, number in self._durable.items():
            (self._directory / name).write_bytes(self._platter[number])
        return FaultyDisk(self._directory, self._random)

    def _files(self) -> list[Path]:
        return [path for path in self._directory.glob("*") if path.name != "lock"]

    def _fault(self, call: str, path: Path) -> int:
        if self._is_off:
            raise PowerCut
        return self.fault(call, path)

    def _raise_if(self, wrong: int, path: Path) -> None:
        if wrong == self.POWER:
            self._is_off = True
            raise PowerCut
        if wrong > 0:
            raise OSError(wrong, _MEANINGS[wrong], str(path))

    def _settle(self, changes: list[tuple[str, str, int]]) -> None:
        for new, old, number in changes:
            self._durable.pop(old, None)
            if new:
                self._durable[new] = number
        self._unsynced = []

    def _some_sectors(self, file: File, data: bytes, at: int) -> None:
        start = at
        while start < at + len(data):
            end = min(at + len(data), (start // SECTOR + 1) * SECTOR)
            if self._random.random() < 0.5:
                self._to_platter(file, data[start - at : end - at], start)
            start = end

    def _to_platter(self, file: File, data: bytes, at: int) -> None:
        platter = self._platter[self._cached[file.path.name]]
        platter.extend(bytes(max(0, at + len(data) - len(platter))))
        platter[at : at + len(data)] = data
