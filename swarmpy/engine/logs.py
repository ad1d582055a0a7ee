"""Reading what a container wrote: the json-file log that its shim appends to and rotates.

Owns    tail (from the end, without reading the rest), since and until, and following across rotation. Entries are lines
        `{"log": "text\\n", "stream": "stdout", "attrs": {}, "time": RFC 3339}`; the newest file is `path`, older ones
        `path.1`, … Times are compared as text: ours all have the same form.
Source  Docker Engine API, `GET /containers/{id}/logs`; the json-file format is Docker's.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from swarmpy.engine.times import format_rfc3339, parse_rfc3339
from swarmpy.errors import InvalidArgument

__all__ = ["LogLine", "LogOptions", "follow", "read_files", "tail_position"]

_BLOCK = 1 << 16
_BATCH = 1 << 18  # bytes
_STAMP_LENGTH = len("2006-01-02T15:04:05.000000000Z")


@dataclass(frozen=True)
class LogOptions:
    """What of the log is wanted. `tail` is a number of entries, None is all; times are Unix nanoseconds."""

    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    since_ns: int | None = None
    until_ns: int | None = None
    tail: int | None = None


class LogLine(NamedTuple):
    """One entry. `data` ends with a newline unless the process wrote none, or the entry is a part of a long line."""

    stream: str
    stamp: str
    """RFC 3339 in UTC with nine digits."""
    data: bytes
    attributes: Mapping[str, str] = {}
    """What the log's options add to each entry: labels, environment, a tag."""

    @property
    def time_ns(self) -> int:
        return parse_rfc3339(self.stamp)


def parse_entry(line: bytes) -> LogLine | None:
    """The entry on one line of the file; None for a line that a crash cut short."""
    try:
        entry = json.loads(line)
        stamp = entry["time"]
        if len(stamp) != _STAMP_LENGTH or stamp[-1] != "Z":
            stamp = format_rfc3339(parse_rfc3339(stamp))
        return LogLine(entry.get("stream", "stdout"), stamp, entry["log"].encode(), entry.get("attrs") or {})
    except (ValueError, KeyError, TypeError, AttributeError, InvalidArgument):
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


def _lines_backwards(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
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
        self._since = format_rfc3339(options.since_ns) if options.since_ns is not None else ""
        self._until = format_rfc3339(options.until_ns) if options.until_ns is not None else "9999"
        self._file: BinaryIO | None = None
        self._rest = b""
        self.finished = False

    def accepts(self, entry: LogLine) -> bool:
        wanted = self._options.stderr if entry.stream == "stderr" else self._options.stdout
        return wanted and self._since <= entry.stamp <= self._until

    def open(self) -> None:
        files = read_files(self._path)
        if not files:
            return
        index, offset = (0, 0) if self._options.tail is None else tail_position(
            files, self._options.tail, self.accepts
        )
        self._file = files[index].open("rb", buffering=_BLOCK)
        self._file.seek(offset)

    def batch(self) -> list[LogLine]:
        """The next entries; none when everything that is in the files now has been read."""
        while not self.finished:
            if self._file is None:
                self.open()
            lines = self._file.readlines(_BATCH) if self._file is not None else []
            if not lines and not self._advance():
                break
            accepted = self._accepted(lines)
            if accepted:
                return accepted
        return []

    def _accepted(self, lines: list[bytes]) -> list[LogLine]:
        """The entries on these lines that are wanted. An unfinished last line is kept for the next time."""
        out: list[LogLine] = []
        for line in lines:
            whole, self._rest = self._rest + line, b""
            if not whole.endswith(b"\n"):
                self._rest = whole
                continue
            entry = parse_entry(whole)
            if entry is None:
                continue
            if entry.stamp > self._until:
                self.finished = True
                break
            if self.accepts(entry):
                out.append(entry)
        return out

    def _advance(self) -> bool:
        """Move to the file after the one just read to its end; False when that is the newest."""
        if self._file is None:
            return False
        mine = os.fstat(self._file.fileno())
        if mine.st_size < self._file.tell():  # somebody has emptied it (truncate(1)): it begins anew
            self._file.seek(0)
            self._rest = b""
            return mine.st_size > 0
        files = read_files(self._path)
        places = [index for index, path in enumerate(files) if _same(path, mine)]
        following = places[0] + 1 if places else 0
        if following >= len(files):
            return False
        # Between the last read and the rename more may have been written to the old file: read it once more first.
        if self._file.tell() < os.fstat(self._file.fileno()).st_size:
            return True
        self._file.close()
        self._file = files[following].open("rb", buffering=_BLOCK)
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
