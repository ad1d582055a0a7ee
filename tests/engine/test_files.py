"""Files in and out of a root file system, and volumes: nothing reaches outside the root."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from swarmpy.engine import archive
from swarmpy.engine.events import EventBus
from swarmpy.engine.filters import Filters
from swarmpy.engine.new_volumes import NewVolumes
from swarmpy.engine.parts import Parts
from swarmpy.engine.record import VolumeMount
from swarmpy.engine.rootfs import directory_root, mounted_overlay, open_in_root, read_text, writable_overlay
from swarmpy.engine.volumes import Volumes, copy_tree
from swarmpy.errors import Conflict, InvalidArgument, NotFound, NotSupported

pytestmark = pytest.mark.root


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    top = tmp_path / "root"
    (top / "etc").mkdir(parents=True)
    (top / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (top / "etc/link").symlink_to("passwd")
    (top / "absolute").symlink_to("/etc")
    (top / "outside").symlink_to("../../../../etc")
    with directory_root(top) as descriptor:
        yield descriptor


def packed(root: int, path: str) -> dict[str, tarfile.TarInfo]:
    pieces: list[bytes] = []
    archive.pack(root, path, pieces.append)
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as found:
        return {member.name: member for member in found}


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as out:
        for info, data in members:
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return io.BytesIO(made.getvalue())


def member(
    name: str, kind: bytes = tarfile.REGTYPE, target: str = "", data: bytes = b""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, 0o755 if kind == tarfile.DIRTYPE else 0o644
    return info, data


def test_links_in_a_root_lead_into_the_root(root: int) -> None:
    assert read_text(root, "/etc/link").startswith("root:x:0")
    assert read_text(root, "/absolute/passwd").startswith("root:x:0:0::")
    assert read_text(root, "/outside/passwd").startswith("root:x:0:0::")
    assert read_text(root, "/etc/nothing") == ""
    with pytest.raises(OSError):
        open_in_root(root, "/proc/self/exe")


def test_what_comes_out(root: int) -> None:
    assert set(packed(root, "/etc")) == {"etc", "etc/passwd", "etc/link"}
    assert packed(root, "/etc/link")["link"].issym()
    assert set(packed(root, "/absolute/")) == {"absolute", "absolute/passwd", "absolute/link"}
    with pytest.raises(NotFound):
        packed(root, "/nothing")


def test_the_contents_of_a_directory_come_without_its_name(root: int) -> None:
    """`docker cp c:/etc/. there` into a directory that exists."""
    assert set(packed(root, "/etc/.")) == {".", "./passwd", "./link"}
    assert packed(root, "/.")["./etc/passwd"].isreg()


def test_capabilities_of_files_go_out_and_in(root: int, tmp_path: Path) -> None:
    program, capability = tmp_path / "root/ping", bytes.fromhex("0100000200200000000000000000000000000000")
    program.write_bytes(b"\x7fELF")
    os.setxattr(program, "security.capability", capability)
    pieces: list[bytes] = []
    archive.pack(root, "/ping", pieces.append)
    archive.extract(root, "/etc", io.BytesIO(b"".join(pieces)), keep_owners=True)
    assert os.getxattr(tmp_path / "root/etc/ping", "security.capability") == capability


def test_what_lies_at_a_path(root: int) -> None:
    shown = json.loads(base64.b64decode(archive.describe(root, "/etc/link")))
    assert (shown["name"], shown["linkTarget"]) == ("link", "passwd")
    assert shown["mode"] & (1 << 27)
    assert json.loads(base64.b64decode(archive.describe(root, "/etc")))["mode"] & (1 << 31)


def test_what_goes_in_stays_in(root: int, tmp_path: Path) -> None:
    hostile = tar(
        member("../../escaped", data=b"1"),
        member("/rooted", data=b"2"),
        member("way", tarfile.SYMTYPE, str(tmp_path)),
        member("way/out", data=b"3"),
        member("deep/er/file", data=b"4"),
        member("hard", tarfile.LNKTYPE, "deep/er/file"),
    )
    with pytest.raises(InvalidArgument, match="leads nowhere"):
        archive.extract(root, "/etc", hostile)
    hostile.seek(0)
    (tmp_path / "root" / str(tmp_path)[1:]).mkdir(parents=True)
    archive.extract(root, "/etc", hostile)
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "out").exists()
    top = tmp_path / "root"
    assert (top / "etc/escaped").read_bytes() == b"1"
    assert (top / "etc/rooted").read_bytes() == b"2"
    assert (top / str(tmp_path)[1:] / "out").read_bytes() == b"3"
    assert (top / "etc/hard").stat().st_ino == (top / "etc/deep/er/file").stat().st_ino


def test_what_cannot_go_in(root: int) -> None:
    with pytest.raises(NotFound):
        archive.extract(root, "/nothing", tar())
    with pytest.raises(InvalidArgument, match="not a directory"):
        archive.extract(root, "/etc/passwd", tar())
    with pytest.raises(InvalidArgument, match="cannot be read"):
        archive.extract(root, "/etc", io.BytesIO(b"x" * 1024))
    with pytest.raises(InvalidArgument, match="overwrite a directory"):
        archive.extract(root, "/", tar(member("etc", data=b"")), keep_kinds=True)


def test_overlays_that_are_mounted_nowhere(tmp_path: Path) -> None:
    for name in ("low", "high", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "low/a").write_text("low")
    (tmp_path / "high/a").write_text("high")
    (tmp_path / "low/b").write_text("b")
    mounts = Path("/proc/self/mounts").read_text()
    with mounted_overlay([tmp_path / "high", tmp_path / "low"]) as root:
        assert (read_text(root, "/a"), read_text(root, "/b")) == ("high", "b")
        assert Path("/proc/self/mounts").read_text() == mounts
    with writable_overlay([tmp_path / "high", tmp_path / "low"], tmp_path / "upper", tmp_path / "work") as root:
        archive.extract(root, "/", tar(member("c", data=b"new")))
    assert (tmp_path / "upper/c").read_text() == "new"


def test_copying_a_tree_keeps_what_matters(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "sub").mkdir(parents=True)
    target.mkdir()
    (source / "sub/file").write_text("text")
    (source / "link").symlink_to("sub/file")
    os.chown(source / "sub/file", 7, 8)
    (source / "sub/file").chmod(0o4711)
    source.chmod(0o1777)
    copy_tree(source, target)
    status = (target / "sub/file").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (7, 8, 0o4711)
    assert (target / "link").readlink() == Path("sub/file")
    assert target.stat().st_mode & 0o7777 == 0o1777


def test_a_volume_is_in_use_while_its_container_is_made(tmp_path: Path) -> None:
    volumes, events = Volumes(tmp_path / "volumes", lambda: 5), EventBus(lambda: 5)
    volumes.load()
    (tmp_path / "image/etc").mkdir(parents=True)
    (tmp_path / "image/etc/passwd").write_text("root")
    mounts = [
        VolumeMount("volume", "", "/etc", name="named"), VolumeMount("volume", "", "/scratch", anonymous=True),
    ]  # fmt: skip

    async def scenario() -> None:
        making = NewVolumes(cast(Parts, SimpleNamespace(volumes=volumes, events=events)))
        first, second = await asyncio.gather(*(making.make(name, mounts, [tmp_path / "image"]) for name in "ab"))
        assert (volumes.get("named").mountpoint / "passwd").read_text() == "root"
        assert first[0] == second[0] and first[1].name != second[1].name
        assert making.wanted() == {"a": {"named", first[1].name}, "b": {"named", second[1].name}}
        making.settle("a")
        await making.abandon("b")
        assert "named" in volumes and first[1].name in volumes and second[1].name not in volumes

    asyncio.run(scenario())


def test_volumes_outlive_the_daemon(tmp_path: Path) -> None:
    volumes = Volumes(tmp_path / "volumes", lambda: 5)
    volumes.load()
    named = volumes.create("data", labels={"a": "1"})
    anonymous = volumes.create()
    assert volumes.create("data") is named
    again = Volumes(tmp_path / "volumes", lambda: 6)
    again.load()
    assert again.get("data") == named
    assert [volume.name for volume in again.matching(Filters({"label": ("a",)}), {})] == ["data"]
    assert [v.name for v in again.matching(Filters({"dangling": ("true",)}), {"data"})] == [anonymous.name]
    with pytest.raises(Conflict, match="in use"):
        again.remove("data", {"data": ["c1"]})
    assert again.prune(Filters(), {})[0] == [anonymous.name]
    again.remove("data", {})
    with pytest.raises(NotFound):
        again.get("data")
    with pytest.raises(NotSupported, match="nfs"):
        again.create("x", driver="nfs")
    with pytest.raises(InvalidArgument):
        again.create("../x")
