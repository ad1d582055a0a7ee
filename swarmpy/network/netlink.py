"""How netlink messages are written: a header, the family's own, and attributes, each of them padded to four bytes.

Source  netlink(7); include/uapi/linux/netlink.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = [
    "ATTRIBUTE",
    "NLMSG_DONE",
    "NLMSG_ERROR",
    "NLM_F_ACK",
    "NLM_F_CREATE",
    "NLM_F_DUMP",
    "NLM_F_DUMP_INTR",
    "NLM_F_EXCL",
    "NLM_F_REPLACE",
    "NLM_F_REQUEST",
    "attribute",
    "attributes",
    "headers",
]

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3

ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length with this header, type


def attribute(kind: int, *value: bytes) -> bytes:
    """One attribute; of several values those of a nest, each an attribute itself."""
    whole = b"".join(value)
    length = ATTRIBUTE.size + len(whole)
    return ATTRIBUTE.pack(length, kind) + whole + b"\0" * (-length % 4)


def attributes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Kind, without the bits for nests and byte order, and value of each attribute between two offsets."""
    end = len(data) if end is None else end
    while start + ATTRIBUTE.size <= end:
        length, kind = ATTRIBUTE.unpack_from(data, start)
        yield kind & 0x3FFF, data[start + ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3


def headers(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Offset, length, type and flags of each message."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags = struct.unpack_from("=IHH", data, offset)
        yield offset, length, kind, flags
        offset += (length + 3) & ~3
