"""The image store: what the engine knows of images, over content, layers, snapshots and the catalog.

Owns    the directory it is given, and the order of things: blobs first, then layers, then the catalog, which alone
        makes an image exist. What no image and no snapshot needs is swept away.
Loop    All file work is done in threads. What is asked of memory (`resolve`, `list`) never waits.
"""

from __future__ import annotations

import asyncio
import builtins
import json
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from swarmpy.errors import InvalidArgument
from swarmpy.image.archive import SavedImage, manifest_media_type, read_archive, write_archive
from swarmpy.image.catalog import Catalog, Image, Record, Removed
from swarmpy.image.changes import apply_changes
from swarmpy.image.compression import Compression, decompress
from swarmpy.image.content import ContentStore
from swarmpy.image.digest import Digest, chain_ids
from swarmpy.image.durable import Trash, replace_file
from swarmpy.image.flights import Flights
from swarmpy.image.history import HistoryEntry, image_history
from swarmpy.image.layers import Layer, LayerStore, peek_compression
from swarmpy.image.manifest import (
    CONFIG_LIMIT,
    MANIFEST_LIMIT,
    OCI_CONFIG,
    Descriptor,
    ImageConfig,
    Manifest,
    Platform,
    build_manifest,
    layer_media_type,
    parse_config,
    parse_document,
    time_text,
)
from swarmpy.image.pipeline import Pieces, file_pieces, run_with_source
from swarmpy.image.progress import Listener, Progress, quiet
from swarmpy.image.pull import Puller, RemoteImage
from swarmpy.image.reference import Reference, parse_reference
from swarmpy.image.registry import RegistryAuth, RegistryConfig
from swarmpy.image.snapshots import OverlaySnapshotter, RootFS, Snapshotter
from swarmpy.image.unpack import UnpackLimits

__all__ = ["ImageStore", "Loaded"]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
IMPORTED = "Imported from -"


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image that came out of an archive, and the short names that it got there."""

    image: Image
    references: tuple[str, ...]


class ImageStore:
    """Images of one host, under one directory that belongs to it alone.

    The directory must be on a file system that overlayfs takes as upper (ext4, xfs, btrfs, tmpfs), and the process
    must be root. `now` is the clock in Unix nanoseconds, for the dates of new images.
    """

    def __init__(
        self,
        root: Path,
        *,
        limits: UnpackLimits | None = None,
        registries: RegistryConfig | None = None,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = root
        self._now = now
        self._limits = limits or UnpackLimits()
        self._trash = Trash(root / "trash")
        self._content = ContentStore(root)
        self._content.clear_ingest()
        self._layers = LayerStore(root, self._trash, self._limits, BOOT_ID.read_text().strip())
        self._snapshots: Snapshotter = OverlaySnapshotter(root, self._trash)
        self._catalog = self._read_catalog()
        self._catalog_lock = asyncio.Lock()
        self._trash_lock = asyncio.Lock()
        self._puller = Puller(self._content, registries or RegistryConfig())
        self._unpacking: Flights[Digest, Layer] = Flights()
        self._incoming = 0
        self._sweep_due = False
        self._sweeps_soon = False
        self._background: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """What a crash left behind is gone. The store works without it, and takes more room."""
        await self._sweep()

    async def close(self) -> None:
        """All that was begun has ended, and every layer is on disk."""
        while self._background:
            await asyncio.wait(self._background)
        await self._puller.close()
        await asyncio.to_thread(self._layers.make_durable)

    # Bringing images in

    async def import_tar(
        self, source: Path | AsyncIterator[bytes], reference: str | None, changes: builtins.list[str], message: str
    ) -> Image:
        """An image of one layer from a root file system's tar archive, plain or compressed.

        `changes` are Dockerfile instructions for its configuration. Raises InvalidArgument for the archive, the
        reference or a change. Source  `POST /images/create?fromSrc=`.
        """
        name = _tag_reference(reference) if reference else None
        container_config = apply_changes({}, changes)
        async with self._bringing_in():
            layer, blob = await run_with_source(source, self._import_layer)
            created = time_text(self._now())
            here = Platform.here()
            config = {
                "architecture": here.architecture,
                "os": here.os,
                "created": created,
                "config": container_config,
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
                "comment": message or IMPORTED,
                "history": [{"created": created, "comment": message or IMPORTED}],
            } | ({"variant": here.variant} if here.variant else {})
            manifest = await asyncio.to_thread(self._put_manifest, config, [blob])
            return await self._add(manifest, [name] if name else [])

    def _import_layer(self, pieces: Pieces) -> tuple[Layer, Descriptor]:
        """Store and unpack at once. A compression that layers cannot have is undone first."""
        compression, pieces = peek_compression(pieces)
        if compression not in (Compression.NONE, Compression.GZIP, Compression.ZSTD):
            pieces = decompress(pieces, compression, self._limits.bytes)
            compression = Compression.NONE
        with self._content.writer() as writer:

            def stored() -> Pieces:
                for piece in pieces:
                    writer.write(piece)
                    yield piece

            plain = compression is Compression.NONE
            layer = self._layers.unpack(None, stored(), None, (lambda: writer.digest) if plain else None)
            digest = writer.commit()
        return layer, Descriptor(layer_media_type(compression), digest, self._content.size(digest))

    def _put_manifest(self, config: dict[str, Any], layers: builtins.list[Descriptor]) -> Digest:
        data = json.dumps(config, separators=(",", ":")).encode()
        digest = self._content.put(data)
        return self._content.put(build_manifest(Descriptor(OCI_CONFIG, digest, len(data)), layers))

    async def load(self, source: Path | AsyncIterator[bytes]) -> builtins.list[Loaded]:
        """Every image of an archive that `save`, `docker save` or `skopeo copy` wrote.

        Raises InvalidArgument, NotSupported. Source  `POST /images/load`.
        """
        async with self._bringing_in():
            limit = self._limits.bytes
            found = await run_with_source(source, lambda pieces: read_archive(pieces, self._content, limit))
            loaded = []
            for archived in found:
                parent = archived.parent if archived.parent in self._catalog.images else None
                image = await self._add(archived.manifest, builtins.list(archived.references), parent)
                loaded.append(Loaded(image, tuple(reference.familiar for reference in archived.references)))
            self._sweep_due = True  # what else was in the archive
            return loaded

    async def pull(
        self,
        reference: str,
        auth: RegistryAuth | None,
        progress: Listener,
        platform: str | None = None,
    ) -> Image:
        """The image that a registry has under `reference`, for `platform` (such as `linux/arm64`) or this host's.

        `progress` is told every step, on the event loop. Raises NotFound, Forbidden, Unavailable, InvalidArgument,
        NotSupported. Source  `POST /images/create?fromImage=`.
        """
        name = parse_reference(reference)
        wanted = Platform.parse(platform) if platform else None
        async with self._bringing_in():
            pulling = await self._puller.begin(name, auth, progress, wanted)
            try:
                before = self._catalog.find(name)
                names = [replace(name, digest=pulling.digest)]
                image = await self._add(pulling.manifest, names, None, progress, pulling.layers)
            finally:
                await pulling.stop()
            self._sweep_due = True  # the manifest of an image that was here already, made otherwise
        progress(Progress(f"Digest: {pulling.digest}"))
        news = "Image is up to date for" if before == image.id else "Downloaded newer image for"
        progress(Progress(f"Status: {news} {name.familiar}"))
        return image

    async def look_up(self, reference: str, auth: RegistryAuth | None) -> RemoteImage:
        """What a registry has under `reference`, without pulling it. Source  `GET /distribution/{name}/json`.

        Raises NotFound, Forbidden, Unavailable, InvalidArgument, NotSupported.
        """
        return await self._puller.look_up(parse_reference(reference), auth)

    async def _add(
        self,
        manifest_digest: Digest,
        references: builtins.list[Reference],
        parent: Digest | None = None,
        listener: Listener = quiet,
        arriving: Mapping[Digest, asyncio.Task[None]] = MappingProxyType({}),
    ) -> Image:
        """The image exists, unpacked and under these names.

        Its manifest and configuration are in the content store; so is each layer once its task in `arriving` has ended.
        """
        manifest, config = await asyncio.to_thread(self._read_image, manifest_digest)
        image_id = manifest.config.digest
        await self._unpack_chain(manifest, config, listener, arriving)
        chains = chain_ids(config.diff_ids)
        blobs = (manifest_digest, image_id, *(layer.digest for layer in manifest.layers))
        size = sum(self._layers.get(chain).size_bytes for chain in chains)
        now = self._now()
        record = Record(manifest_digest, tuple(dict.fromkeys(blobs)), size, now, parent, config=config)

        def change(catalog: Catalog) -> Catalog:
            catalog = catalog.with_image(image_id, record)
            for reference in references:
                catalog = catalog.with_reference(reference, image_id, now)
            return catalog

        await self._change(change)
        return self._catalog.image(image_id)

    def _read_image(self, manifest_digest: Digest) -> tuple[Manifest, ImageConfig]:
        what = f"manifest {manifest_digest}"
        manifest = parse_document(self._content.read(manifest_digest, MANIFEST_LIMIT), "", what)
        if not isinstance(manifest, Manifest):
            raise InvalidArgument(f"{what} is an index; an image manifest is needed here")
        config_digest = manifest.config.digest
        config = parse_config(self._content.read(config_digest, CONFIG_LIMIT), f"image config {config_digest}")
        if len(config.diff_ids) != len(manifest.layers):
            raise InvalidArgument(
                f"{what} has {len(manifest.layers)} layers and its configuration {len(config.diff_ids)} diff ids"
            )
        return manifest, config

    async def _unpack_chain(
        self,
        manifest: Manifest,
        config: ImageConfig,
        listener: Listener,
        arriving: Mapping[Digest, asyncio.Task[None]] = MappingProxyType({}),
    ) -> None:
        """Unpack what is missing, bottom first: each layer as soon as it is here, while others still come."""
        parent: Digest | None = None
        for blob, diff_id, chain_id in zip(manifest.layers, config.diff_ids, chain_ids(config.diff_ids), strict=True):
            if blob.digest in arriving:
                await arriving[blob.digest]
            if not self._layers.has(chain_id):
                await self._unpack(blob, parent, diff_id, chain_id, listener)
            parent = chain_id

    async def _unpack(
        self, blob: Descriptor, parent: Digest | None, diff_id: Digest, chain_id: Digest, listener: Listener
    ) -> None:
        loop = asyncio.get_running_loop()
        short = blob.digest.partition(":")[2][:12]

        async def start(tell: Listener) -> Layer:
            def on_read(done: int) -> None:
                loop.call_soon_threadsafe(tell, Progress("Extracting", short, done, blob.size))

            pieces = file_pieces(self._content.path(blob.digest), on_read)
            layer = await asyncio.to_thread(self._layers.unpack, parent, pieces, diff_id)
            self._spawn(asyncio.to_thread(self._layers.make_durable))
            return layer

        try:
            await self._unpacking.join(chain_id, start, listener)
        except InvalidArgument as error:
            raise InvalidArgument(f"layer {blob.digest}: {error}") from error
        listener(Progress("Pull complete", short))

    # Taking images out

    def save(self, references: builtins.list[str]) -> AsyncIterator[bytes]:
        """A tar archive of these images in both layouts, readable by Docker, containerd, podman and skopeo.

        A name without a tag means all tags of its repository; an id, the image without names. Raises NotFound and
        Conflict at once, before the first byte. Source  `GET /images/get`.
        """
        chosen: dict[Digest, builtins.list[Reference]] = {}
        for text in references:
            for image_id, names in self._catalog.select(text).items():
                wanted = chosen.setdefault(image_id, [])
                wanted += [name for name in names if name not in wanted]
        return self._archive(chosen)

    def meant(self, references: builtins.list[str]) -> builtins.list[Digest]:
        """Ids of the images that `save` of these writes."""
        return list(dict.fromkeys(image_id for text in references for image_id in self._catalog.select(text)))

    async def _archive(self, chosen: Mapping[Digest, builtins.list[Reference]]) -> AsyncIterator[bytes]:
        async with self._bringing_in():
            images = await asyncio.to_thread(
                lambda: [self._saved_image(image_id, names) for image_id, names in chosen.items()]
            )
            pieces = write_archive(images, self._content)
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece

    def _saved_image(self, image_id: Digest, names: builtins.list[Reference]) -> SavedImage:
        image = self._catalog.image(image_id)
        data = self._content.read(image.manifest, MANIFEST_LIMIT)
        manifest, config = self._read_image(image.manifest)
        document = config.document
        return SavedImage(
            manifest=Descriptor(manifest_media_type(data), image.manifest, len(data)),
            config=manifest.config,
            layers=manifest.layers,
            platform=Platform(
                document.get("os") or "linux", document.get("architecture") or "", document.get("variant") or ""
            ),
            references=tuple(names),
            parent=image.parent,
        )

    # Asking

    def resolve(self, reference_or_id: str) -> Image:
        """The image of that name, digest, id or beginning of an id. Raises NotFound, or Conflict when ambiguous."""
        return self._catalog.image(self._catalog.resolve(reference_or_id))

    def list(self) -> builtins.list[Image]:
        """Every image, newest first."""
        images = [self._catalog.image(image_id) for image_id in self._catalog.images]
        return sorted(images, key=lambda image: (-image.created_ns, image.id))

    def history(self, reference_or_id: str) -> builtins.list[HistoryEntry]:
        """The steps that made the image, newest first. Raises NotFound."""
        image = self.resolve(reference_or_id)
        sizes = [self._layers.get(chain).size_bytes if self._layers.has(chain) else 0 for chain in image.chains]
        return image_history(image.id, image.config, sizes, image.references)

    # Naming and removing

    async def tag(self, image: str, reference: str) -> None:
        """`reference` means that image from now on. Raises NotFound, InvalidArgument."""
        name = _tag_reference(reference)
        now = self._now()
        await self._change(lambda catalog: catalog.with_reference(name, catalog.resolve(image), now))

    async def remove(
        self, reference_or_id: str, *, force: bool, in_use: Collection[str], running: Collection[str] = ()
    ) -> builtins.list[Removed]:
        """Untag, or delete with the last name; `Catalog.remove` has the rules. `in_use` are image ids.

        Layers under a snapshot stay until it is released. Raises NotFound, Conflict.
        """
        removed: tuple[Removed, ...] = ()

        def change(catalog: Catalog) -> Catalog:
            nonlocal removed
            removal = catalog.remove(reference_or_id, force=force, in_use=in_use, running=running)
            removed = removal.removed
            return removal.catalog

        await self._change(change)
        if any(line.deleted for line in removed):
            await self._sweep()
        return builtins.list(removed)

    # Root file systems

    async def prepare(self, image: Image, key: str) -> RootFS:
        """A writable root file system on the image's layers, ready to be mounted; the same again for the same key.

        To be called before every start: it also restores layers that a loss of power has taken. Raises InvalidArgument,
        Conflict when `key` has another image's snapshot, NotFound when the image is gone.
        """
        async with self._bringing_in():
            chains = image.chains
            if not self._content.has(image.manifest) or not all(self._layers.has(chain) for chain in chains):
                manifest, config = await asyncio.to_thread(self._read_image, image.manifest)
                await self._unpack_chain(manifest, config, quiet)
            top = chains[-1] if chains else None
            lower = self._layers.lower(top) or [self._layers.empty]
            found = self._snapshots.find(key, top, lower)
            if found is not None:
                return found
            return await asyncio.to_thread(self._snapshots.prepare, key, top, lower)

    def prepared(self) -> frozenset[str]:
        """The keys of all root file systems there are."""
        return frozenset(self._snapshots.tops())

    async def release(self, key: str) -> None:
        """The root file system of `key`, with all that was written into it, is gone; no error when there is none. The
        space it took is given back a little later."""
        if await asyncio.to_thread(self._snapshots.release, key) and not self._sweeps_soon:
            self._sweeps_soon = True
            self._spawn(self._sweep())

    # The catalog, and what it no longer holds

    async def _change(self, change: Callable[[Catalog], Catalog]) -> None:
        async with self._catalog_lock:
            changed = change(self._catalog)
            await asyncio.to_thread(replace_file, self._root / "images.json", changed.dump())
            self._catalog = changed

    def _read_catalog(self) -> Catalog:
        path = self._root / "images.json"
        if not path.exists():
            return Catalog()
        data = path.read_bytes()
        configs = {
            image_id: parse_config(self._content.read(image_id, CONFIG_LIMIT), f"image config {image_id}")
            for image_id in Catalog.ids(data)
            if self._content.has(image_id)
        }
        return Catalog.parse(data, configs)

    @asynccontextmanager
    async def _bringing_in(self) -> AsyncIterator[None]:
        """Nothing is swept while new blobs and layers are not in the catalog yet; afterwards, what never got there."""
        self._incoming += 1
        try:
            yield
        except BaseException:
            self._sweep_due = True
            raise
        finally:
            self._incoming -= 1
            if not self._incoming and self._sweep_due:
                self._spawn(self._sweep())

    def _garbage(self) -> tuple[builtins.list[Digest], builtins.list[Digest]]:
        """Blobs and layers that no image and no snapshot needs."""
        chains = self._catalog.live_chains()
        for snapshot_top in self._snapshots.tops().values():
            top = snapshot_top
            while top is not None and self._layers.has(top):
                chains.add(top)
                top = self._layers.get(top).parent
        return sorted(self._content.digests() - self._catalog.live_blobs()), sorted(self._layers.chains() - chains)

    async def _sweep(self) -> None:
        self._sweeps_soon = False
        self._sweep_due = bool(self._incoming)
        if self._sweep_due:
            return
        blobs, chains = self._garbage()
        # Forgotten at once, before anything else runs: whoever wants one of them from here on brings it in again.
        blobs, chains = self._content.forget(blobs), self._layers.forget(chains)

        def delete() -> None:
            self._content.unlink(blobs)
            self._layers.discard(chains)
            self._trash.empty()

        async with self._trash_lock:
            await asyncio.to_thread(delete)

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _tag_reference(text: str) -> Reference:
    """A reference that may be given to an image: one without a digest."""
    reference = parse_reference(text)
    if reference.digest is not None:
        raise InvalidArgument(f"invalid reference {text!r}: an image is tagged by name and tag, not by digest")
    return replace(reference, tag=reference.tag or "latest")
