"""The bytes of one segment of the log: sealed records, end to end, in a file that was filled with zeros before.

    record = magic (4) | length of the sealed body (4) | number (8) | CRC-32 of these (4) | sealed body | padding

Padding is one or more bytes 0xff, so that no record ends with a zero. Records begin at multiples of 32 bytes, so no
header lies across two sectors. They are numbered without a gap through all segments, and the number is sealed with the
body: none can be left out, doubled or moved unnoticed.

What was cut short, and what was damaged later: a record is synced before the next is begun, so only the last may be
incomplete, and nobody was told of it. Disks write a sector whole or not at all, and a write that fails may have written
the beginning. A last record that does not open is therefore *torn* if one of its sectors, or its end, still holds the
zeros of before, and *damaged* if none does.

Source  SQLite, "Atomic Commit", 2.1, and "Powersafe Overwrite", for what may be assumed of a sector.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from swarmpy.manager.raft.seal import OVERHEAD_BYTES, BrokenSeal, Sealer

__all__ = ["Scan", "encode_record", "record_bytes", "scan"]

_MAGIC = b"\xf5wRL"
_HEADER = struct.Struct("<4sIQI")
_CHECKED = struct.Struct("<4sIQ")
_ALIGNMENT = 32
_SECTOR = 512
_BLANK = bytes(_SECTOR)


@dataclass(frozen=True, slots=True)
class Scan:
    """What a segment holds: the bodies of its whole records, where the next goes, and what is wrong with the rest."""

    bodies: tuple[bytes, ...]
    end: int
    damage: str    # empty when the rest is blank, or a write that a crash cut short


def record_bytes(body_bytes: int) -> int:
    """How long the record of a body is."""
    return _padded(OVERHEAD_BYTES + body_bytes)


def encode_record(sealer: Sealer, number: int, body: bytes) -> bytes:
    sealed = sealer.seal(body, _context(number))
    checked = _CHECKED.pack(_MAGIC, len(sealed), number)
    record = b"".join((checked, zlib.crc32(checked).to_bytes(4, "little"), sealed))
    return record.ljust(record_bytes(len(body)), b"\xff")


def scan(sealer: Sealer, data: bytes, first: int) -> Scan:
    """Read a whole segment whose first record has this number."""
    bodies: list[bytes] = []
    at = 0
    while (body := _body(sealer, data, at, first + len(bodies))) is not None:
        bodies.append(body)
        at += record_bytes(len(body))
    return Scan(tuple(bodies), at, _damage(sealer, data, at, first + len(bodies)))


def _padded(sealed_bytes: int) -> int:
    """How long a record is; its last byte, at least, is padding."""
    return (_HEADER.size + sealed_bytes) // _ALIGNMENT * _ALIGNMENT + _ALIGNMENT


def _context(number: int) -> bytes:
    return b"record %d" % number


def _header(data: bytes, at: int) -> tuple[int, int] | None:
    """(length, number) of the record at `at`, when there is a whole header."""
    if at + _HEADER.size > len(data):
        return None
    magic, length, number, checksum = _HEADER.unpack_from(data, at)
    if magic != _MAGIC or zlib.crc32(data[at : at + _CHECKED.size]) != checksum:
        return None
    return length, number


def _body(sealer: Sealer, data: bytes, at: int, number: int) -> bytes | None:
    """The body of the record at `at`, if it is whole and has this number."""
    header = _header(data, at)
    if header is None or header[1] != number:
        return None
    start = at + _HEADER.size
    try:
        return sealer.open(data[start : start + header[0]], _context(number))
    except BrokenSeal:
        return None


def _damage(sealer: Sealer, data: bytes, at: int, number: int) -> str:
    """What is wrong from `at` on, where no whole record of this number is."""
    later = data.find(_MAGIC, at + 1)
    while later != -1:
        header = _header(data, later)
        if header is not None and header[1] > number and _body(sealer, data, later, header[1]) is not None:
            return f"record {number} was changed or lost, and record {header[1]} behind it is whole"
        later = data.find(_MAGIC, later + 1)
    header = _header(data, at)
    if header is None:
        torn = not any(data[at + _HEADER.size : at + _ALIGNMENT])    # the salt of what is sealed begins there
    else:
        end = at + _padded(header[0])
        torn = header[1] == number and (data[end - 1 : end] == b"\0" or _misses_a_sector(data, at, end))
    return "" if torn else f"record {number}, the last, was changed after it had been written"


def _misses_a_sector(data: bytes, start: int, end: int) -> bool:
    """Whether a sector of [start, end) is as blank as before it was written."""
    while start < end:
        until = min(end, (start // _SECTOR + 1) * _SECTOR)
        piece = data[start:until]
        if piece == _BLANK[: len(piece)]:
            return True
        start = until
    return False
