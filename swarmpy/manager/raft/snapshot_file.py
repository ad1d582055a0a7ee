"""The bytes of a snapshot's file: a sealed head, and the state in sealed parts, end to end.

    file = length of the sealed head (4) | sealed head | sealed parts of PART_BYTES of the state, the last one shorter
    head = term (8) | length of the membership (4) | length of the state (8) | membership

The head is sealed with the snapshot's index, a part with the head's tag, its number and how many there are: none can be
missing, changed, or in the place of another. There are parts because a cipher keeps the interpreter's lock for as long
as it works: with the state of a million tasks in one piece a leader would send no heartbeat for longer than its
followers wait for one. And no piece may have more than 2 GiB.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from swarmpy.manager.raft.messages import Snapshot
from swarmpy.manager.raft.seal import OVERHEAD_BYTES, TAG_BYTES, BrokenSeal, Sealer

__all__ = ["PART_BYTES", "pieces", "unpack"]

PART_BYTES = 1 << 20
_PARTS_A_PIECE = 8
_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<QIQ")
_WHOLE = struct.Struct("<QI")         # before there were parts all was in one seal: term, length of the membership


def pieces(sealer: Sealer, snapshot: Snapshot) -> Iterator[bytes]:
    """The file, in pieces of some MiB that are made as they are taken."""
    head = _HEAD.pack(snapshot.term, len(snapshot.membership), len(snapshot.data)) + snapshot.membership
    sealed = sealer.seal(head, _head(snapshot.index))
    yield _LENGTH.pack(len(sealed)) + sealed
    state, count = memoryview(snapshot.data), _count(len(snapshot.data))
    for first in range(0, count, _PARTS_A_PIECE):
        yield b"".join(
            sealer.seal(state[number * PART_BYTES : (number + 1) * PART_BYTES], _part(sealed, number, count))
            for number in range(first, min(first + _PARTS_A_PIECE, count))
        )


def unpack(sealer: Sealer, index: int, data: bytes) -> Snapshot:
    """The snapshot of that index in the file of these bytes. Raises BrokenSeal when it is not as it was written."""
    try:
        return _unpack(sealer, index, data)
    except BrokenSeal as broken:
        try:
            plain = sealer.open(data, b"snapshot %d" % index)
        except BrokenSeal:
            raise broken from None
        term, length = _WHOLE.unpack_from(plain)
        start = _WHOLE.size
        return Snapshot(index, term, plain[start : start + length], plain[start + length :])


def _unpack(sealer: Sealer, index: int, data: bytes) -> Snapshot:
    start = _LENGTH.size
    end = start + int.from_bytes(data[:start], "little")
    sealed = data[start:end]
    head = sealer.open(sealed, _head(index))
    term, members, length = _HEAD.unpack_from(head)
    count = _count(length)
    if len(data) != end + length + count * OVERHEAD_BYTES:
        raise BrokenSeal(f"it has {len(data)} bytes, not {end + length + count * OVERHEAD_BYTES}")
    step = PART_BYTES + OVERHEAD_BYTES
    parts = (
        sealer.open(data[end + number * step : end + (number + 1) * step], _part(sealed, number, count))
        for number in range(count)
    )
    return Snapshot(index, term, head[_HEAD.size : _HEAD.size + members], b"".join(parts))


def _count(length: int) -> int:
    return -(-length // PART_BYTES)


def _head(index: int) -> bytes:
    return b"head of snapshot %d" % index


def _part(sealed_head: bytes, number: int, count: int) -> bytes:
    return b"part %d of %d of " % (number, count) + sealed_head[-TAG_BYTES:]
