"""Nothing in a layer reaches outside the layer, and what is in it arrives as it was."""

from __future__ import annotations

import os
import random
import stat
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest

from swarmpy.errors import InvalidArgument, SwarmpyError
from swarmpy.image.durable import Trash
from swarmpy.image.tar_reader import Bytes, TarReader
from swarmpy.image.unpack import Unpacked, UnpackLimits, unpack_layer
from tests.image.archives import Tar, header, pieces

pytestmark = pytest.mark.root


class Place:
    """A directory with layers in it, and beside them things that must stay as they are."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trash = Trash(root / "trash")
        self.outside = root / "outside"
        (self.outside / "dir").mkdir(parents=True)
        (self.outside / "secret").write_text("secret")
        self.layers: list[Path] = []
        self.result: Unpacked

    def unpack(self, data: bytes | Tar, limits: UnpackLimits = UnpackLimits()) -> Path:  # noqa: B008 (immutable)
        layer = self.root / f"layer{len(self.layers)}"
        layer.mkdir()
        plain = data.bytes() if isinstance(data, Tar) else data
        self.result = unpack_layer(TarReader(Bytes(pieces(plain, 4000))), layer, self.layers[::-1], self.trash, limits)
        self.layers.append(layer)
        return layer

    def state_outside(self) -> list[tuple[str, int, int, int]]:
        found = []
        for path in sorted(self.outside.rglob("*")):
            status = path.lstat()
            found.append((str(path), status.st_mode, status.st_mtime_ns, status.st_nlink))
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def hostile(outside: Path) -> dict[str, Tar]:
    """Archives that would write to, link to, or change what lies outside, if anything let them."""
    up = "../" * 20
    return {
        "dot dot": Tar().file(f"{up}{outside}/evil"),
        "dot dot after a name": Tar().directory("a").file(f"a/../../{up}{outside}/evil"),
        "absolute": Tar().file(f"{outside}/evil"),
        "symlink, then through it": Tar().symlink("link", str(outside)).file("link/evil"),
        "relative symlink, then through it": Tar().symlink("link", f"{up}{outside}").file("link/evil"),
        "symlink to a symlink": Tar().symlink("a", "b").symlink("b", str(outside)).file("a/evil"),
        "symlink in the middle": Tar().directory("d").symlink("d/l", str(outside)).file("d/l/dir/evil"),
        "symlink, then a directory on it": Tar()
        .symlink("link", str(outside))
        .directory("link", 0o777)
        .file("link/evil"),
        "symlink as a file": Tar().symlink("f", f"{outside}/secret").file("f", b"changed"),
        "hard link out": Tar().hardlink("h", f"{outside}/secret").file("h", b"changed"),
        "hard link out by dots": Tar().hardlink("h", f"{up}{outside}/secret"),
        "hard link through a symlink": Tar().symlink("l", str(outside)).hardlink("h", "l/secret").file("h", b"changed"),
        "hard link to a symlink": Tar().symlink("l", f"{outside}/secret").hardlink("h", "l").add("h", mode=0o777),
        "metadata through a symlink": Tar().directory("d").symlink("l", f"{outside}/dir").directory("l", 0o777),
        "whiteout out": Tar().symlink("l", str(outside)).file("l/.wh.secret"),
        "opaque out": Tar().symlink("l", str(outside)).file("l/.wh..wh..opq"),
        "whiteout of dot dot": Tar().directory("a").file("a/.wh..."),
        "whiteout of dot": Tar().directory("a").file("a/.wh.."),
        "whiteout of nothing": Tar().directory("a").file("a/.wh."),
        "magic link": Tar().symlink("l", "/proc/self/root").file(f"l{outside}/evil"),
        "magic link to the working directory": Tar().symlink("l", "/proc/self/cwd").file("l/evil"),
        "device through a symlink": Tar().symlink("l", str(outside)).add("l/null", tarfile.CHRTYPE, device=(1, 3)),
        "symlink through a symlink": Tar().symlink("l", str(outside)).symlink("l/evil", "/etc/passwd"),
        "name in an extended header": Tar().file("x", pax={"path": f"{up}{outside}/evil"}),
        "link in an extended header": Tar().add("x", tarfile.LNKTYPE, pax={"linkpath": f"{outside}/secret"}),
    }


@pytest.mark.parametrize("name", hostile(Path("/x")).keys())
def test_hostile_archives_change_nothing_outside(place: Place, name: str) -> None:
    before = place.state_outside()
    try:
        place.unpack(hostile(place.outside)[name])
    except InvalidArgument as error:
        assert "archive entry" in str(error)
    assert place.state_outside() == before
    assert (place.outside / "secret").read_text() == "secret"


@pytest.mark.parametrize(
    ("archive", "word"),
    [
        (Tar().file("../evil"), "leads out of the layer"),
        (Tar().file("a/../../evil"), "leads out of the layer"),
        (Tar().hardlink("h", "../secret"), "leads out of the layer"),
        (Tar().hardlink("h", "nothing"), "is not in the layer"),
        (Tar().directory("d").hardlink("h", "d"), "hard link to a directory"),
        (Tar().file("n" * 256), "longer than 255"),
        (Tar().file("d/" * 2100 + "f"), "path of no bytes"),
        (Tar().file("f").file("f/below"), "cannot be unpacked"),
        (Tar().symlink("l", "nowhere").file("l/f"), "cannot be unpacked"),
        (Tar().symlink("a", "b").symlink("b", "a").file("a/f"), "cannot be unpacked"),
        (Tar().file("."), "names the root"),
        (Tar().directory("d").file("d/.wh."), "whiteout of nothing"),
        (Tar().directory("d").file("d/.wh..."), "whiteout of nothing"),
        (Tar().directory(".wh.d").file(".wh.d/f"), "under a whiteout"),
        (Tar().add("c", tarfile.CHRTYPE, device=(1 << 12, 0)), "device"),
        (header(b"") + bytes(1024), "no bytes"),
    ],
)
def test_refusals_name_the_entry(place: Place, archive: Tar | bytes, word: str) -> None:
    with pytest.raises(InvalidArgument, match=word):
        place.unpack(archive)


def test_a_whole_file_system_arrives_as_it_was(place: Place, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/su").write_bytes(b"#!" * 5000)
    os.chown(tree / "bin/su", 0, 42)
    (tree / "bin/su").chmod(0o4755)
    os.setxattr(tree / "bin/su", "user.note", b"\x00binary\n=")
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    (tree / "bin/ping").write_bytes(b"ping")
    os.setxattr(tree / "bin/ping", "security.capability", capability)
    (tree / "empty").mkdir(mode=0o1777)
    (tree / "empty").chmod(0o1777)
    os.chown(tree / "empty", 1000, 2000)
    (tree / "link").symlink_to("/bin/su")
    os.link(tree / "bin/su", tree / "hard")
    os.link(tree / "link", tree / "hardlink-to-symlink", follow_symlinks=False)
    os.mkfifo(tree / "fifo", 0o620)
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(tree / "loop", stat.S_IFBLK | 0o660, os.makedev(7, 300))
    for path in (tree / "bin/su", tree / "link", tree / "empty", tree / "bin", tree):
        os.utime(path, ns=(1_234_567_890_123_456_789, 1_234_567_890_123_456_789), follow_symlinks=False)
    subprocess.run(
        ["tar", "--format=posix", "--xattrs", "--xattrs-include=*", "-C", tree, "-cf", tmp_path / "a.tar", "."],
        check=True,
    )
    layer = place.unpack((tmp_path / "a.tar").read_bytes())

    def describe(root: Path) -> dict[str, object]:
        seen: dict[str, object] = {}
        for path in [root, *sorted(root.rglob("*"))]:
            status = path.lstat()
            times = status.st_mtime_ns
            xattrs = {
                name: os.getxattr(path, name, follow_symlinks=False)
                for name in os.listxattr(path, follow_symlinks=False)
            }
            content = (
                path.read_bytes() if stat.S_ISREG(status.st_mode) else os.readlink(path) if path.is_symlink() else None
            )
            seen[str(path.relative_to(root))] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_rdev,
                times,
                status.st_nlink,
                xattrs,
                content,
            )
        return seen

    assert describe(layer) == describe(tree)
    assert place.result.size_bytes == 10004


def test_a_later_entry_replaces_an_earlier_one(place: Place) -> None:
    layer = place.unpack(
        Tar()
        .file("a", b"1").file("a", b"2")
        .file("f", b"file").directory("f").file("f/in", b"in")
        .directory("d").file("d/deep/er/x", b"x").file("d", b"now a file")
        .directory("e").file("e/x").symlink("e", "f").file("e/y", b"through the link")
        .symlink("s", "f").directory("s").file("s/own", b"own")
        .hardlink("a", "a")
        .directory("keep", 0o700).file("keep/x", b"x").directory("keep", 0o711)
    )  # fmt: skip
    assert (layer / "a").read_bytes() == b"2"
    assert (layer / "f/in").read_bytes() == b"in"
    assert (layer / "d").read_bytes() == b"now a file"
    assert (layer / "f/y").read_bytes() == b"through the link"
    assert not (layer / "f/x").exists()
    assert (layer / "s/own").exists() and not (layer / "s").is_symlink()
    assert (layer / "keep/x").exists() and stat.S_IMODE((layer / "keep").stat().st_mode) == 0o711


def test_directory_times_are_set_last_and_only_on_directories(place: Place) -> None:
    layer = place.unpack(
        Tar()
        .directory("d", mtime=100)
        .file("d/f", mtime=200)
        .directory("x", mtime=300)
        .file("x/f")
        .file("x", mtime=400)
    )
    assert (layer / "d").stat().st_mtime == 100
    assert (layer / "x").stat().st_mtime == 400


def test_orders_to_overlayfs_are_not_taken_from_a_layer(place: Place) -> None:
    orders = {
        "SCHILY.xattr.trusted.overlay.redirect": "/../../outside",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.overlay.metacopy": "",
        "SCHILY.xattr.user.fine": "yes",
    }
    layer = place.unpack(Tar().directory("d", pax=orders).file("f", pax=orders))
    assert os.listxattr(layer / "d") == os.listxattr(layer / "f") == ["user.fine"]


def test_sparse_files_keep_their_holes(place: Place, tmp_path: Path) -> None:
    with open(tmp_path / "holes", "wb") as file:
        file.seek(1 << 20)
        file.write(b"data")
        file.truncate(64 << 20)
    subprocess.run(["tar", "-S", "-C", tmp_path, "-cf", tmp_path / "a.tar", "holes"], check=True)
    layer = place.unpack((tmp_path / "a.tar").read_bytes())
    status = (layer / "holes").stat()
    assert status.st_size == 64 << 20
    assert status.st_blocks * 512 < 1 << 20
    assert subprocess.run(["cmp", layer / "holes", tmp_path / "holes"], check=False).returncode == 0


def test_implied_directories_are_like_those_below(place: Place) -> None:
    place.unpack(
        Tar().directory("./", 0o711).directory("srv", 0o2750, owner=(7, 8), mtime=50).directory("srv/a", 0o700)
    )
    layer = place.unpack(Tar().file("srv/a/new").file("only/here"))
    assert stat.S_IMODE(layer.stat().st_mode) == 0o711
    status = (layer / "srv").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime) == (0o2750, 7, 8, 50)
    assert stat.S_IMODE((layer / "srv/a").stat().st_mode) == 0o700
    assert stat.S_IMODE((layer / "only").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("limits", "archive"),
    [
        (UnpackLimits(bytes=1000), Tar().file("a", b"x" * 600).file("b", b"x" * 600)),
        (UnpackLimits(entries=2), Tar().file("a").file("b").file("c")),
    ],
)
def test_limits(place: Place, limits: UnpackLimits, archive: Tar) -> None:
    with pytest.raises(InvalidArgument, match="limit"):
        place.unpack(archive, limits)


def merged(place: Place, command: str) -> str:
    """What a shell says in the overlay of all layers, mounted where nobody else sees it."""
    upper, work, root = place.root / "upper", place.root / "work", place.root / "merged"
    for path in (upper, work, root):
        path.mkdir()
    lower = ":".join(str(path) for path in reversed(place.layers))
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    script = f"mount -t overlay overlay -o {options} {root} && cd {root} && {command}"
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_whiteouts_hide_what_is_below(place: Place) -> None:
    place.unpack(
        Tar().file("gone", b"1").file("stays", b"1").directory("dir").file("dir/gone").file("dir/stays")
        .directory("opaque").file("opaque/old").directory("refilled").file("refilled/old").file("back", b"old")
        .directory("implied").file("implied/old").directory("late").file("late/old").directory("usr").file("usr/x")
    )  # fmt: skip
    layer = place.unpack(
        Tar().file(".wh.gone").file("dir/.wh.gone").file("dir/new")
        .file("opaque/new").file("opaque/.wh..wh..opq")
        .file(".wh.refilled").directory("refilled").file("refilled/new")
        .file(".wh.back").file("back", b"new")
        .file(".wh.implied").file("implied/new")
        .directory("late").file("late/new").file(".wh.late")
        .file(".wh..wh.aufs").directory(".wh..wh.plnk").file(".wh..wh.plnk/1.2").file("has.wh.inside")
    )  # fmt: skip
    assert stat.S_ISCHR((layer / "gone").stat().st_mode) and (layer / "gone").stat().st_rdev == 0
    assert os.getxattr(layer / "opaque", "trusted.overlay.opaque") == b"y"
    found = merged(place, "cat back; echo; find . -type f | sort")
    assert found.split() == [
        "new", "./back", "./dir/new", "./dir/stays", "./has.wh.inside", "./implied/new", "./late/new", "./opaque/new",
        "./refilled/new", "./stays", "./usr/x",
    ]  # fmt: skip


def test_an_opaque_root_says_so(place: Place) -> None:
    place.unpack(Tar().file(".wh..wh..opq").file("a"))
    assert place.result.opaque_root
    place.unpack(Tar().file("b"))
    assert not place.result.opaque_root


def test_deep_trees_are_thrown_away_without_recursion(place: Place) -> None:
    """Deeper than Python's stack, the limit on open files and PATH_MAX."""
    layer = place.unpack(Tar().directory("root"))
    fd = os.open(layer / "root", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("x", dir_fd=fd)
        deeper = os.open("x", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    place.trash.throw(layer)
    place.trash.empty()
    assert list(place.trash.path.iterdir()) == []


def test_emptying_the_trash_follows_no_link(place: Place) -> None:
    before = place.state_outside()
    layer = place.unpack(Tar().symlink("l", str(place.outside)).directory("d").symlink("d/l", str(place.outside)))
    place.trash.throw(layer)
    place.trash.empty()
    assert place.state_outside() == before


def test_random_names_and_links_never_escape(place: Place) -> None:
    """A thousand small archives of hostile parts in every order."""
    chance = random.Random(20)
    parts = ["a", "b", "..", ".", "", "l", ".wh.a", ".wh..wh..opq", str(place.outside), "secret", "dir"]
    targets = ["/", "..", "../../outside", str(place.outside), "a", "l", "/proc/self/root", "/proc/self/cwd/../outside"]
    before = place.state_outside()
    for number in range(1000):
        archive = Tar()
        for _ in range(chance.randint(2, 7)):
            name = "/".join(chance.choice(parts) for _ in range(chance.randint(1, 4)))
            kind = chance.choice([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
            archive.add(name, kind, link=chance.choice(targets), mode=0o777, device=(1, 3))
        try:
            layer = place.unpack(archive)
        except SwarmpyError:
            layer = place.root / f"layer{len(place.layers)}"
        assert place.state_outside() == before, f"archive {number}"
        place.layers.clear()
        place.trash.throw(layer)
    place.trash.empty()
