"""Compression of layers and archives: told by the first bytes, undone in bounded pieces.

Owns    the choice of decoder and the bound on what may come out of it. No output piece is much larger than a few
        mebibytes, whatever the input, so a decompression bomb costs time until the limit and never memory.
Source  RFC 1952 (gzip), RFC 8878 (zstd), the .xz and bzip2 file formats.
"""

from __future__ import annotations

import bz2
import enum
import lzma
from collections.abc import Iterator
from typing import Protocol, cast

from isal import igzip_lib

from swarmpy.errors import InvalidArgument
from swarmpy.image import zstd

__all__ = ["Compression", "decompress", "detect"]

MAGIC_BYTES = 6
PIECE_BYTES = 1 << 20
XZ_MEMORY_BYTES = 256 << 20
ZSTD_OPTIONS = {int(zstd.DecompressionParameter.window_log_max): 27}    # 128 MiB

_IGZIP_ERROR = cast("type[Exception]", igzip_lib.error)
"""A class, though the library's stubs say that it is an instance."""


class Compression(enum.Enum):
    """How an archive is wrapped; the values are the suffixes of OCI layer media types where those exist."""

    NONE = ""
    GZIP = "gzip"
    ZSTD = "zstd"
    XZ = "xz"
    BZIP2 = "bzip2"


class _Decoder(Protocol):
    """One member (gzip), frame (zstd) or stream (xz, bzip2)."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def detect(head: bytes) -> Compression:
    """What an archive that begins with `head` (at least `MAGIC_BYTES` of it) is wrapped in."""
    if head.startswith(b"\x1f\x8b\x08"):
        return Compression.GZIP
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return Compression.ZSTD
    if head.startswith(b"\xfd7zXZ\x00"):
        return Compression.XZ
    if head.startswith(b"BZh"):
        return Compression.BZIP2
    return Compression.NONE


def decompress(pieces: Iterator[bytes], compression: Compression, limit_bytes: int) -> Iterator[bytes]:
    """The plain bytes behind `pieces`, of any size, in pieces of about a mebibyte.

    Raises InvalidArgument when the data is damaged or cut short, or when more than `limit_bytes` come out.
    """
    total = 0
    for piece in pieces if compression is Compression.NONE else _gathered(_decode(pieces, compression)):
        total += len(piece)
        if total > limit_bytes:
            raise InvalidArgument(f"the archive unpacks to more than {limit_bytes} bytes, the limit set for a layer")
        yield piece


def _decode(pieces: Iterator[bytes], compression: Compression) -> Iterator[bytes]:
    decoder: _Decoder | None = None
    try:
        for data in _sliced(pieces):
            rest = data
            while True:
                if decoder is None:
                    rest = rest.lstrip(b"\0")  # padding between and after members, as tape and block devices leave it
                    if not rest:
                        break
                    decoder = _new(compression)
                if plain := decoder.decompress(rest, PIECE_BYTES):
                    yield plain
                rest = b""
                if decoder.eof:
                    rest, decoder = decoder.unused_data, None
                elif decoder.needs_input:
                    break
    except (OSError, EOFError, lzma.LZMAError, zstd.ZstdError, _IGZIP_ERROR) as error:
        raise InvalidArgument(f"the archive's {compression.value} data is damaged: {error}") from error
    if decoder is not None:
        raise InvalidArgument(f"the archive's {compression.value} data is cut short")


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Crumbs put together, as every piece has to go from one thread to another."""
    crumbs: list[bytes] = []
    size = 0
    for piece in pieces:
        crumbs.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES // 2:
            yield b"".join(crumbs) if len(crumbs) > 1 else piece
            crumbs, size = [], 0
    if crumbs:
        yield b"".join(crumbs)


def _sliced(pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), PIECE_BYTES):
            yield piece[start : start + PIECE_BYTES]


def _new(compression: Compression) -> _Decoder:
    match compression:
        case Compression.GZIP:
            return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        case Compression.XZ:
            return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)
        case Compression.BZIP2:
            return bz2.BZ2Decompressor()
        case _:
            return zstd.ZstdDecompressor(options=ZSTD_OPTIONS)
