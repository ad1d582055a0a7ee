"""Waking up when a file changes: one inotify(7) instance for the whole engine.

Owns    the descriptor and the watches on directories. A user may have few instances (`fs.inotify.max_user_instances`),
        so all followers of logs share this one.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swarmpy.errors import Internal

__all__ = ["DirectoryWatcher"]

_libc = ctypes.CDLL(None, use_errno=True)
_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE, _IN_IGNORED = 0x2, 0x80, 0x100, 0x8000
_EVENT = struct.Struct("iIII")  # struct inotify_event: wd, mask, cookie, len; then len bytes of name


class DirectoryWatcher:
    """Tells when something is written to, created in or renamed into a directory."""

    def __init__(self) -> None:
        self._descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            reason = os.strerror(ctypes.get_errno())
            raise Internal(f"inotify_init1 failed: {reason}; see fs.inotify.max_user_instances")
        self._watches: dict[int, tuple[Path, set[asyncio.Event]]] = {}
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def close(self) -> None:
        """All watches end; those that wait are woken."""
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        for _, events in self._watches.values():
            for event in events:
                event.set()
        self._watches.clear()

    @contextmanager
    def watching(self, directory: Path) -> Iterator[asyncio.Event]:
        """An event that is set whenever `directory` changes, until the block ends. The waiter clears it."""
        mask = _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE
        number = _libc.inotify_add_watch(self._descriptor, os.fsencode(directory), ctypes.c_uint32(mask))
        if number < 0:
            code = ctypes.get_errno()
            raise Internal(f"{directory} cannot be watched: {os.strerror(code)}; see fs.inotify.max_user_watches")
        event = asyncio.Event()
        _, events = self._watches.setdefault(number, (directory, set()))
        events.add(event)
        try:
            yield event
        finally:
            events.discard(event)
            if not events and self._watches.pop(number, None) is not None:
                _libc.inotify_rm_watch(self._descriptor, number)

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size + length
            found = self._watches.get(number)
            if found is None:
                continue
            for event in found[1]:
                event.set()
            if mask & _IN_IGNORED:
                del self._watches[number]
