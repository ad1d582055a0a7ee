"""The store: importing, naming, removing, root file systems, and what a crash leaves."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import json
import lzma
import os
import shutil
import stat
import subprocess
import tarfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from swarmpy.errors import Conflict, Internal, InvalidArgument, NotFound
from swarmpy.image import Image, ImageStore, Removed, UnpackLimits, zstd
from tests.image.archives import Tar, pieces

pytestmark = pytest.mark.root

SECOND = 1_000_000_000


def with_store(
    root: Path, scenario: Callable[[ImageStore], Awaitable[None]], limits: UnpackLimits | None = None
) -> None:
    """Run `scenario` on a store under `root`; afterwards no task of the store is left."""

    async def run() -> None:
        store = ImageStore(root, limits=limits)
        await store.start()
        try:
            await scenario(store)
        finally:
            await store.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


async def stream(data: bytes) -> AsyncIterator[bytes]:
    for piece in pieces(data, 3000):
        yield piece


async def make(store: ImageStore, reference: str | None, *files: str, changes: list[str] | None = None) -> Image:
    """An image of one layer with these files, each holding its own name."""
    archive = Tar()
    for name in files:
        archive.file(name, name.encode())
    return await store.import_tar(stream(archive.bytes()), reference, changes or [], "")


def blobs(root: Path) -> int:
    return len(list((root / "content/sha256").iterdir()))


def layers(root: Path) -> int:
    return len([path for path in (root / "layers").iterdir() if path.is_dir() and path.name != "empty"])


def test_import_makes_an_image_that_can_be_run(tmp_path: Path, rootfs: Path) -> None:
    async def scenario(store: ImageStore) -> None:
        image = await store.import_tar(rootfs, "busybox", ['CMD ["sh"]', "ENV A=1", "EXPOSE 80"], "first")
        assert image.references == ("busybox:latest",)
        assert image.config["config"] == {"Cmd": ["sh"], "Env": ["A=1"], "ExposedPorts": {"80/tcp": {}}}
        assert image.config["rootfs"] == {"type": "layers", "diff_ids": list(image.layers)}
        assert image.size_bytes == Path("/bin/busybox").stat().st_size + len("root:x:0:0::/:/bin/sh\n")
        (step,) = store.history("busybox")
        assert (step.id, step.comment, step.size_bytes, step.tags) == (
            image.id, "first", image.size_bytes, ("busybox:latest",),
        )  # fmt: skip
        rootfs_ = await store.prepare(image, "c1")
        assert rootfs_ == await store.prepare(image, "c1")
        options = f"lowerdir={':'.join(map(str, rootfs_.lower))},upperdir={rootfs_.upper},workdir={rootfs_.work}"
        script = (
            f"mount -t overlay overlay -o {options} /mnt && chroot /mnt /bin/sh -c 'cat /etc/passwd; echo w > /new'"
        )
        done = await asyncio.to_thread(
            subprocess.run, ["unshare", "-m", "sh", "-c", script], check=True, capture_output=True
        )
        assert done.stdout == b"root:x:0:0::/:/bin/sh\n"
        assert (rootfs_.upper / "new").read_text() == "w\n"
        assert stat.S_IMODE(rootfs_.upper.stat().st_mode) == 0o755  # as the archive's ./ entry has it
        await store.release("c1")
        assert not rootfs_.upper.exists()

    with_store(tmp_path / "store", scenario)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd.compress, lzma.compress, bz2.compress])
def test_import_of_every_compression_gives_the_same_layer(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    data = Tar().file("a", os.urandom(3_000_000)).bytes()

    async def scenario(store: ImageStore) -> None:
        image = await store.import_tar(stream(compress(data)), None, [], "")
        plain = await store.import_tar(stream(data), None, [], "")
        assert image.layers == plain.layers
        assert image.references == ()
        assert layers(tmp_path / "store") == 1

    with_store(tmp_path / "store", scenario)


def test_gzip_of_several_members_and_padding(tmp_path: Path) -> None:
    data = Tar().file("a", b"a" * 5000).bytes()
    wrapped = gzip.compress(data[:1000]) + gzip.compress(b"") + gzip.compress(data[1000:]) + bytes(600)

    async def scenario(store: ImageStore) -> None:
        image = await store.import_tar(stream(wrapped), None, [], "")
        assert image.layers == (await store.import_tar(stream(data), None, [], "")).layers

    with_store(tmp_path, scenario)


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress, lzma.compress, bz2.compress])
@pytest.mark.parametrize("damage", ["cut", "flip", "garbage"])
def test_damaged_archives_are_refused_and_leave_nothing(
    tmp_path: Path, compress: Callable[[bytes], bytes], damage: str
) -> None:
    data = bytearray(compress(Tar().file("a", os.urandom(100_000)).bytes()))
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flip":
        data[len(data) // 2 :] = bytes(byte ^ 0x55 for byte in data[len(data) // 2 :])
    else:
        data += b"garbage"

    async def scenario(store: ImageStore) -> None:
        with pytest.raises(InvalidArgument):
            await store.import_tar(stream(bytes(data)), "x", [], "")
        assert store.list() == []

    with_store(tmp_path, scenario)
    assert (blobs(tmp_path), layers(tmp_path)) == (0, 0)
    assert [*(tmp_path / "ingest").iterdir(), *(tmp_path / "unpack").iterdir(), *(tmp_path / "trash").iterdir()] == []


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress, lzma.compress])
def test_a_decompression_bomb_is_refused_at_the_limit(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(Tar().file("a", bytes(80 << 20)).bytes())
    assert len(bomb) < 200_000

    async def scenario(store: ImageStore) -> None:
        with pytest.raises(InvalidArgument, match="limit"):
            await store.import_tar(stream(bomb), None, [], "")

    with_store(tmp_path, scenario, UnpackLimits(bytes=8 << 20))


def test_import_refuses_before_it_reads(tmp_path: Path) -> None:
    async def scenario(store: ImageStore) -> None:
        for reference, changes in (("Upper", []), ("x", ["RUN make"]), ("x@sha256:" + "0" * 64, [])):
            with pytest.raises(InvalidArgument):
                await store.import_tar(tmp_path / "does-not-exist", reference, changes, "")

    with_store(tmp_path / "store", scenario)


def test_a_cancelled_import_stops_and_leaves_nothing(tmp_path: Path) -> None:
    async def endless(begun: asyncio.Event) -> AsyncIterator[bytes]:
        yield Tar().file("a", bytes(100_000)).bytes()[:50_000]
        begun.set()
        await asyncio.Event().wait()

    async def scenario(store: ImageStore) -> None:
        begun = asyncio.Event()
        importing = asyncio.create_task(store.import_tar(endless(begun), "x", [], ""))
        await begun.wait()
        importing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await importing
        assert not [thread for thread in threading.enumerate() if thread.name == "image-read"]

    with_store(tmp_path, scenario)
    assert (blobs(tmp_path), layers(tmp_path)) == (0, 0)
    assert list((tmp_path / "ingest").iterdir()) == []


def test_names(tmp_path: Path) -> None:
    async def scenario(store: ImageStore) -> None:
        one, two = await make(store, "one", "1"), await make(store, "two:v2", "2")
        assert store.resolve("one").id == store.resolve("docker.io/library/one:latest").id == one.id
        assert store.resolve(two.id).id == store.resolve(two.id[7:]).id == store.resolve(two.id[7:19]).id == two.id
        assert store.resolve(two.id[:20]).id == two.id
        for text in ("two", "one:v2", "three", "sha256:" + "0" * 64, "UPPER", ""):
            with pytest.raises(NotFound, match="No such image"):
                store.resolve(text)
        await store.tag("one", "two:v2")
        assert store.resolve("two:v2").references == ("one:latest", "two:v2")
        assert store.resolve(two.id).references == ()
        await store.tag(two.id[7:15], "localhost:5000/team/two")
        assert store.resolve("localhost:5000/team/two:latest").id == two.id
        with pytest.raises(NotFound):
            await store.tag("nothing", "x")
        with pytest.raises(InvalidArgument):
            await store.tag("one", "x@sha256:" + "0" * 64)
        assert [image.id for image in store.list()] == [two.id, one.id]

    with_store(tmp_path, scenario)

    async def again(store: ImageStore) -> None:
        assert store.resolve("two:v2").references == ("one:latest", "two:v2")
        assert len(store.list()) == 2

    with_store(tmp_path, again)


def test_a_short_id_that_several_have_is_a_conflict(tmp_path: Path) -> None:
    async def scenario(store: ImageStore) -> None:
        images = [await make(store, None, str(number)) for number in range(17)]
        first = [image.id[7] for image in images]
        twice = next(digit for digit in first if first.count(digit) > 1)
        with pytest.raises(Conflict, match="ambiguous"):
            store.resolve(twice)
        await store.tag(images[0].id, twice)
        assert store.resolve(twice).id == images[0].id  # a name wins
        assert await store.remove(twice, force=False, in_use=()) == [
            Removed(untagged=f"{twice}:latest"), Removed(deleted=images[0].id),
        ]  # fmt: skip
        assert store.resolve(images[1].id).id == images[1].id

    with_store(tmp_path, scenario)


def test_removing(tmp_path: Path) -> None:
    async def scenario(store: ImageStore) -> None:
        image = await make(store, "a", "1")
        await store.tag("a", "b")
        with pytest.raises(Conflict, match="multiple repositories"):
            await store.remove(image.id, force=False, in_use=())
        assert await store.remove("a", force=False, in_use=[image.id]) == [Removed(untagged="a:latest")]
        with pytest.raises(Conflict, match="must force"):
            await store.remove("b", force=False, in_use=[image.id])
        with pytest.raises(Conflict, match="stopped container"):
            await store.remove(image.id, force=False, in_use=[image.id])
        with pytest.raises(Conflict, match="cannot be forced"):
            await store.remove(image.id, force=True, in_use=[image.id], running=[image.id])
        await store.tag("b", "b:two")
        assert await store.remove(image.id[7:19], force=False, in_use=()) == [
            Removed(untagged="b:latest"), Removed(untagged="b:two"), Removed(deleted=image.id),
        ]  # fmt: skip
        with pytest.raises(NotFound):
            await store.remove("b", force=True, in_use=())
        assert (blobs(tmp_path), layers(tmp_path)) == (0, 0)

    with_store(tmp_path, scenario)


def test_forced_removal_keeps_the_layers_of_running_containers(tmp_path: Path) -> None:
    async def scenario(store: ImageStore) -> None:
        image = await make(store, "a", "file")
        rootfs = await store.prepare(image, "c1")
        assert await store.remove("a", force=True, in_use=[image.id], running=[image.id]) == [
            Removed(untagged="a:latest")
        ]
        assert (await store.remove(image.id, force=True, in_use=[image.id]))[-1] == Removed(deleted=image.id)
        assert blobs(tmp_path) == 0
        assert (rootfs.lower[0] / "file").read_text() == "file"
        with pytest.raises(NotFound):
            await store.prepare(image, "c2")
        await store.release("c1")
        await store.close()
        assert layers(tmp_path) == 0

    with_store(tmp_path, scenario)


def test_layers_are_shared_and_counted(tmp_path: Path) -> None:
    async def scenario(store: ImageStore) -> None:
        one = await make(store, "one", "same")
        await make(store, "two", "same", changes=["CMD x"])
        assert layers(tmp_path) == 1
        await store.remove("one", force=False, in_use=())
        assert layers(tmp_path) == 1
        assert (await store.prepare(store.resolve("two"), "c")).lower[0].exists()
        with pytest.raises(NotFound):
            store.resolve(one.id)

    with_store(tmp_path, scenario)


def test_a_snapshot_key_belongs_to_one_image(tmp_path: Path) -> None:
    async def scenario(store: ImageStore) -> None:
        one, two = await make(store, "one", "1"), await make(store, "two", "2")
        await store.prepare(one, "c1")
        with pytest.raises(Conflict, match="release it first"):
            await store.prepare(two, "c1")
        for key in ("", "../evil", "a/b", ".hidden", "x" * 200):
            with pytest.raises(InvalidArgument, match="snapshot key"):
                await store.prepare(one, key)
        await store.release("never-was")
        together = await asyncio.gather(*(store.prepare(one, f"k{number}") for number in range(20)))
        assert len({rootfs.upper for rootfs in together}) == 20

    with_store(tmp_path, scenario)


def test_an_image_without_layers_has_a_root_too(tmp_path: Path) -> None:
    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}}
    ).encode()
    manifest = json.dumps([{"Config": "c.json", "RepoTags": ["scratch:x"], "Layers": []}]).encode()
    archive = Tar().file("c.json", config).file("manifest.json", manifest).bytes()

    async def scenario(store: ImageStore) -> None:
        (loaded,) = await store.load(stream(archive))
        rootfs = await store.prepare(loaded.image, "c")
        assert [list(path.iterdir()) for path in rootfs.lower] == [[]]

    with_store(tmp_path, scenario)


def test_an_opaque_root_hides_all_below(tmp_path: Path) -> None:
    def layered(*archives: bytes) -> bytes:
        import hashlib

        diff_ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in archives]
        outer = Tar().file("c.json", json.dumps({"rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode())
        for number, data in enumerate(archives):
            outer.file(f"{number}.tar", data)
        names = [f"{number}.tar" for number in range(len(archives))]
        return outer.file("manifest.json", json.dumps([{"Config": "c.json", "Layers": names}]).encode()).bytes()

    async def scenario(store: ImageStore) -> None:
        (loaded,) = await store.load(
            stream(
                layered(Tar().file("a").bytes(), Tar().file(".wh..wh..opq").file("b").bytes(), Tar().file("c").bytes())
            )
        )
        lower = (await store.prepare(loaded.image, "c")).lower
        assert [sorted(os.listdir(path)) for path in lower] == [["c"], ["b"]]

    with_store(tmp_path, scenario)


# After a crash


def test_start_removes_partial_work(tmp_path: Path) -> None:
    async def scenario(store: ImageStore) -> None:
        await make(store, "a", "1")

    with_store(tmp_path, scenario)
    (tmp_path / "ingest/partial").write_bytes(b"half")
    (tmp_path / "unpack/half").mkdir()
    (tmp_path / "unpack/half/file").touch()
    (tmp_path / "layers/without-record").mkdir()
    (tmp_path / "layers/.record.json.new").write_text("{")
    (tmp_path / "snapshots/half/upper").mkdir(parents=True)
    (tmp_path / "trash/old/deep").mkdir(parents=True)
    (tmp_path / ".images.json.new").write_text("{")
    (tmp_path / f"content/sha256/{'ab' * 32}").write_bytes(b"of no image")

    async def again(store: ImageStore) -> None:
        assert [image.references for image in store.list()] == [("a:latest",)]

    with_store(tmp_path, again)
    for directory in ("ingest", "unpack", "snapshots", "trash"):
        assert list((tmp_path / directory).iterdir()) == [], directory
    assert (blobs(tmp_path), layers(tmp_path)) == (3, 1)


def test_layers_that_a_power_loss_may_have_hurt_are_unpacked_again(tmp_path: Path) -> None:
    async def scenario(store: ImageStore) -> None:
        await make(store, "a", "file")

    with_store(tmp_path, scenario)
    (record,) = (tmp_path / "layers").glob("*.json")
    known = json.loads(record.read_text())
    assert known["durable"]  # close() saw to that
    record.write_text(json.dumps(known | {"durable": False, "boot_id": "another"}))
    (record.with_suffix("") / "file").write_bytes(b"")  # as delayed allocation leaves it

    async def again(store: ImageStore) -> None:
        assert layers(tmp_path) == 0
        rootfs = await store.prepare(store.resolve("a"), "c")
        assert (rootfs.lower[0] / "file").read_text() == "file"

    with_store(tmp_path, again)


def test_damage_on_disk_is_told(tmp_path: Path) -> None:
    async def scenario(store: ImageStore) -> None:
        await make(store, "a", "file")

    with_store(tmp_path, scenario)
    image = json.loads((tmp_path / "images.json").read_text())
    (image_id,) = image["images"]
    layer = image["images"][image_id]["blobs"][2]
    shutil.rmtree(tmp_path / "layers")
    path = tmp_path / "content" / layer.replace(":", "/")
    path.write_bytes(path.read_bytes()[:600].ljust(path.stat().st_size, b"x"))

    async def again(store: ImageStore) -> None:
        with pytest.raises(InvalidArgument, match=layer):
            await store.prepare(store.resolve("a"), "c")
        with pytest.raises(Internal, match="damaged"):
            async for _ in store.save(["a"]):
                pass

    with_store(tmp_path, again)
    (tmp_path / "content" / image_id.replace(":", "/")).write_bytes(b"{}")
    with pytest.raises(Internal, match="damaged"):
        ImageStore(tmp_path)
    (tmp_path / "images.json").write_text("{")
    with pytest.raises(Internal, match=r"images\.json"):
        ImageStore(tmp_path)


def test_what_is_stored_is_for_root_alone(tmp_path: Path) -> None:
    async def scenario(store: ImageStore) -> None:
        await store.prepare(await make(store, "a", "file"), "c")

    with_store(tmp_path / "store", scenario)
    for path in (tmp_path / "store").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) in (0o700, 0o600), path


def test_unknown_kinds_of_entries_are_refused(tmp_path: Path) -> None:
    async def scenario(store: ImageStore) -> None:
        with pytest.raises(InvalidArgument, match="leads out"):
            await store.import_tar(stream(Tar(tarfile.GNU_FORMAT).file("../x").bytes()), None, [], "")

    with_store(tmp_path, scenario)
