"""Pulling: from a reference to blobs in the content store.

Owns    what is asked of a registry and in which order, how many blobs come at once on this host, and that no blob comes
        twice at the same time. Unpacking and naming are the store's.
Source  OCI distribution-spec "Pulling manifests" and "Pulling blobs"; `POST /images/create` for the progress texts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from swarmpy.errors import InvalidArgument, NotFound
from swarmpy.image.content import ContentStore
from swarmpy.image.digest import Digest, split_digest
from swarmpy.image.flights import Flights
from swarmpy.image.manifest import (
    CONFIG_LIMIT,
    Descriptor,
    Index,
    Manifest,
    Platform,
    parse_config,
    parse_document,
)
from swarmpy.image.progress import Listener, Progress, quiet
from swarmpy.image.reference import Reference
from swarmpy.image.registry import Registry, RegistryAuth, RegistryConfig, Repository

__all__ = ["Puller", "Pulling", "RemoteImage"]


@dataclass(frozen=True, slots=True)
class Pulling:
    """An image on its way in. The manifest and the configuration are in the content store already."""

    digest: Digest
    """What the reference means in the registry: of the index, where there is one."""
    manifest: Digest
    layers: Mapping[Digest, asyncio.Task[None]]
    """Each ends when its blob is in the content store."""

    async def stop(self) -> None:
        """No download of this pull goes on, unless another pull wants it too."""
        for task in self.layers.values():
            task.cancel()
        await asyncio.gather(*self.layers.values(), return_exceptions=True)


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """A manifest or index in a registry. `platforms` are those an index lists; none of a single manifest."""

    media_type: str
    digest: Digest
    size_bytes: int
    platforms: tuple[Platform, ...]


class Puller:
    """Used on one event loop."""

    def __init__(self, content: ContentStore, config: RegistryConfig) -> None:
        self._content = content
        self._registry = Registry(config)
        self._downloads: Flights[Digest, None] = Flights()
        self._slots = asyncio.Semaphore(config.parallel_downloads)

    async def close(self) -> None:
        """No connection is left open."""
        await self._registry.close()

    async def begin(
        self, reference: Reference, auth: RegistryAuth | None, listener: Listener, wanted: Platform | None
    ) -> Pulling:
        """Find the image for the platform (`wanted`, or this host's) and begin to download its layers.

        Raises NotFound, Forbidden, Unavailable, InvalidArgument or NotSupported, with the reference in the text.
        """
        listener(Progress(f"Pulling from {reference.path}", reference.selector))
        repository = self._registry.repository(reference, auth)
        what = f"manifest of {reference.familiar}"
        data, media_type, digest = await repository.manifest(reference.selector)
        document = parse_document(data, media_type, what)
        manifest_digest = digest
        if isinstance(document, Index):
            entry = document.choose(wanted or Platform.here(), reference.familiar)
            data, media_type, manifest_digest = await repository.manifest(entry.digest)
            document = parse_document(data, media_type or entry.media_type, what)
            if isinstance(document, Index):
                raise InvalidArgument(f"{what}: its entry {entry.digest} is another index; an image is expected")
        await asyncio.to_thread(self._put, data, manifest_digest)
        await self._fetch(repository, document.config, quiet)
        await self._check_config(reference, document, wanted)
        layers = {
            layer.digest: asyncio.create_task(self._fetch(repository, layer, listener)) for layer in document.layers
        }
        return Pulling(digest, manifest_digest, layers)

    async def look_up(self, reference: Reference, auth: RegistryAuth | None) -> RemoteImage:
        """What the registry has under `reference`, without taking it. Raises as `begin`."""
        data, media_type, digest = await self._registry.repository(reference, auth).manifest(reference.selector)
        document = parse_document(data, media_type, f"manifest of {reference.familiar}")
        entries = document.entries if isinstance(document, Index) else ()
        platforms = tuple(platform for _, platform in entries if platform is not None and platform.os != "unknown")
        return RemoteImage(media_type, digest, len(data), platforms)

    async def _check_config(self, reference: Reference, manifest: Manifest, wanted: Platform | None) -> None:
        data = await asyncio.to_thread(self._content.read, manifest.config.digest, CONFIG_LIMIT)
        config = parse_config(data, f"image config of {reference.familiar}").document
        found = Platform(config.get("os") or "", config.get("architecture") or "", "")
        if wanted is not None and (found.os, found.architecture) != (wanted.os, wanted.architecture):
            raise NotFound(f"{reference.familiar} has no image for {wanted}; it has {found}")
        if found.os not in ("linux", ""):
            raise InvalidArgument(f"{reference.familiar} is an image for {found.os}; this host runs linux")

    async def _fetch(self, repository: Repository, blob: Descriptor, listener: Listener) -> None:
        """The blob is in the content store."""
        short = blob.digest.partition(":")[2][:12]
        if self._content.has(blob.digest):
            listener(Progress("Already exists", short))
            return
        listener(Progress("Pulling fs layer", short))

        async def start(tell: Listener) -> None:
            async with self._slots:
                if not self._content.has(blob.digest):
                    await self._download(repository, blob, tell, short)

        await self._downloads.join(blob.digest, start, listener)
        listener(Progress("Download complete", short))

    async def _download(self, repository: Repository, blob: Descriptor, tell: Listener, short: str) -> None:
        with await asyncio.to_thread(self._content.writer, split_digest(blob.digest)[0]) as writer:
            await repository.download(
                blob, writer, lambda done: tell(Progress("Downloading", short, done, blob.size))
            )
            tell(Progress("Verifying Checksum", short))
            await asyncio.to_thread(writer.commit, blob.digest)

    def _put(self, data: bytes, digest: Digest) -> None:
        with self._content.writer(split_digest(digest)[0]) as writer:
            writer.write(data)
            writer.commit(digest)
