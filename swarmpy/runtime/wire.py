"""Frames on the sockets between daemon, launcher and shim.

A frame is one byte of kind, four bytes of length (big endian), then the payload. JSON frames are requests, replies and
events; the others carry a process' streams. The functions are fed bytes and give bytes; sockets are somebody else's
job.
"""

from __future__ import annotations

import json
import struct
from enum import IntEnum

from swarmpy.runtime.failure import RuntimeFailure

__all__ = ["HEADER", "MAX_FRAME", "FrameParser", "Kind", "frame", "json_frame"]

HEADER = struct.Struct(">BI")
MAX_FRAME = 16 * 1024 * 1024


class Kind(IntEnum):
    JSON = 0
    STDIN = 1
    STDOUT = 2
    STDERR = 3
    CLOSE_STDIN = 4
    END = 5  # no more output will come


def frame(kind: Kind, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


def json_frame(value: dict[str, object]) -> bytes:
    return frame(Kind.JSON, json.dumps(value).encode())


class FrameParser:
    """Feed it what was read; it gives the frames that are whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[Kind, bytes]]:
        self._buffer += data
        frames = []
        while len(self._buffer) >= HEADER.size:
            kind, length = HEADER.unpack_from(self._buffer)
            if length > MAX_FRAME or kind > Kind.END:
                raise RuntimeFailure(f"broken frame: kind {kind}, {length} bytes")
            end = HEADER.size + length
            if len(self._buffer) < end:
                break
            frames.append((Kind(kind), bytes(self._buffer[HEADER.size : end])))
            del self._buffer[:end]
        return frames
