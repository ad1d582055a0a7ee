"""Image archives: what `docker save` writes and `docker load` reads.

Owns    both layouts in one tar: `manifest.json` of Docker, `index.json` of OCI, over the same blobs.
Source  OCI image-spec, image-layout.md; Docker image specification 1.2, "Combined Image JSON + Filesystem Changeset
        Format"; `GET /images/get` and `POST /images/load`.
"""

from __future__ import annotations

import json
import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from swarmpy.errors import InvalidArgument, NotSupported
from swarmpy.image.compression import MAGIC_BYTES, Compression, decompress, detect
from swarmpy.image.content import ContentStore
from swarmpy.image.digest import Digest, parse_digest
from swarmpy.image.layers import peek_compression
from swarmpy.image.manifest import (
    MANIFEST_LIMIT,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    build_manifest,
    layer_media_type,
    parse_document,
)
from swarmpy.image.pipeline import Pieces
from swarmpy.image.reference import Reference, parse_reference
from swarmpy.image.tar_reader import Bytes, EntryKind, TarEntry, TarReader

__all__ = ["Archived", "SavedImage", "manifest_media_type", "read_archive", "write_archive"]

CONTAINERD_NAME = "io.containerd.image.name"
OCI_REF_NAME = "org.opencontainers.image.ref.name"
DOCUMENTS = ("manifest.json", "index.json", "oci-layout")
_IGNORED = re.compile(r"(?:.*/)?(?:VERSION|json)|repositories")
"""Of the layout that came before `manifest.json`; nothing in it is needed."""
_BLOB = re.compile(r"blobs/(sha256|sha512)/([0-9a-f]+)")
FILE_LIMIT = 100_000
LINK_HOPS = 8


@dataclass(frozen=True, slots=True)
class Archived:
    """An image that an archive held. All its blobs are in the content store."""

    manifest: Digest
    references: tuple[Reference, ...]
    parent: Digest | None = None


@dataclass(frozen=True, slots=True)
class SavedImage:
    """An image to be written."""

    manifest: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    platform: Platform
    references: tuple[Reference, ...]
    parent: Digest | None


@dataclass(slots=True)
class _Files:
    """What an archive holds, by path."""

    blobs: dict[str, Digest] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    documents: dict[str, Any] = field(default_factory=dict)

    def blob(self, path: object, what: str) -> Digest:
        """The blob at `path`, through links. Raises InvalidArgument."""
        found = posixpath.normpath(path) if isinstance(path, str) else ""
        for _ in range(LINK_HOPS):
            if found in self.blobs:
                return self.blobs[found]
            if found not in self.links:
                break
            found = self.links[found]
        raise InvalidArgument(f"the archive does not have {what} {path!r}")


def read_archive(pieces: Pieces, content: ContentStore, limit_bytes: int) -> list[Archived]:
    """Store every blob of an archive, compressed or not, and say which images it held. Blocks.

    Raises InvalidArgument for an archive that is damaged, incomplete or neither layout, NotSupported for one from
    before Docker 1.10.
    """
    compression, pieces = peek_compression(pieces)
    files = _Files()
    reader = TarReader(Bytes(decompress(pieces, compression, limit_bytes)))
    for entry in reader:
        if len(files.blobs) + len(files.links) > FILE_LIMIT:
            raise InvalidArgument(f"the archive has more than {FILE_LIMIT} files, more than images need")
        _collect(entry, reader, files, content)
    images: dict[Digest, Archived] = {}
    if "index.json" in files.documents:
        found = _oci_images(files, content)
    elif "manifest.json" in files.documents:
        found = _docker_images(files, content)
    elif files.blobs or files.links:
        raise NotSupported("the archive has neither manifest.json nor index.json; save it with Docker 1.10 or later")
    else:
        raise InvalidArgument("the archive holds no image: it has neither manifest.json nor index.json")
    for image in found:
        known = images.get(image.manifest, Archived(image.manifest, ()))
        references = tuple(dict.fromkeys((*known.references, *image.references)))
        images[image.manifest] = Archived(image.manifest, references, known.parent or image.parent)
    return list(images.values())


def write_archive(images: Sequence[SavedImage], content: ContentStore) -> Pieces:
    """The bytes of an archive that holds `images`, each blob once. Reading it blocks; blobs are checked on the way."""
    yield _header("blobs/", None)
    yield _header("blobs/sha256/", None)
    written: set[Digest] = set()
    for image in images:
        for blob in (*image.layers, image.config, image.manifest):
            if blob.digest not in written:
                written.add(blob.digest)
                yield from _blob_member(blob.digest, content)
    for name, document in (
        ("index.json", _index_document(images)),
        ("manifest.json", _docker_document(images)),
        ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
        ("repositories", _repositories_document(images)),
    ):
        data = json.dumps(document, separators=(",", ":")).encode()
        yield _header(name, len(data))
        yield data + bytes(-len(data) % 512)
    yield bytes(1024)


# Reading


def _collect(entry: TarEntry, reader: TarReader, files: _Files, content: ContentStore) -> None:
    path = posixpath.normpath(entry.name.decode("utf-8", "surrogateescape").lstrip("/"))
    if entry.kind is EntryKind.SYMLINK:
        target = entry.link.decode("utf-8", "surrogateescape")
        files.links[path] = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    elif entry.kind is EntryKind.HARDLINK:
        files.links[path] = posixpath.normpath(entry.link.decode("utf-8", "surrogateescape").lstrip("/"))
    elif entry.kind is not EntryKind.FILE or _IGNORED.fullmatch(path):
        return
    elif path in DOCUMENTS:
        if entry.size > MANIFEST_LIMIT:
            raise InvalidArgument(f"the archive's {path} has {entry.size} bytes; at most {MANIFEST_LIMIT} are read")
        try:
            files.documents[path] = json.loads(b"".join(reader.data(entry)))
        except (ValueError, RecursionError):
            raise InvalidArgument(f"the archive's {path} is not JSON") from None
    else:
        named = _BLOB.fullmatch(path)
        expected = parse_digest(f"{named[1]}:{named[2]}", "the archive's blob") if named else None
        with content.writer(named[1] if named else "sha256") as writer:
            for piece in reader.data(entry):
                writer.write(piece)
            files.blobs[path] = writer.commit(expected)


def _oci_images(files: _Files, content: ContentStore) -> Iterator[Archived]:
    tags = _docker_tags(files)
    index = parse_document(json.dumps(files.documents["index.json"]).encode(), OCI_INDEX, "the archive's index.json")
    if not isinstance(index, Index):
        raise InvalidArgument("the archive's index.json is not an index")
    for descriptor, found in index.entries:
        if found is not None and found.os == "unknown":
            continue  # an attestation about an image, not an image
        names = _annotated_names(descriptor)
        manifest_digest, manifest = _find_manifest(descriptor, files, content)
        for blob in (manifest.config, *manifest.layers):
            _oci_blob(blob.digest, files)
        names += [name for name in tags.get(manifest.config.digest, []) if name not in names]
        yield Archived(manifest_digest, tuple(names))


def _find_manifest(descriptor: Descriptor, files: _Files, content: ContentStore) -> tuple[Digest, Manifest]:
    """The manifest that an entry means, through one further index of platforms."""
    document = _oci_document(descriptor, files, content)
    if isinstance(document, Index):
        descriptor = document.choose(Platform.here(), "the archive")
        document = _oci_document(descriptor, files, content)
    if isinstance(document, Index):
        raise InvalidArgument(f"the archive's {descriptor.digest} is an index within an index; an image is expected")
    return descriptor.digest, document


def _oci_document(descriptor: Descriptor, files: _Files, content: ContentStore) -> Manifest | Index:
    data = content.read(_oci_blob(descriptor.digest, files), MANIFEST_LIMIT)
    return parse_document(data, descriptor.media_type, f"the archive's manifest {descriptor.digest}")


def _oci_blob(digest: Digest, files: _Files) -> Digest:
    return files.blob(f"blobs/{digest.replace(':', '/')}", "blob")


def _annotated_names(descriptor: Descriptor) -> list[Reference]:
    """A full name, or what some tools write into the annotation that is meant for the tag alone."""
    if full := descriptor.annotations.get(CONTAINERD_NAME):
        return [_tagged(full)]
    short = descriptor.annotations.get(OCI_REF_NAME, "")
    return [_tagged(short)] if ":" in short or "/" in short else []


def _docker_tags(files: _Files) -> dict[Digest, list[Reference]]:
    """References by image id, of an archive that has both layouts."""
    tags: dict[Digest, list[Reference]] = {}
    for item in _docker_items(files) if "manifest.json" in files.documents else ():
        config = files.blob(item.get("Config"), "configuration")
        tags.setdefault(config, []).extend(_tagged(name) for name in item.get("RepoTags") or [])
    return tags


def _docker_images(files: _Files, content: ContentStore) -> Iterator[Archived]:
    for item in _docker_items(files):
        config = files.blob(item.get("Config"), "configuration")
        layers = [_layer_descriptor(files.blob(path, "layer"), content) for path in item.get("Layers") or []]
        manifest = build_manifest(Descriptor(OCI_CONFIG, config, content.size(config)), layers)
        parent = item.get("Parent")
        yield Archived(
            content.put(manifest),
            tuple(_tagged(name) for name in item.get("RepoTags") or []),
            parse_digest(parent, "the archive's Parent") if parent else None,
        )


def _docker_items(files: _Files) -> list[dict[str, Any]]:
    items = files.documents["manifest.json"]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InvalidArgument("the archive's manifest.json is not a list of images")
    for item in items:
        for name in ("RepoTags", "Layers"):
            values = item.get(name) or []
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                raise InvalidArgument(f"the archive's manifest.json has {name} that is not a list of texts")
    return items


def _layer_descriptor(layer: Digest, content: ContentStore) -> Descriptor:
    with open(content.path(layer), "rb") as file:
        compression = detect(file.read(MAGIC_BYTES))
    if compression not in (Compression.NONE, Compression.GZIP, Compression.ZSTD):
        raise NotSupported(f"layer {layer} is compressed with {compression.value}; layers are plain, gzip or zstd")
    return Descriptor(layer_media_type(compression), layer, content.size(layer))


def _tagged(text: str) -> Reference:
    reference = parse_reference(text)
    return reference if reference.tag else parse_reference(reference.name)


# Writing


def _blob_member(digest: Digest, content: ContentStore) -> Pieces:
    size = content.size(digest)
    yield _header(f"blobs/{digest.replace(':', '/')}", size)
    yield from content.chunks(digest)
    if size % 512:
        yield bytes(-size % 512)


def _index_document(images: Sequence[SavedImage]) -> dict[str, Any]:
    """An entry for each name, as Docker 25 and containerd write it; for an image without names, one without."""
    entries = []
    for image in images:
        plain = image.manifest.to_json() | {
            "platform": {
                "os": image.platform.os,
                "architecture": image.platform.architecture,
                **({"variant": image.platform.variant} if image.platform.variant else {}),
            }
        }
        for reference in image.references:
            annotations = {CONTAINERD_NAME: str(reference), OCI_REF_NAME: reference.tag or ""}
            entries.append(plain | {"annotations": annotations})
        if not image.references:
            entries.append(plain)
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}


def _docker_document(images: Sequence[SavedImage]) -> list[dict[str, Any]]:
    def path(blob: Descriptor) -> str:
        return f"blobs/{blob.digest.replace(':', '/')}"

    return [
        {
            "Config": path(image.config),
            "RepoTags": [reference.familiar for reference in image.references],
            "Layers": [path(layer) for layer in image.layers],
        }
        | ({"Parent": image.parent} if image.parent else {})
        for image in images
    ]


def _repositories_document(images: Sequence[SavedImage]) -> dict[str, dict[str, str]]:
    repositories: dict[str, dict[str, str]] = {}
    for image in images:
        top = image.layers[-1].digest if image.layers else image.config.digest
        for reference in image.references:
            repositories.setdefault(reference.familiar_name, {})[reference.tag or ""] = top.partition(":")[2]
    return repositories


def _header(name: str, size: int | None) -> bytes:
    """A member's header; a directory when there is no size. No date, no owner: the same images give the same bytes."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE if size is None else tarfile.REGTYPE
    info.mode = 0o755 if size is None else 0o644
    info.size = size or 0
    return info.tobuf(tarfile.PAX_FORMAT)


def manifest_media_type(data: bytes) -> str:
    """The media type that a stored manifest states for itself; OCI leaves that to the writer."""
    return str(json.loads(data).get("mediaType") or OCI_MANIFEST)
