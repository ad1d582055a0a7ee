"""How stdout and stderr share one stream: eight bytes before each piece say which it is and how long. Pure.

Source  Docker Engine API, `POST /containers/{id}/attach`, section Stream format.
"""

from __future__ import annotations

import struct

__all__ = ["MULTIPLEXED", "RAW", "framed", "stream_type"]

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
_HEADER = struct.Struct(">BxxxI")
_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2}


def framed(stream: str, data: bytes) -> bytes:
    """One piece of "stdout" or "stderr" with its header."""
    return _HEADER.pack(_NUMBERS[stream], len(data)) + data


def stream_type(tty: bool, api_version: tuple[int, int]) -> str:
    """The Content-Type; clients before API 1.42 know one only."""
    return RAW if tty or api_version < (1, 42) else MULTIPLEXED
