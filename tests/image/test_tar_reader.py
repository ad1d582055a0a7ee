"""The tar reader agrees with `tarfile` and GNU tar on good archives, and refuses bad ones aloud."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.errors import InvalidArgument, NotSupported
from swarmpy.image.tar_reader import Bytes, EntryKind, TarEntry, TarReader
from tests.image.archives import Tar, header, pieces

names = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=120)


def read(data: bytes) -> list[tuple[TarEntry, bytes]]:
    reader = TarReader(Bytes(pieces(data)))
    return [(entry, b"".join(bytes(piece) for piece in reader.data(entry))) for entry in reader]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            names, st.binary(max_size=1500), st.integers(0, 2**32 - 2), st.integers(0, 2**33), st.integers(0, 0o7777)
        ),
        max_size=5,
    ),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_what_tarfile_writes_is_read_back(files: list[tuple[str, bytes, int, int, int]], format: Literal[1, 2]) -> None:
    archive = Tar(format)
    for name, data, owner, mtime, mode in files:
        archive.file(name, data, owner=(owner, owner), mtime=mtime, mode=mode)
    found = read(archive.bytes())
    assert [(entry.name, data, entry.uid, entry.mtime_ns, entry.mode) for entry, data in found] == [
        (name.encode(), data, owner, mtime * 10**9, mode) for name, data, owner, mtime, mode in files
    ]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_an_error_or_harmless(data: st.DataObject) -> None:
    good = bytearray(Tar().directory("d").file("d/f", b"x" * 600, pax={"comment": "y" * 20}).bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(bytes(good))
    except (InvalidArgument, NotSupported) as error:
        assert str(error)


@pytest.mark.parametrize("cut", [1, 511, 513, 700, 1023])
def test_an_archive_cut_short_is_an_error(cut: int) -> None:
    data = Tar().file("a", b"x" * 512).bytes()[:cut]
    with pytest.raises(InvalidArgument, match="cut short"):
        read(data)


def test_links_devices_and_long_names() -> None:
    long = "d/" + "n" * 200
    archive = Tar(tarfile.GNU_FORMAT)
    archive.symlink("s", "t" * 150).hardlink("h", long).add("c", tarfile.CHRTYPE, device=(1, 3))
    archive.add("b", tarfile.BLKTYPE, device=(8, 1)).add("p", tarfile.FIFOTYPE).directory("old/")
    kinds = {entry.name: entry for entry, _ in read(archive.bytes())}
    assert kinds[b"s"].link == b"t" * 150
    assert kinds[b"h"].link == long.encode()
    assert (kinds[b"c"].kind, kinds[b"c"].device) == (EntryKind.CHAR_DEVICE, (1, 3))
    assert kinds[b"b"].device == (8, 1)
    assert kinds[b"p"].kind is EntryKind.FIFO
    assert kinds[b"old/"].kind is EntryKind.DIRECTORY


def test_names_that_are_not_utf8_stay_bytes() -> None:
    assert read(header(b"caf\xe9") + bytes(1024))[0][0].name == b"caf\xe9"


def test_times_before_1970_and_fractions() -> None:
    archive = Tar().file("a", mtime=1.25).file("b", mtime=-5.5)
    assert [entry.mtime_ns for entry, _ in read(archive.bytes())] == [1_250_000_000, 0]


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
        ["--format=posix", "--sparse-version=1.0"],
    ],
)
def test_sparse_files_of_gnu_tar(tmp_path: Path, options: list[str]) -> None:
    with open(tmp_path / "holes", "wb") as file:
        for at in range(0, 60 * 65536, 65536 * 2):
            file.seek(at)
            file.write(b"%08d" % at)
        file.truncate(10 << 20)
    subprocess.run(["tar", "-S", *options, "-C", tmp_path, "-cf", tmp_path / "a.tar", "holes"], check=True)
    (entry, data), *rest = read((tmp_path / "a.tar").read_bytes())
    assert not rest
    assert (entry.name, entry.size) == (b"holes", 10 << 20)
    assert entry.sparse is not None
    rebuilt = bytearray(entry.size)
    at = 0
    for offset, length in entry.sparse:
        rebuilt[offset : offset + length] = data[at : at + length]
        at += length
    assert rebuilt == (tmp_path / "holes").read_bytes()


@pytest.mark.parametrize(
    ("block", "word"),
    [
        (header(b"a", size=b"\xff" * 12), "negative size"),
        (header(b"a", size=b"77777777777\0"), "cut short"),
        (header(b"a", size=b"\x80" + b"\xff" * 11), "cut short"),
        (header(b"a", size=b"12x45\0"), "not a number"),
        (header(b"a", flag=b"x", size=b"77777777777\0"), "extended header claims"),
        (header(b"a", flag=b"L", size=b"77777777777\0"), "extended header claims"),
        (header(b"a", flag=b"x", size=b"00000000012\0") + b"10 a=b".ljust(512, b"\0"), "extended header is damaged"),
        (
            header(b"a", flag=b"x", size=b"00000000012\0") + b"9999999 a=".ljust(512, b"\0"),
            "extended header is damaged",
        ),
        (header(b"a", flag=b"M"), "type"),
        (header(b"a")[:-1] + b"x", "checksum"),
        (bytes(512) + header(b"a"), "after a block of zeros"),
        (header(b"a", flag=b"L", size=b"00000000002\0") + b"b".ljust(512, b"\0"), "after an extended header"),
        (b"this is not an archive at all".ljust(512, b"!"), "checksum"),
    ],
)
def test_absurd_archives_are_refused(block: bytes, word: str) -> None:
    with pytest.raises((InvalidArgument, NotSupported), match=word):
        read(block + bytes(1024))


def test_an_empty_stream_is_an_empty_archive() -> None:
    assert read(b"") == read(bytes(512)) == read(bytes(10240)) == []


def test_the_standard_librarys_reader_finds_the_same(tmp_path: Path) -> None:
    for index in range(30):
        path = tmp_path / "tree" / f"dir{index % 3}" / f"file{index}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([index]) * index * 37)
    subprocess.run(["tar", "-C", tmp_path, "-cf", tmp_path / "a.tar", "tree"], check=True)
    data = (tmp_path / "a.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [(member.name, member.size, member.mode) for member in archive]
    assert [(entry.name.decode().rstrip("/"), entry.size, entry.mode) for entry, _ in read(data)] == expected
