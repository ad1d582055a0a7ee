"""Manifests, indexes and configurations: the JSON documents that hold an image together.

Owns    reading them strictly (they come from strangers), writing ours, and choosing a platform. No I/O.
Source  OCI image-spec: manifest.md, image-index.md, config.md, descriptor.md; Docker "Image Manifest V 2, Schema 2".
"""

from __future__ import annotations

import calendar
import json
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swarmpy.errors import InvalidArgument, NotFound, NotSupported
from swarmpy.image.compression import Compression
from swarmpy.image.digest import Digest, parse_digest

__all__ = [
    "ACCEPTED",
    "CONFIG_LIMIT",
    "MANIFEST_LIMIT",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_MANIFEST",
    "Descriptor",
    "ImageConfig",
    "Index",
    "Manifest",
    "Platform",
    "build_manifest",
    "layer_media_type",
    "parse_config",
    "parse_document",
    "parse_time_ns",
    "time_text",
]

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
ACCEPTED = (OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST)
"""What a registry may answer with, the most telling first."""

MANIFEST_LIMIT = 4 << 20
"""Bytes of a manifest: what distribution-spec "Pushing Manifests" says a registry should at least take."""
CONFIG_LIMIT = 8 << 20
LAYER_LIMIT = 512

_LAYER_TYPE = re.compile(
    rf"(?:{re.escape(OCI_LAYER)}(?:\+(?:gzip|zstd))?|{re.escape(DOCKER_LAYER)}(?:\.(?:gzip|zstd))?)"
)
_FOREIGN = ("nondistributable", "foreign")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "riscv64": "riscv64"}
_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(?:[Zz]|([+-])(\d\d):(\d\d))")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Names a blob: what it is, its digest and its length in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        plain: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return plain | ({"annotations": dict(self.annotations)} if self.annotations else {})


@dataclass(frozen=True, slots=True)
class Platform:
    """Operating system and processor, as Go names them."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """`linux/arm64/v8`, `linux/amd64` or `arm64`. Raises InvalidArgument."""
        parts = text.lower().split("/")
        if not 1 <= len(parts) <= 3 or not all(re.fullmatch(r"[a-z0-9_.-]+", part) for part in parts):
            raise InvalidArgument(f"platform {text!r} is not os/architecture or os/architecture/variant")
        if len(parts) == 1:
            parts = ["linux", *parts]
        architecture = _ARCHITECTURES.get(parts[1], parts[1])
        return cls(parts[0], architecture, parts[2] if len(parts) == 3 else "")

    @classmethod
    def here(cls) -> Platform:
        """The platform this process runs on."""
        machine = platform.machine()
        return cls("linux", _ARCHITECTURES.get(machine, machine), "v7" if machine == "armv7l" else "")

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """The same image for several platforms; `entries` in order of preference."""

    entries: tuple[tuple[Descriptor, Platform | None], ...]

    def choose(self, wanted: Platform, what: str) -> Descriptor:
        """The entry for `wanted`. NotFound lists what there is. Source  image-index.md, "manifests"."""
        fitting = [
            (descriptor, found)
            for descriptor, found in self.entries
            if found is not None and (found.os, found.architecture) == (wanted.os, wanted.architecture)
        ]
        exact = [descriptor for descriptor, found in fitting if _variant(found) == _variant(wanted)]
        if exact:
            return exact[0]
        if fitting and not wanted.variant:
            return fitting[0][0]
        if len(self.entries) == 1 and self.entries[0][1] is None:
            return self.entries[0][0]
        present = ", ".join(str(found) for _, found in self.entries if found is not None and found.os != "unknown")
        raise NotFound(f"{what} has no image for {wanted}; it has {present or 'no platforms'}")


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The parts of an image configuration that the store needs, and the whole of it."""

    document: dict[str, Any]
    diff_ids: tuple[Digest, ...]
    created_ns: int


def parse_document(data: bytes, media_type: str, what: str) -> Manifest | Index:
    """A manifest or an index. InvalidArgument when it is malformed, NotSupported when it is of another kind."""
    document = _object(data, what)
    stated = document.get("mediaType", media_type) or media_type
    if document.get("schemaVersion") == 1 or "fsLayers" in document:
        raise NotSupported(f"{what} is in schema 1 of 2014, which is no longer read; push it anew")
    if document.get("schemaVersion") != 2:
        raise InvalidArgument(f"{what} has schemaVersion {document.get('schemaVersion')!r}; 2 is expected")
    if "manifests" in document and "layers" not in document and stated not in (OCI_MANIFEST, DOCKER_MANIFEST):
        return Index(tuple(_index_entry(entry, what) for entry in _array(document, "manifests", what)))
    if stated not in (OCI_MANIFEST, DOCKER_MANIFEST, "", "application/json") or "manifests" in document:
        raise NotSupported(f"{what} has media type {stated!r}, which is not an image manifest or index")
    return _manifest(document, what)


def parse_config(data: bytes, what: str) -> ImageConfig:
    """An image configuration. InvalidArgument when a field that the engine relies on is malformed."""
    document = _object(data, what)
    rootfs = document.get("rootfs")
    if not isinstance(rootfs, dict) or rootfs.get("type") != "layers":
        raise InvalidArgument(f"{what} has no rootfs of type layers: it is not a container image's configuration")
    diff_ids = tuple(parse_digest(item, f"{what}: diff id") for item in rootfs.get("diff_ids") or [])
    for name, kind in (("config", dict), ("history", list), ("os", str), ("architecture", str)):
        if document.get(name) is not None and not isinstance(document[name], kind):
            raise InvalidArgument(f"{what}: {name} is not a JSON {kind.__name__}")
    return ImageConfig(document, diff_ids, parse_time_ns(document.get("created")))


def build_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """The OCI manifest of an image, as bytes with a digest that does not vary."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def layer_media_type(compression: Compression) -> str:
    """The OCI media type of a layer. Only NONE, GZIP and ZSTD have one."""
    return OCI_LAYER + (f"+{compression.value}" if compression.value else "")


def parse_time_ns(text: object) -> int:
    """An RFC 3339 time in Unix nanoseconds; 0 when there is none or it is not one, as images without a date have."""
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return 0
    try:
        seconds = calendar.timegm(time.strptime(match[1].upper(), "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0
    if match[3]:
        offset = int(match[4]) * 3600 + int(match[5]) * 60
        seconds += -offset if match[3] == "+" else offset
    return max(0, seconds * 1_000_000_000 + int((match[2] or "").ljust(9, "0")))


def time_text(time_ns: int) -> str:
    """Unix nanoseconds as RFC 3339 in UTC."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


def _manifest(document: dict[str, Any], what: str) -> Manifest:
    config = _descriptor(document.get("config"), f"{what}: config")
    if config.media_type not in (OCI_CONFIG, DOCKER_CONFIG, "application/octet-stream", "application/json"):
        raise NotSupported(f"{what} holds {config.media_type!r}, which is not a container image")
    layers = tuple(_descriptor(item, f"{what}: layer") for item in _array(document, "layers", what))
    if len(layers) > LAYER_LIMIT:
        raise InvalidArgument(f"{what} has {len(layers)} layers; at most {LAYER_LIMIT} can be stacked")
    for layer in layers:
        if any(word in layer.media_type for word in _FOREIGN):
            raise NotSupported(f"{what}: layer {layer.digest} is {layer.media_type!r}, to be fetched from elsewhere")
        if not _LAYER_TYPE.fullmatch(layer.media_type):
            raise NotSupported(f"{what}: layer {layer.digest} has media type {layer.media_type!r}, not a tar layer")
    return Manifest(config, layers)


def _index_entry(entry: object, what: str) -> tuple[Descriptor, Platform | None]:
    descriptor = _descriptor(entry, f"{what}: entry")
    found = entry.get("platform") if isinstance(entry, dict) else None
    if not isinstance(found, dict):
        return descriptor, None
    words = [found.get(name) or "" for name in ("os", "architecture", "variant")]
    if not all(isinstance(word, str) for word in words):
        raise InvalidArgument(f"{what}: entry {descriptor.digest} has a malformed platform")
    return descriptor, Platform(*words)


def _descriptor(item: object, what: str) -> Descriptor:
    if not isinstance(item, dict):
        raise InvalidArgument(f"{what} is missing or not a descriptor")
    digest = parse_digest(item.get("digest"), f"{what}: digest")
    size, media_type, annotations = item.get("size"), item.get("mediaType", ""), item.get("annotations") or {}
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 1 << 63:
        raise InvalidArgument(f"{what} {digest} has size {size!r}, which is not a length")
    if not isinstance(media_type, str) or not isinstance(annotations, dict):
        raise InvalidArgument(f"{what} {digest} has a malformed mediaType or annotations")
    return Descriptor(media_type, digest, size, {str(key): str(value) for key, value in annotations.items()})


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidArgument(f"{what} is not JSON") from None
    if not isinstance(document, dict):
        raise InvalidArgument(f"{what} is not a JSON object")
    return document


def _array(document: dict[str, Any], name: str, what: str) -> list[Any]:
    value = document.get(name)
    if not isinstance(value, list):
        raise InvalidArgument(f"{what}: {name} is missing or not a list")
    return value


def _variant(found: Platform) -> str:
    """arm64 is always v8 at least; writers say so or leave it out."""
    return found.variant or ("v8" if found.architecture == "arm64" else "")
