"""Docker's json-file log: one JSON object a line, rotated by size.

Owns    a container's log file and its older ones (`log.1` is the newest of them). `LineSplitter` is pure, `JsonLog`
        writes.
Laws    A line of output is one entry with its newline; a longer one than 16 KiB is several, of which only the last
        has the newline. Bytes that are not UTF-8 become U+FFFD, never an error. A character is not cut in two.
Source  Docker's "JSON File logging driver": {"log", "stream", "attrs", "time"}; options max-size and max-file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from itertools import pairwise
from json.encoder import encode_basestring

__all__ = ["MAX_ENTRY", "JsonLog", "LineSplitter"]

MAX_ENTRY = 16 * 1024


class LineSplitter:
    """Cuts one stream into log entries."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The entries that are whole after `data`."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        entries = []
        for line in lines:
            if len(line) > MAX_ENTRY:
                pieces, line = _cut(line)
                entries += pieces
            entries.append(line + b"\n")
        if len(self._rest) > MAX_ENTRY:
            pieces, self._rest = _cut(self._rest)
            entries += pieces
        return entries

    def finish(self) -> list[bytes]:
        """What is left when the stream ends, without a newline."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


def _cut(line: bytes) -> tuple[list[bytes], bytes]:
    """Pieces of at most MAX_ENTRY, and what is left over. Cuts before the first byte of a UTF-8 character."""
    pieces = []
    while len(line) > MAX_ENTRY:
        end = MAX_ENTRY
        while end > MAX_ENTRY - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
        if line[end] & 0xC0 == 0x80:  # no UTF-8 at all
            end = MAX_ENTRY
        pieces.append(line[:end])
        line = line[end:]
    return pieces, line


class JsonLog:
    """Appends entries to `path`. With `max_size` bytes reached the file is rotated; `max_files` counts the live one.

    Every entry carries `attributes`.
    """

    def __init__(
        self, path: str, max_size: int | None, max_files: int, attributes: Mapping[str, str] | None = None
    ) -> None:
        self._path = path
        self._max_size = max_size
        self._max_files = max(max_files, 1)
        self._attributes = f',"attrs":{json.dumps(dict(attributes))}' if attributes else ""
        self._splitters = {"stdout": LineSplitter(), "stderr": LineSplitter()}
        self._second = -1
        self._second_text = ""
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o640)
        self._size = os.fstat(self._descriptor).st_size

    def write(self, stream: str, data: bytes, now_ns: int) -> None:
        self._append(stream, self._splitters[stream].feed(data), now_ns)

    def finish(self, now_ns: int) -> None:
        """Write what has no newline yet, and close."""
        for stream, splitter in self._splitters.items():
            self._append(stream, splitter.finish(), now_ns)
        os.close(self._descriptor)

    def _append(self, stream: str, entries: list[bytes], now_ns: int) -> None:
        if not entries:
            return
        tail = f',"stream":"{stream}"{self._attributes},"time":"{self._timestamp(now_ns)}"}}\n'
        batch: list[str] = []
        size = 0
        for entry in entries:
            text = f'{{"log":{encode_basestring(entry.decode(errors="replace"))}{tail}'
            if self._max_size is not None and self._size + size >= self._max_size:
                self._flush(batch)
                self._rotate()
                batch, size = [], 0
            batch.append(text)
            size += len(text)
        self._flush(batch)

    def _flush(self, batch: list[str]) -> None:
        data = "".join(batch).encode()
        self._size += len(data)
        while data:
            data = data[os.write(self._descriptor, data) :]

    def _rotate(self) -> None:
        """A file that is full is never written again: who follows it reads it to its end and finds the next."""
        os.close(self._descriptor)
        names = [self._path, *(f"{self._path}.{number}" for number in range(1, self._max_files))]
        try:
            os.unlink(names[-1])
        except FileNotFoundError:
            pass  # there are not so many yet
        for newer, older in reversed(list(pairwise(names))):
            try:
                os.replace(newer, older)
            except FileNotFoundError:
                continue
        self._open()

    def _timestamp(self, now_ns: int) -> str:
        """RFC 3339 in UTC with nine digits."""
        second, rest = divmod(now_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{rest:09d}Z"
