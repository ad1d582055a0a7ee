"""Reading what a container wrote: the json-file log that its shim appends to and rotates.

Owns    tail (from the end, without reading the rest), since and until, and following across rotation. Entries are lines
        `{"log": "text\\n", "stream": "stdout", "time": RFC 3339}`; the newest file is `path`, older ones `path.1`, …
Source  Docker Engine API, `GET /containers/{id}/logs`; the json-file format is Docker's.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from swarmpy.engine.times import parse_rfc3339

__all__ = ["LogLine", "LogOptions", "follow", "read_files", "tail_position"]

_BLOCK = 1 << 16
_BATCH = 256


@dataclass(frozen=True)
class LogOptions:
    """What of the log is wanted. `tail` is a number of entries, None is all; times are Unix nanoseconds."""

    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    since_ns: int | None = None
    until_ns: int | None = None
    tail: int | None = None


@dataclass(frozen=True)
class LogLine:
    """One entry. `data` ends with a newline unless the process wrote none, or the entry is a part of a long line."""

    stream: str
    time_ns: int
    data: bytes


def parse_entry(line: bytes) -> LogLine | None:
    """The entry on one line of the file; None for a line that a crash cut short."""
    try:
        entry = json.loads(line)
        return LogLine(entry.get("stream", "stdout"), parse_rfc3339(entry["time"]), entry["log"].encode())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def read_files(path: Path) -> list[Path]:
    """The files of the log that exist, oldest first."""
    files = [path] if path.exists() else []
    number = 1
    while (rotated := path.with_name(f"{path.name}.{number}")).exists():
        files.append(rotated)
        number += 1
    return files[::-1]


def tail_position(files: list[Path], wanted: int, accepts: Callable[[LogLine], bool]) -> tuple[int, int]:
    """Where the last `wanted` accepted entries begin: an index into `files` and an offset.

    Reads blocks backwards from the end, as many as the entries take and no more.
    """
    if wanted <= 0:
        return (len(files) - 1, files[-1].stat().st_size) if files else (0, 0)
    left = wanted
    for index in range(len(files) - 1, -1, -1):
        with files[index].open("rb") as file:
            for offset, line in _lines_backwards(file):
                entry = parse_entry(line)
                if entry is not None and accepts(entry):
                    left -= 1
                    if left == 0:
                        return index, offset
    return 0, 0


def _lines_backwards(file: BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Whole lines from the last to the first, each with its offset. An unfinished last line is left out."""
    position = file.seek(0, os.SEEK_END)
    rest = b""
    first = True
    while position > 0:
        size = min(_BLOCK, position)
        position -= size
        file.seek(position)
        block = file.read(size) + rest
        lines = block.split(b"\n")
        rest = lines[0]
        end = position + len(block)
        for line in reversed(lines[1:]):
            start = end - len(line)
            if not first:
                yield start, line
            first = False
            end = start - 1
    if rest and not first:
        yield 0, rest


class _Reader:
    """Reads entries forward through the files, the newest included, and finds its place again after a rotation."""

    def __init__(self, path: Path, options: LogOptions) -> None:
        self._path = path
        self._options = options
        self._file: BufferedReader | None = None
        self._rest = b""
        self.finished = False

    def accepts(self, entry: LogLine) -> bool:
        options = self._options
        if entry.stream == "stdout" and not options.stdout:
            return False
        if entry.stream == "stderr" and not options.stderr:
            return False
        if options.since_ns is not None and entry.time_ns < options.since_ns:
            return False
        return options.until_ns is None or entry.time_ns <= options.until_ns

    def open(self) -> None:
        files = read_files(self._path)
        if not files:
            return
        index, offset = (0, 0) if self._options.tail is None else tail_position(
            files, self._options.tail, self.accepts
        )
        self._file = files[index].open("rb")
        self._file.seek(offset)

    def batch(self) -> list[LogLine]:
        """The next entries; none when everything that is in the files now has been read."""
        out: list[LogLine] = []
        while len(out) < _BATCH and not self.finished:
            if self._file is None:
                self.open()
                if self._file is None:
                    return out
            line = self._file.readline()
            if not line:
                if not self._advance():
                    return out
                continue
            self._rest += line
            if not self._rest.endswith(b"\n"):
                continue
            entry = parse_entry(self._rest)
            self._rest = b""
            if entry is None:
                continue
            if self._options.until_ns is not None and entry.time_ns > self._options.until_ns:
                self.finished = True
            elif self.accepts(entry):
                out.append(entry)
        return out

    def _advance(self) -> bool:
        """Move to the file after the one just read to its end; False when that is the newest."""
        if self._file is None:
            return False
        mine = os.fstat(self._file.fileno())
        files = read_files(self._path)
        places = [index for index, path in enumerate(files) if _same(path, mine)]
        following = places[0] + 1 if places else 0
        if following >= len(files):
            return False
        # Between the last read and the rename more may have been written to the old file: read it once more first.
        if self._file.tell() < os.fstat(self._file.fileno()).st_size:
            return True
        self._file.close()
        self._file = files[following].open("rb")
        self._rest = b""
        return True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _same(path: Path, status: os.stat_result) -> bool:
    try:
        other = path.stat()
    except FileNotFoundError:
        return False
    return (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino)


async def follow(
    path: Path, options: LogOptions, changed: Callable[[], Awaitable[None]], ended: Callable[[], bool]
) -> AsyncGenerator[list[LogLine]]:
    """Entries of the log at `path` in the order written, in batches.

    With `options.follow`, `changed` is awaited for more, until `ended` says that nothing more will be written and all
    that was has been yielded.
    """
    reader = _Reader(path, options)
    try:
        while True:
            over = not options.follow or ended()
            batch = await asyncio.to_thread(reader.batch)
            if batch:
                yield batch
            if reader.finished or (over and not batch):
                return
            if not batch:
                await changed()
    finally:
        reader.close()
