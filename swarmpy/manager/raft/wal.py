"""Telling a damaged SQLite journal from one that a crash cut short.

SQLite ends the recovery of a write-ahead journal at the first frame whose checksum fails, and says nothing: right after
a crash, whose last transaction was never acknowledged; silently wrong when a bit flipped in a transaction that was. We
sync every transaction before the next begins, so frames of a later transaction behind the bad one prove the latter.
A flip within the very last transaction cannot be told from a torn write, and counts as one.

Source  SQLite database file format, 4.1 to 4.3:

            header (32 bytes): magic, version, page size, checkpoint, salt 1, salt 2, checksum 1, checksum 2
            frame  (24 bytes and a page): page, pages after a commit or 0, salt 1, salt 2, checksum 1, checksum 2

        all big-endian. Checksums run on from the header through all frames, each frame's over the first 8 bytes of its
        header and its page, in words whose byte order the magic's lowest bit tells.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = ["damaged_frame"]

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = 0x377F0682
_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _Frame:
    good: bool       # its checksum follows from its predecessor's
    commit: bool
    current: bool    # of the journal's present round, and not left from before the last checkpoint


def damaged_frame(journal: bytes) -> int | None:
    """The number, from 1, of a frame that was changed after its transaction was synced; 0 for the header; or None."""
    if len(journal) < _HEADER.size or not any(journal[: _HEADER.size]):
        return None    # never written, or not even begun
    magic, _, page_size, _, salt1, salt2, *checksum = _HEADER.unpack_from(journal)
    order = ">" if magic & 1 else "<"
    if magic & ~1 != _MAGIC or _sum(journal[:24], (0, 0), order) != tuple(checksum):
        return 0
    frames = _frames(journal, page_size, (salt1, salt2), (checksum[0], checksum[1]), order)
    bad = next((number for number, frame in enumerate(frames) if not (frame.good and frame.current)), None)
    if bad is None:
        return None
    rest = frames[bad:]
    commit = next((number for number, frame in enumerate(rest) if frame.commit and frame.current), len(rest))
    later = any(frame.current and frame.good for frame in rest[commit + 1 :])
    return bad + 1 if later else None


def _frames(
    journal: bytes, page_size: int, salts: tuple[int, int], checksum: tuple[int, int], order: str
) -> list[_Frame]:
    """Each judged by the checksum stored in the one before, so that one bad frame does not spoil the rest."""
    frames = []
    position = _HEADER.size
    while position + _FRAME.size + page_size <= len(journal):
        _, commit, salt1, salt2, sum1, sum2 = _FRAME.unpack_from(journal, position)
        page = position + _FRAME.size
        current = (salt1, salt2) == salts
        computed = None
        if current:
            computed = _sum(journal[position : position + 8] + journal[page : page + page_size], checksum, order)
        frames.append(_Frame(computed == (sum1, sum2), commit != 0, current))
        checksum = (sum1, sum2)
        position = page + page_size
    return frames


def _sum(data: bytes, start: tuple[int, int], order: str) -> tuple[int, int]:
    first, second = start
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for one in words:
        first = (first + one + second) & _MASK
        second = (second + next(words) + first) & _MASK
    return first, second
