"""Tar archives for tests: ordinary ones through `tarfile`, absurd ones header by header."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Tar:
    """An archive under construction. Methods return the builder."""

    format: Literal[0, 1, 2] = tarfile.PAX_FORMAT
    _data: io.BytesIO = field(default_factory=io.BytesIO)

    def add(
        self,
        name: str,
        kind: bytes = tarfile.REGTYPE,
        data: bytes = b"",
        *,
        link: str = "",
        mode: int = 0o644,
        owner: tuple[int, int] = (0, 0),
        device: tuple[int, int] = (0, 0),
        mtime: float = 1_000_000_000,
        pax: Mapping[str, str] | None = None,
    ) -> Tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode, info.size, info.mtime = kind, link, mode, len(data), mtime
        info.uid, info.gid = owner
        info.devmajor, info.devminor = device
        info.pax_headers = dict(pax or {})
        self._data.write(info.tobuf(self.format, "utf-8", "surrogateescape"))
        self._data.write(data + bytes(-len(data) % 512))
        return self

    def file(self, name: str, data: bytes = b"", **rest: object) -> Tar:
        return self.add(name, tarfile.REGTYPE, data, **rest)  # type: ignore[arg-type]  # passed on as given

    def directory(self, name: str, mode: int = 0o755, **rest: object) -> Tar:
        return self.add(name, tarfile.DIRTYPE, mode=mode, **rest)  # type: ignore[arg-type]  # passed on as given

    def symlink(self, name: str, target: str) -> Tar:
        return self.add(name, tarfile.SYMTYPE, link=target, mode=0o777)

    def hardlink(self, name: str, target: str) -> Tar:
        return self.add(name, tarfile.LNKTYPE, link=target)

    def raw(self, block: bytes) -> Tar:
        self._data.write(block)
        return self

    def bytes(self) -> bytes:
        """The finished archive."""
        return self._data.getvalue() + bytes(1024)


def header(name: bytes, *, size: bytes = b"00000000000\0", flag: bytes = b"0", link: bytes = b"") -> bytes:
    """A ustar header with any bytes in it and the checksum that makes it valid."""
    fields = [
        name.ljust(100, b"\0"),
        b"0000644\0",
        b"0000000\0",
        b"0000000\0",
        size.ljust(12, b"\0"),
        b"00000000000\0",
        b" " * 8,
        flag,
        link.ljust(100, b"\0"),
        b"ustar\x0000",
        bytes(32 + 32),
        b"0000000\0",
        b"0000000\0",
        bytes(155 + 12),
    ]
    block = b"".join(fields)
    assert len(block) == 512
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def pieces(data: bytes, size: int = 700) -> Iterator[bytes]:
    """`data` in pieces that fit nothing."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def docker_archive(layers: list[bytes], *, tags: list[str] | None, names: list[str] | None = None) -> Tar:
    """The layout of `docker save` before version 25."""
    plain = [gzip.decompress(layer) if layer[:2] == b"\x1f\x8b" else layer for layer in layers]
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in plain]
    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    ).encode()
    names = names or [f"{number}/layer.tar" for number in range(len(layers))]
    archive = Tar()
    for number, (name, layer) in enumerate(zip(names, layers, strict=True)):
        archive.directory(f"{number}/").file(f"{number}/VERSION", b"1.0").file(f"{number}/json", b"{}").file(
            name, layer
        )
    archive.file("config.json", config).file("repositories", b"{}")
    return archive.file(
        "manifest.json", json.dumps([{"Config": "config.json", "RepoTags": tags, "Layers": names}]).encode()
    )
