"""Image archives go between swarmpy, skopeo, dockerd and plain tar, in both layouts."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmpy.errors import InvalidArgument, NotFound, NotSupported
from swarmpy.image import Image, ImageStore, zstd
from tests.image.archives import Tar, docker_archive
from tests.image.test_store import blobs, stream, with_store

pytestmark = pytest.mark.root

SKOPEO = ["skopeo", "--insecure-policy"]


def skopeo(*arguments: str | Path) -> bytes:
    done = subprocess.run([*SKOPEO, *arguments], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


async def saved(store: ImageStore, path: Path, *references: str) -> Path:
    with open(path, "wb") as file:
        async for piece in store.save(list(references)):
            file.write(piece)
    return path


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {
            member.name: (archive.extractfile(member) or io.BytesIO()).read() for member in archive if member.isfile()
        }


def test_what_is_saved_loads_elsewhere_unchanged(tmp_path: Path, rootfs: Path) -> None:
    images: list[Image] = []

    async def save(store: ImageStore) -> None:
        images.append(await store.import_tar(rootfs, "busybox", ['CMD ["sh"]'], ""))
        await store.tag("busybox", "localhost:5000/team/box:v1")
        images.append(await store.import_tar(stream(Tar().file("x").bytes()), "other:v2", [], ""))
        await saved(store, tmp_path / "all.tar", "busybox", "localhost:5000/team/box:v1", "other:v2")
        assert (
            await saved(store, tmp_path / "again.tar", "busybox:latest", "localhost:5000/team/box", "other")
        ) is not None

    async def load(store: ImageStore) -> None:
        loaded = await store.load(tmp_path / "all.tar")
        assert [(one.image.id, one.references) for one in loaded] == [
            (images[0].id, ("busybox:latest", "localhost:5000/team/box:v1")),
            (images[1].id, ("other:v2",)),
        ]
        assert [one.image.manifest for one in loaded] == [image.manifest for image in images]
        assert store.resolve("busybox").config == images[0].config
        assert (await store.prepare(store.resolve("other:v2"), "c")).lower[0].joinpath("x").exists()

    with_store(tmp_path / "one", save)
    with_store(tmp_path / "two", load)
    assert (tmp_path / "all.tar").read_bytes() == (tmp_path / "again.tar").read_bytes()
    assert (
        blobs(tmp_path / "two") == 6
    )  # manifest, configuration and layer of each; the archive's own documents are gone
    found = members(tmp_path / "all.tar")
    assert {"manifest.json", "index.json", "oci-layout", "repositories"} < found.keys()
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}


def test_what_a_name_saves(tmp_path: Path) -> None:
    async def scenario(store: ImageStore) -> None:
        image = await store.import_tar(stream(Tar().file("x").bytes()), "app:v1", [], "")
        await store.import_tar(stream(Tar().file("y").bytes()), "app:v2", [], "")

        async def tags(reference: str) -> list[list[str]]:
            found = members(await saved(store, tmp_path / "a.tar", reference))
            return [item["RepoTags"] for item in json.loads(found["manifest.json"])]

        assert await tags("app") == [["app:v1"], ["app:v2"]]
        assert await tags("app:v2") == [["app:v2"]]
        assert await tags(image.id) == await tags(image.id[7:19]) == [[]]
        for missing in ("nothing", "app:v3"):
            with pytest.raises(NotFound):
                store.save([missing])

    with_store(tmp_path / "store", scenario)


def test_skopeo_reads_both_layouts(tmp_path: Path, rootfs: Path) -> None:
    async def scenario(store: ImageStore) -> None:
        image = await store.import_tar(rootfs, "busybox:v1", ['CMD ["sh"]'], "")
        path = await saved(store, tmp_path / "a.tar", "busybox:v1")
        docker = await asyncio.to_thread(skopeo, "inspect", "--config", f"docker-archive:{path}:busybox:v1")
        assert json.loads(docker)["rootfs"]["diff_ids"] == list(image.layers)
        oci = await asyncio.to_thread(skopeo, "inspect", f"oci-archive:{path}:v1")
        assert json.loads(oci)["Digest"] == image.manifest

    with_store(tmp_path / "store", scenario)


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
def test_what_skopeo_writes_is_loaded(tmp_path: Path, rootfs: Path, transport: str) -> None:
    async def scenario(store: ImageStore) -> None:
        image = await store.import_tar(rootfs, "busybox:v1", ['CMD ["sh"]'], "")
        path = await saved(store, tmp_path / "a.tar", "busybox:v1")
        await asyncio.to_thread(skopeo, "copy", f"oci-archive:{path}:v1", f"{transport}:{tmp_path}/b.tar:busybox:v9")
        await store.remove("busybox:v1", force=False, in_use=())
        (loaded,) = await store.load(tmp_path / "b.tar")
        assert loaded.references == ("busybox:v9",)
        assert loaded.image.layers == image.layers
        assert loaded.image.config["config"] == {"Cmd": ["sh"]}

    with_store(tmp_path / "store", scenario)


@pytest.fixture
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Docker daemon without networks, on files of its own. Yields its DOCKER_HOST."""
    root = tmp_path_factory.mktemp("d")
    socket = root / "s"
    options = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--storage-driver=vfs"]
    places = [
        "--data-root",
        root / "data",
        "--exec-root",
        root / "exec",
        "--pidfile",
        root / "pid",
        "-H",
        f"unix://{socket}",
    ]
    script = ["unshare", "-m", "dockerd", *options, *places, "--config-file", root / "none.json"]
    (root / "none.json").write_text("{}")
    daemon = subprocess.Popen([str(word) for word in script], stderr=subprocess.PIPE)
    assert daemon.stderr is not None
    try:
        for line in daemon.stderr:
            if b"API listen on" in line:
                break
        else:
            pytest.fail(f"dockerd ended with {daemon.wait()}")
        yield f"unix://{socket}"
    finally:
        daemon.terminate()
        daemon.stderr.read()
        daemon.wait()
        daemon.stderr.close()


def test_dockerd_loads_what_is_saved_and_saves_what_is_loaded(tmp_path: Path, rootfs: Path, dockerd: str) -> None:
    environment = os.environ | {"DOCKER_HOST": dockerd}

    def docker(*arguments: str | Path) -> str:
        return subprocess.run(
            ["docker", *arguments], check=True, capture_output=True, text=True, env=environment
        ).stdout

    async def scenario(store: ImageStore) -> None:
        plain = await store.import_tar(rootfs, "box:plain", ['CMD ["sh"]', "EXPOSE 80"], "")
        packed = gzip.compress(rootfs.read_bytes())
        await store.import_tar(stream(packed), "box:gzip", [], "")
        path = await saved(store, tmp_path / "a.tar", "box")
        said = await asyncio.to_thread(docker, "load", "-i", path)
        assert "box:plain" in said and "box:gzip" in said
        (theirs,) = json.loads(await asyncio.to_thread(docker, "inspect", "box:plain"))
        assert theirs["Id"] == plain.id
        assert theirs["Config"]["Cmd"] == ["sh"] and theirs["Config"]["ExposedPorts"] == {"80/tcp": {}}
        await asyncio.to_thread(docker, "save", "-o", tmp_path / "b.tar", "box:plain")
        await store.remove("box:plain", force=False, in_use=())
        (back,) = await store.load(tmp_path / "b.tar")
        assert (back.image.id, back.references) == (plain.id, ("box:plain",))

    with_store(tmp_path / "store", scenario)


def test_old_archives_with_links_and_compressed_wholes(tmp_path: Path) -> None:
    layer = Tar().file("x", b"x" * 3000).bytes()
    archive = docker_archive([layer, gzip.compress(Tar().file("y").bytes())], tags=["old:1", "old:2"])
    twice = docker_archive([layer], tags=None, names=["0/layer.tar"]).bytes()

    async def scenario(store: ImageStore) -> None:
        for data in (archive.bytes(), gzip.compress(archive.bytes()), zstd.compress(archive.bytes())):
            (loaded,) = await store.load(stream(data))
            assert loaded.references == ("old:1", "old:2")
        rootfs = await store.prepare(store.resolve("old:2"), "c")
        assert [sorted(os.listdir(path)) for path in rootfs.lower] == [["y"], ["x"]]
        (dangling,) = await store.load(stream(twice))
        assert dangling.references == dangling.image.references == ()

    with_store(tmp_path, scenario)


def test_layers_behind_symbolic_links(tmp_path: Path) -> None:
    """Docker 1.10 to 24 save a layer once and link to it from the other images."""
    layer = Tar().file("x").bytes()
    diff_id = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [diff_id]}}).encode()
    items = [{"Config": "c.json", "RepoTags": ["l:1"], "Layers": ["b/layer.tar"]}]
    archive = Tar().file("a/layer.tar", layer).symlink("b/layer.tar", "../a/layer.tar").file("c.json", config)

    async def scenario(store: ImageStore) -> None:
        (loaded,) = await store.load(stream(archive.file("manifest.json", json.dumps(items).encode()).bytes()))
        assert loaded.image.layers == (diff_id,)

    with_store(tmp_path, scenario)


def oci(index: Any, *contents: bytes) -> Tar:
    archive = Tar().file("oci-layout", b"{}")
    for content in contents:
        archive.file(f"blobs/sha256/{hashlib.sha256(content).hexdigest()}", content)
    return archive.file("index.json", json.dumps(index).encode())


def described(content: bytes, media_type: str, **rest: Any) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": media_type, "digest": digest, "size": len(content), **rest}


OCI = "application/vnd.oci.image"


def test_an_oci_layout_with_platforms_and_attestations(tmp_path: Path) -> None:
    layer = zstd.compress(Tar().file("here").bytes())
    config = json.dumps(
        {
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(zstd.decompress(layer)).hexdigest()}"],
            }
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": described(config, f"{OCI}.config.v1+json"),
            "layers": [described(layer, f"{OCI}.layer.v1.tar+zstd")],
        }
    ).encode()
    here = {"os": "linux", "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]}
    platforms = json.dumps(
        {
            "schemaVersion": 2,
            "manifests": [
                described(b"other", f"{OCI}.manifest.v1+json", platform={"os": "plan9", "architecture": "mips"}),
                described(manifest, f"{OCI}.manifest.v1+json", platform=here),
            ],
        }
    ).encode()
    names = {"io.containerd.image.name": "docker.io/library/multi:1"}
    index = {
        "schemaVersion": 2,
        "manifests": [
            described(platforms, f"{OCI}.index.v1+json", annotations=names),
            described(b"?", f"{OCI}.manifest.v1+json", platform={"os": "unknown", "architecture": "unknown"}),
        ],
    }

    async def scenario(store: ImageStore) -> None:
        (loaded,) = await store.load(stream(oci(index, layer, config, manifest, platforms).bytes()))
        assert loaded.references == ("multi:1",)
        assert loaded.image.manifest == f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        assert os.listdir((await store.prepare(loaded.image, "c")).lower[0]) == ["here"]

    with_store(tmp_path, scenario)


def bad_archives() -> dict[str, tuple[bytes, str, type[Exception]]]:
    layer = Tar().file("x").bytes()
    good = docker_archive([layer], tags=["x:1"])
    digest = hashlib.sha256(b"blob").hexdigest()
    lying = Tar().file(f"blobs/sha256/{digest}", b"another").file("manifest.json", b"[]")
    wrong_layer = Tar().file("l", Tar().file("y").bytes()).file("manifest.json", b"x")
    manifest = json.dumps({"schemaVersion": 2, "config": described(b"c", "text/plain"), "layers": []}).encode()
    artifact = oci({"schemaVersion": 2, "manifests": [described(manifest, f"{OCI}.manifest.v1+json")]}, manifest, b"c")
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]}}).encode()
    mismatch = Tar().file("c", config).file("l", layer)
    mismatch.file("manifest.json", json.dumps([{"Config": "c", "Layers": ["l"]}]).encode())
    missing = Tar().file("c", config).file("manifest.json", json.dumps([{"Config": "c", "Layers": ["l"]}]).encode())
    escape = Tar().file("c", config).symlink("l", "/etc/passwd")
    escape.file("manifest.json", json.dumps([{"Config": "c", "Layers": ["l"]}]).encode())
    bad_tag = Tar().file("c", config).file("manifest.json", json.dumps([{"Config": "c", "RepoTags": ["UP"]}]).encode())
    return {
        "not an archive": (b"hello" * 300, "checksum", InvalidArgument),
        "empty": (b"", "no image", InvalidArgument),
        "a root file system": (Tar().file("etc/passwd").bytes(), "neither manifest.json", NotSupported),
        "cut short": (good.bytes()[:3000], "cut short", InvalidArgument),
        "a blob under another's digest": (lying.bytes(), "does not match its digest", InvalidArgument),
        "no json": (wrong_layer.bytes(), "not JSON", InvalidArgument),
        "not a list": (Tar().file("manifest.json", b"{}").bytes(), "not a list", InvalidArgument),
        "not an image": (artifact.bytes(), "not a container image", NotSupported),
        "layer of another diff id": (mismatch.bytes(), "does not match its diff id", InvalidArgument),
        "missing layer": (missing.bytes(), "does not have layer 'l'", InvalidArgument),
        "link out of the archive": (escape.bytes(), "does not have layer 'l'", InvalidArgument),
        "bad tag": (bad_tag.bytes(), "lower case", InvalidArgument),
    }


@pytest.mark.parametrize("name", bad_archives())
def test_bad_archives_say_what_is_wrong_and_leave_nothing(tmp_path: Path, name: str) -> None:
    data, word, kind = bad_archives()[name]

    async def scenario(store: ImageStore) -> None:
        with pytest.raises(kind, match=word):
            await store.load(stream(data))
        assert store.list() == []

    with_store(tmp_path, scenario)
    assert blobs(tmp_path) == 0


def test_saving_to_someone_who_stops_reading(tmp_path: Path, rootfs: Path) -> None:
    async def scenario(store: ImageStore) -> None:
        await store.import_tar(rootfs, "a", [], "")
        archive: AsyncIterator[bytes] = store.save(["a"])
        assert await anext(archive)
        await archive.aclose()  # type: ignore[attr-defined]  # it is a generator
        await store.remove("a", force=False, in_use=())
        assert blobs(tmp_path / "store") == 0

    with_store(tmp_path / "store", scenario)
