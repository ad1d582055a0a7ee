"""Tar archives, read strictly and in one pass.

Owns    the format: which bytes are a header, what it says, where its data ends. It touches no file; `unpack` does.
        Names stay bytes, as the kernel has them.
Source  POSIX.1-2017 pax "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format" and
        "Storing Sparse Files" (old GNU, 0.0, 0.1 and 1.0); base-256 numbers of GNU and star.

A damaged header is an error here wherever it stands, and so is an archive that ends inside an entry: the standard
library's `tarfile` takes the first for the end of the archive.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from swarmpy.errors import InvalidArgument, NotSupported

__all__ = ["Bytes", "EntryKind", "TarEntry", "TarReader"]

BLOCK = 512
EXTENDED_LIMIT = 1 << 20
"""Bytes of one extended header, long name or sparse map; Linux caps a name at 4 KiB and an attribute at 64 KiB."""
_ZEROS = bytes(BLOCK)
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
"""name mode uid gid size mtime chksum typeflag linkname magic+version uname gname devmajor devminor prefix"""
MAX_ID = (1 << 32) - 2
MAX_TIME_NS = (1 << 63) - 1


class Bytes:
    """A stream of pieces, read by count."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def take(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end of the stream."""
        if len(self._piece) >= count:
            data = bytes(self._piece[:count])
            self._piece = self._piece[count:]
            return data
        return b"".join(self.pieces(count))

    def pieces(self, count: int) -> Iterator[memoryview]:
        """The next `count` bytes as they come, fewer only at the end of the stream."""
        while count:
            if not self._piece and not self._next():
                return
            part = self._piece[:count]
            self._piece = self._piece[len(part) :]
            count -= len(part)
            yield part

    def drain(self) -> None:
        """Read to the end: what follows an archive still belongs to its digest."""
        while self._next():
            pass

    def _next(self) -> bool:
        for piece in self._pieces:
            if piece:
                self._piece = memoryview(piece)
                return True
        self._piece = memoryview(b"")
        return False


class EntryKind(enum.Enum):
    """What an entry makes."""

    FILE = "file"
    HARDLINK = "hard link"
    SYMLINK = "symbolic link"
    CHAR_DEVICE = "character device"
    BLOCK_DEVICE = "block device"
    DIRECTORY = "directory"
    FIFO = "fifo"


@dataclass(slots=True)
class TarEntry:
    """One member of an archive. `size` is the length of the file, holes included."""

    name: bytes
    kind: EntryKind
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: bytes
    device: tuple[int, int]
    xattrs: list[tuple[bytes, bytes]] = field(default_factory=list)
    sparse: list[tuple[int, int]] | None = None
    """Offset and length of each stretch that has data, where the file has holes."""

    @property
    def display(self) -> str:
        """The name for an error message."""
        return repr(self.name.decode("utf-8", "backslashreplace"))


_KINDS = {
    b"0": EntryKind.FILE,
    b"\0": EntryKind.FILE,
    b"7": EntryKind.FILE,
    b"S": EntryKind.FILE,
    b"1": EntryKind.HARDLINK,
    b"2": EntryKind.SYMLINK,
    b"3": EntryKind.CHAR_DEVICE,
    b"4": EntryKind.BLOCK_DEVICE,
    b"5": EntryKind.DIRECTORY,
    b"6": EntryKind.FIFO,
}


class TarReader:
    """Iterates over the entries of an archive.

    The data of an entry is read with `data` before the next entry is asked for; what is left of it is skipped.
    Raises InvalidArgument for an archive that is damaged, cut short or absurd, NotSupported for a kind of entry that
    is known and not handled.
    """

    def __init__(self, source: Bytes) -> None:
        self._source = source
        self._stored = 0
        """Bytes of the current entry's data that are not read yet."""
        self._padding = 0

    def __iter__(self) -> Iterator[TarEntry]:
        while (entry := self._next_entry()) is not None:
            yield entry
        self._source.drain()

    def data(self, entry: TarEntry) -> Iterator[memoryview]:
        """The stored bytes of the current entry: the whole file, or its stretches one after the other."""
        while self._stored:
            for piece in self._source.pieces(self._stored):
                self._stored -= len(piece)
                yield piece
            if self._stored:
                raise InvalidArgument(f"the archive is cut short inside {entry.display}")

    def _next_entry(self) -> TarEntry | None:
        long_name = long_link = b""
        pax: list[tuple[bytes, bytes]] = []
        while (block := self._next_header()) is not None:
            fields = _HEADER.unpack(block)
            kind = fields[7]
            if kind in b"xgLKV" and kind != b"":
                extended = self._extended(_number(fields[4], "size"))
                if kind == b"x":
                    pax = _pax_records(extended)
                elif kind == b"L":
                    long_name = extended.partition(b"\0")[0]
                elif kind == b"K":
                    long_link = extended.partition(b"\0")[0]
                continue
            entry = _entry(block, fields, long_name, long_link)
            self._stored = entry.size if entry.kind is EntryKind.FILE else 0
            if pax:
                self._apply_pax(entry, pax)
            self._padding = -self._stored % BLOCK
            if kind == b"S":
                self._old_gnu_sparse(entry, block)
            self._check(entry)
            return entry
        if pax or long_name or long_link:
            raise InvalidArgument("the archive is cut short after an extended header")
        return None

    def _next_header(self) -> bytes | None:
        """The next header block, checksum verified; None at the end of the archive."""
        self._skip()
        block = self._source.take(BLOCK)
        if not block:
            return None
        if block == _ZEROS:
            following = self._source.take(BLOCK)
            if following and following != _ZEROS:
                raise InvalidArgument("the archive has data after a block of zeros, which should end it")
            return None
        if len(block) < BLOCK:
            raise InvalidArgument("the archive is cut short inside a header")
        _verify_checksum(block)
        return block

    def _skip(self) -> None:
        count = self._stored + self._padding
        if count:
            skipped = sum(len(piece) for piece in self._source.pieces(count))
            # The last padding may be missing: some writers leave it out, and nothing is lost by it.
            if skipped < self._stored:
                raise InvalidArgument("the archive is cut short inside an entry")
            self._stored = self._padding = 0

    def _extended(self, size: int) -> bytes:
        if not 0 <= size <= EXTENDED_LIMIT:
            raise InvalidArgument(f"an extended header claims {size} bytes; at most {EXTENDED_LIMIT} are allowed")
        data = self._source.take(size)
        if len(data) < size:
            raise InvalidArgument("the archive is cut short inside an extended header")
        self._padding = -size % BLOCK
        return data

    def _apply_pax(self, entry: TarEntry, records: list[tuple[bytes, bytes]]) -> None:
        sparse: dict[bytes, bytes] = {}
        stretches: list[int] = []
        for key, value in records:
            if key == b"path":
                entry.name = value
            elif key == b"linkpath":
                entry.link = value
            elif key == b"size":
                if entry.kind is EntryKind.FILE:
                    entry.size = self._stored = _decimal(value, key)
            elif key == b"uid":
                entry.uid = _decimal(value, key)
            elif key == b"gid":
                entry.gid = _decimal(value, key)
            elif key == b"mtime":
                entry.mtime_ns = _pax_time(value)
            elif key.startswith(b"SCHILY.xattr."):
                entry.xattrs.append((key.removeprefix(b"SCHILY.xattr."), value))
            elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                stretches.append(_decimal(value, key))
            elif key.startswith(b"GNU.sparse."):
                sparse[key.removeprefix(b"GNU.sparse.")] = value
        if entry.kind is EntryKind.FILE and (sparse or stretches):
            self._pax_sparse(entry, sparse, stretches)

    def _pax_sparse(self, entry: TarEntry, sparse: dict[bytes, bytes], stretches: list[int]) -> None:
        entry.name = sparse.get(b"name", entry.name)
        real_size = sparse.get(b"realsize", sparse.get(b"size"))
        if real_size is None:
            raise InvalidArgument(f"sparse file {entry.display} has no real size")
        entry.size = _decimal(real_size, b"GNU.sparse.realsize")
        if sparse.get(b"major") == b"1":
            padding = -self._stored % BLOCK
            numbers = self._sparse_map()
            self._padding = padding
        elif b"map" in sparse:
            numbers = [_decimal(part, b"GNU.sparse.map") for part in sparse[b"map"].split(b",") if part]
        else:
            numbers = stretches
        self._set_sparse(entry, numbers)

    def _sparse_map(self) -> list[int]:
        """The map before the data in format 1.0: a count, then offsets and lengths, a line each, padded to a block."""
        text = b""
        wanted = 1
        while text.count(b"\n") < wanted:
            if self._stored < BLOCK or len(text) > EXTENDED_LIMIT:
                raise InvalidArgument("a sparse file's map is cut short or too long")
            text += self._source.take(BLOCK)
            self._stored -= BLOCK
            if wanted == 1 and b"\n" in text:
                wanted += 2 * min(_decimal(text.partition(b"\n")[0], b"sparse map"), EXTENDED_LIMIT)
        return [_decimal(line, b"sparse map") for line in text.split(b"\n")[1:wanted]]

    def _old_gnu_sparse(self, entry: TarEntry, block: bytes) -> None:
        """Format "old GNU": four stretches in the header, 21 in each block that follows while a flag says so."""
        numbers = [_number(block[at : at + 12], "sparse map") for at in range(386, 386 + 96, 12) if block[at]]
        real_size = _number(block[483:495], "real size")
        more = block[482] != 0
        while more:
            extension = self._source.take(BLOCK)
            if len(extension) < BLOCK or len(numbers) * 12 > EXTENDED_LIMIT:
                raise InvalidArgument("a sparse file's map is cut short or too long")
            numbers += [_number(extension[at : at + 12], "sparse map") for at in range(0, 504, 12) if extension[at]]
            more = extension[504] != 0
        entry.size = real_size
        self._set_sparse(entry, numbers)

    def _set_sparse(self, entry: TarEntry, numbers: list[int]) -> None:
        stretches = list(zip(numbers[::2], numbers[1::2], strict=len(numbers) % 2 == 0))
        end = 0
        for offset, length in stretches:
            if offset < end or length < 0 or offset + length > entry.size:
                raise InvalidArgument(f"sparse file {entry.display} has a map that overlaps itself or leaves the file")
            end = offset + length
        if sum(length for _, length in stretches) != self._stored:
            raise InvalidArgument(f"sparse file {entry.display} has a map that does not fit its data")
        entry.sparse = stretches

    def _check(self, entry: TarEntry) -> None:
        if self._stored < 0 or entry.size < 0:
            raise InvalidArgument(f"archive entry {entry.display} has a negative size")
        if not (0 <= entry.uid <= MAX_ID and 0 <= entry.gid <= MAX_ID):
            raise InvalidArgument(f"archive entry {entry.display} has owner {entry.uid}:{entry.gid}, beyond 32 bits")
        if b"\0" in entry.name or b"\0" in entry.link:
            raise InvalidArgument(f"archive entry {entry.display} has a zero byte in its name")
        entry.mtime_ns = min(max(entry.mtime_ns, 0), MAX_TIME_NS)


def _entry(block: bytes, fields: tuple[bytes, ...], long_name: bytes, long_link: bytes) -> TarEntry:
    flag = fields[7]
    kind = _KINDS.get(flag)
    name = long_name or fields[0].partition(b"\0")[0]
    # GNU's format keeps other things where ustar has the prefix, and says so by its magic "ustar  \0".
    if not long_name and fields[9].startswith(b"ustar\0") and fields[14][0]:
        name = fields[14].partition(b"\0")[0] + b"/" + name
    if kind is None:
        raise NotSupported(f"archive entry {name!r} has type {flag!r}, which no image layer uses")
    if kind is EntryKind.FILE and flag != b"S" and name.endswith(b"/"):
        kind = EntryKind.DIRECTORY  # archives older than POSIX mark a directory so
    is_device = kind is EntryKind.CHAR_DEVICE or kind is EntryKind.BLOCK_DEVICE
    return TarEntry(
        name=name,
        kind=kind,
        mode=_number(fields[1], "mode") & 0o7777,
        uid=_number(fields[2], "uid"),
        gid=_number(fields[3], "gid"),
        size=_number(fields[4], "size") if kind is EntryKind.FILE else 0,
        mtime_ns=_number(fields[5], "mtime") * 1_000_000_000,
        link=long_link or fields[8].partition(b"\0")[0],
        device=(_number(fields[12], "major"), _number(fields[13], "minor")) if is_device else (0, 0),
    )


def _verify_checksum(block: bytes) -> None:
    """The sum of the header's bytes, its checksum field taken as blanks; some old writers summed signed bytes."""
    stated = _number(block[148:156], "checksum")
    total = sum(block) - sum(block[148:156]) + 8 * 32
    if total != stated:
        signed = total - 256 * sum(1 for byte in block[:148] + block[156:] if byte > 127)
        if signed != stated:
            raise InvalidArgument("the archive is damaged, or not a tar archive: a header's checksum is wrong")


def _number(text: bytes, what: str) -> int:
    """A numeric header field: octal digits, or base 256 when the top bit of the first byte is set."""
    if text[0] & 0x80:
        value = int.from_bytes(text, "big")
        bits = 8 * len(text)
        return value - (1 << bits) if text[0] & 0x40 else value - (1 << (bits - 1))
    digits = text.rstrip(b" \0").lstrip(b" ").partition(b"\0")[0]
    if not digits:
        return 0
    try:
        return int(digits, 8)
    except ValueError:
        raise InvalidArgument(f"an archive header's {what} {text!r} is not a number") from None


def _decimal(text: bytes, key: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise InvalidArgument(f"extended header {key.decode(errors='replace')} {text[:32]!r} is not a decimal number")
    return int(text)


def _pax_time(text: bytes) -> int:
    """Seconds with a fraction, as nanoseconds."""
    whole, _, fraction = text.partition(b".")
    digits = whole.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 12 or (fraction and not fraction.isdigit()):
        raise InvalidArgument(f"extended header mtime {text[:32]!r} is not a time")
    nanoseconds = int(digits) * 1_000_000_000 + int((fraction + b"000000000")[:9])
    return -nanoseconds if whole.startswith(b"-") else nanoseconds


def _pax_records(data: bytes) -> list[tuple[bytes, bytes]]:
    """Records `"%d %s=%s\\n" <length> <keyword> <value>`; the length counts the whole record."""
    records: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        length = data[at:space]
        if space < 0 or not length.isdigit():
            raise InvalidArgument("an extended header is damaged: a record has no length")
        end = at + int(length)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end <= space or end > len(data) or data[end - 1 : end] != b"\n" or not equals:
            raise InvalidArgument("an extended header is damaged: a record does not end where it says")
        records.append((key, value))
        at = end
    return records
