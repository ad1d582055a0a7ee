"""The write-ahead log on the disk: segments of records, of which the last is written to.

    log-0000000000000001   records 1 to 812, of which the last is empty: the log goes on in the next segment
    log-000000000000032d   record 813 on, then zeros

Laws    A record is on the disk, synced, when `append` returns, and before the next is begun. Segments are filled with
        zeros before they are used: a write changes no metadata then, and its sync is one write and one flush.
        A segment exists durably before the one before it ends with the empty record that says so: none can get lost at
        the end without being missed. After a write that failed nothing more may be written.

A sync that failed may leave in the page cache what never reached the disk, and call it clean: whoever opens the log
next would take it for durable. So opening writes again, and syncs, what the last record written may be in: the last
segment, and the one before it where the last has no record yet.

Source  fsync(2); Rebello et al., "Can Applications Recover from fsync Failures?" (2020).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from swarmpy.manager.raft.files import File, Files, replace, write_all
from swarmpy.manager.raft.records import Scan, encode_record, record_bytes, scan
from swarmpy.manager.raft.seal import Sealer

__all__ = ["SEGMENT_BYTES", "Damaged", "WriteAheadLog"]

SEGMENT_BYTES = 4 << 20
_PREFIX = "log-"
_END = b""                              # the body of a segment's last record
_END_BYTES = record_bytes(len(_END))


class Damaged(Exception):
    """A file is not as it was written."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(what)
        self.path = path


@dataclass(frozen=True, slots=True)
class _Found:
    """A segment as it was read."""

    path: Path
    first: int      # number of its first record
    data: bytes
    scan: Scan

    @property
    def next(self) -> int:
        """Number of the record after its last."""
        return self.first + len(self.scan.bodies)

    @property
    def ended(self) -> bool:
        return bool(self.scan.bodies) and self.scan.bodies[-1] == _END


@dataclass(slots=True)
class _Segment:
    path: Path
    mark: int       # the highest that any of its records has


class WriteAheadLog:
    """Bodies are never empty, and only `mark_of` looks into them: a mark says when a record may be forgotten."""

    def __init__(
        self, directory: Path, files: Files, sealer: Sealer, mark_of: Callable[[bytes], int], segment_bytes: int
    ) -> None:
        self._directory = directory
        self._files = files
        self._sealer = sealer
        self._mark_of = mark_of
        self._segment_bytes = segment_bytes
        self._segments: list[_Segment] = []
        self._file: File | None = None    # of the last segment
        self._size = 0          # of that
        self._end = 0           # where its next record goes
        self._next = 1          # number of that record

    def open(self) -> list[bytes]:
        """The bodies of all records, in order. Raises Damaged; OSError when the disk does not let itself be read."""
        found = self._read()
        for one in found:
            marks = (self._mark_of(body) for body in one.scan.bodies if body != _END)
            self._segments.append(_Segment(one.path, max(marks, default=0)))
        if found:
            last = found[-1]
            if len(found) > 1 and not last.scan.bodies:
                self._write_again(found[-2]).close()
            self._file = self._write_again(last)
            self._next, self._end, self._size = last.next, last.scan.end, len(last.data)
        return [body for one in found for body in one.scan.bodies if body != _END]

    def append(self, body: bytes) -> None:
        """Make one record durable. Raises OSError."""
        size = record_bytes(len(body))
        if self._end + size + _END_BYTES > self._size:
            self._begin_segment(size + _END_BYTES)
        self._put(body)
        segment = self._segments[-1]
        segment.mark = max(segment.mark, self._mark_of(body))

    def forget(self, mark: int) -> None:
        """Delete the oldest segments whose records all have marks up to `mark`; never the last. Raises OSError."""
        while len(self._segments) > 1 and self._segments[0].mark <= mark:
            self._files.unlink(self._segments.pop(0).path)
            self._files.sync_directory(self._directory)    # one by one: none may be gone while an older one is there

    def seal_anew(self) -> None:
        """Every record once more, in its place, under the sealer's present key.

        A segment at a time: after a crash, each is as it was or as it is to be. Raises Damaged; OSError.
        """
        for segment in self._segments:
            first, data = _first(segment.path), self._files.read(segment.path)
            read = scan(self._sealer, data, first)
            if read.damage:
                raise Damaged(segment.path, read.damage)
            records = (encode_record(self._sealer, first + at, body) for at, body in enumerate(read.bodies))
            file = replace(self._files, segment.path, [b"".join(records).ljust(len(data), b"\0")])
            if segment is self._segments[-1]:
                self.close()
                self._file = file
            else:
                file.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    # Reading.

    def _read(self) -> list[_Found]:
        found = []
        for path in sorted(self._directory.glob(f"{_PREFIX}{'[0-9a-f]' * 16}")):
            first, data = _first(path), self._files.read(path)
            found.append(_Found(path, first, data, scan(self._sealer, data, first)))
        if len(found) > 1 and not found[-1].data.strip(b"\0") and not found[-2].ended:
            self._files.unlink(found.pop().path)    # its predecessor was never ended: a crash came between
        for before, after in itertools.pairwise(found):
            if not before.ended or before.next != after.first:
                what = before.scan.damage or f"records {before.next} to {after.first - 1} are missing"
                raise Damaged(before.path, what)
        if found and found[-1].scan.damage:
            raise Damaged(found[-1].path, found[-1].scan.damage)
        if found and found[-1].ended:
            raise Damaged(found[-1].path, f"the segment that begins with record {found[-1].next} is missing")
        return found

    # Writing.

    def _begin_segment(self, at_least: int) -> None:
        fresh = bool(self._segments)    # all but the first have one before them, which takes a record to end
        path = self._directory / f"{_PREFIX}{self._next + fresh:016x}"
        size = max(self._segment_bytes, at_least)
        file = replace(self._files, path, [bytes(size)])
        try:
            if fresh:
                self._put(_END)
        except BaseException:
            file.close()
            raise
        self.close()
        self._file, self._size, self._end = file, size, 0
        self._segments.append(_Segment(path, 0))

    def _put(self, body: bytes) -> None:
        if self._file is None:
            raise AssertionError("the log is not open")
        record = encode_record(self._sealer, self._next, body)
        write_all(self._files, self._file, record, self._end)
        self._end += len(record)
        self._next += 1

    def _write_again(self, found: _Found) -> File:
        """Make durable what was read, and blank what is behind it."""
        file = self._files.open(found.path)
        try:
            write_all(self._files, file, found.data[: found.scan.end].ljust(len(found.data), b"\0"), 0)
        except BaseException:
            file.close()
            raise
        return file


def _first(path: Path) -> int:
    """Number of the first record of the segment that is called so."""
    return int(path.name.removeprefix(_PREFIX), 16)
