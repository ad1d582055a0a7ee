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

import zstandard
from isal import igzip_lib

from swarmpy.errors import InvalidArgument

__all__ = ["Compression", "decompress", "detect"]

MAGIC_BYTES = 6
PIECE_BYTES = 1 << 20
XZ_MEMORY_BYTES = 256 << 20
ZSTD_WINDOW_BYTES = 128 << 20
ZSTD_INPUT_BYTES = 4096
"""What comes out of a slice this small is at most 128 MiB: a zstd block yields 128 KiB and takes 4 bytes or more."""


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


class _Zstd:
    """A zstd frame behind the interface that the standard library's decoders have."""

    needs_input = True

    def __init__(self) -> None:
        self._frame = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()

    @property
    def eof(self) -> bool:
        return self._frame.eof

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data

    def decompress(self, data: bytes, _max_length: int, /) -> bytes:
        return self._frame.decompress(data)


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
    slice_bytes = ZSTD_INPUT_BYTES if compression is Compression.ZSTD else PIECE_BYTES
    decoder: _Decoder | None = None
    try:
        for data in _sliced(pieces, slice_bytes):
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
    except (OSError, EOFError, lzma.LZMAError, zstandard.ZstdError, _IGZIP_ERROR) as error:
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


def _sliced(pieces: Iterator[bytes], slice_bytes: int) -> Iterator[bytes]:
    for piece in pieces:
        if len(piece) <= slice_bytes:
            yield piece
            continue
        for start in range(0, len(piece), slice_bytes):
            yield piece[start : start + slice_bytes]


def _new(compression: Compression) -> _Decoder:
    match compression:
        case Compression.GZIP:
            return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        case Compression.XZ:
            return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)
        case Compression.BZIP2:
            return bz2.BZ2Decompressor()
        case _:
            return _Zstd()
