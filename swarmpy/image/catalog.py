"""The catalog: which images there are, what they are called, and what may be removed.

Owns    `images.json`: a record for each image id and an image id for each reference. A catalog is a value: every change
        makes a new one, so that a change which could not be written never happened.
Source  `GET /images/json`, `DELETE /images/{name}` of the Engine API.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from swarmpy.errors import Conflict, Internal, InvalidArgument, NotFound
from swarmpy.image.digest import DIGEST, Digest, chain_ids, parse_digest
from swarmpy.image.manifest import ImageConfig
from swarmpy.image.reference import Reference, parse_reference

__all__ = ["Catalog", "Image", "Record", "Removal", "Removed"]

VERSION = 1
_SHORT_ID = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")


@dataclass(frozen=True, slots=True)
class Image:
    """An image as the rest of the engine sees it."""

    id: Digest
    """Digest of its configuration."""
    manifest: Digest
    config: Mapping[str, Any]
    """The whole OCI image configuration; what a container starts from is under its key `config`."""
    references: tuple[str, ...]
    """Short names with tags, such as `busybox:latest`, sorted."""
    digests: tuple[str, ...]
    """`name@sha256:…` under which registries have it, sorted."""
    size_bytes: int
    """Of all its unpacked layers."""
    created_ns: int
    tagged_ns: int
    layers: tuple[Digest, ...]
    """Diff ids, bottom first."""
    parent: Digest | None

    @property
    def chains(self) -> list[Digest]:
        """Chain ids of its layers, bottom first."""
        return chain_ids(self.layers)


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of one image beside its blobs."""

    manifest: Digest
    blobs: tuple[Digest, ...]
    """Everything in the content store that it needs: manifest, configuration, layers."""
    size_bytes: int
    tagged_ns: int
    parent: Digest | None = None
    repo_digests: frozenset[str] = frozenset()
    """Full references with digest."""
    config: ImageConfig = field(compare=False, default=ImageConfig({}, (), 0))


@dataclass(frozen=True, slots=True)
class Removed:
    """One line of the answer of `DELETE /images/{name}`; exactly one of the two is set."""

    untagged: str | None = None
    deleted: str | None = None


@dataclass(frozen=True, slots=True)
class Removal:
    """What removing a name or id comes to."""

    catalog: Catalog
    removed: tuple[Removed, ...]


@dataclass(frozen=True, slots=True)
class Catalog:
    """All images of one store."""

    images: Mapping[Digest, Record] = field(default_factory=dict)
    references: Mapping[str, Digest] = field(default_factory=dict)
    """Full reference with tag, to image id."""

    def resolve(self, text: str) -> Digest:
        """The image id that `text` means: a name, a name with a digest, an id, or the beginning of one.

        Raises NotFound, or Conflict when several ids begin so.
        """
        if (found := self._named(text)) is not None:
            return found
        if match := _SHORT_ID.fullmatch(text):
            fitting = [image_id for image_id in self.images if image_id.startswith(f"sha256:{match[1]}")]
            if len(fitting) > 1:
                raise Conflict(f"image id {text!r} is ambiguous: {len(fitting)} images begin so; give more of it")
            if fitting:
                return fitting[0]
        raise NotFound(f"No such image: {text}")

    def find(self, reference: Reference) -> Digest | None:
        """The image id under this full name, or None."""
        if reference.digest is None:
            return self.references.get(str(reference))
        wanted = str(reference.with_digest(reference.digest))
        for image_id, record in self.images.items():
            if wanted in record.repo_digests or reference.digest == image_id:
                return image_id
        return None

    def select(self, text: str) -> dict[Digest, list[Reference]]:
        """The images that `text` means to `docker save`, each with the names it is saved under.

        A name without a tag means every tag of its repository, an id an image without names. Raises NotFound, Conflict.
        """
        try:
            name = parse_reference(text).name
        except InvalidArgument:
            return {self.resolve(text): []}
        if ":" not in text.rpartition("/")[2]:
            chosen: dict[Digest, list[Reference]] = {}
            for full, image_id in sorted(self.references.items()):
                if (found := parse_reference(full)).name == name:
                    chosen.setdefault(image_id, []).append(found)
            if chosen:
                return chosen
        image_id = self.resolve(text)
        if self._named(text) is None:
            return {image_id: []}
        reference = parse_reference(text)
        return {image_id: [] if reference.tag is None else [replace(reference, digest=None)]}

    def image(self, image_id: Digest) -> Image:
        """The image with this id. Raises NotFound."""
        record = self.images.get(image_id)
        if record is None:
            raise NotFound(f"No such image: {image_id}")
        return Image(
            id=image_id,
            manifest=record.manifest,
            config=record.config.document,
            references=tuple(sorted(parse_reference(name).familiar for name in self._names(image_id))),
            digests=tuple(sorted(parse_reference(name).familiar for name in record.repo_digests)),
            size_bytes=record.size_bytes,
            created_ns=record.config.created_ns,
            tagged_ns=record.tagged_ns,
            layers=record.config.diff_ids,
            parent=record.parent,
        )

    def with_image(self, image_id: Digest, record: Record) -> Catalog:
        """Knows the image. What an older record says that the new one does not is kept."""
        known = self.images.get(image_id)
        if known is not None:
            record = replace(
                known,
                repo_digests=known.repo_digests | record.repo_digests,
                tagged_ns=max(known.tagged_ns, record.tagged_ns),
                parent=known.parent or record.parent,
            )
        return replace(self, images={**self.images, image_id: record})

    def with_reference(self, reference: Reference, image_id: Digest, now_ns: int) -> Catalog:
        """The tag or digest means this image now. An image that lost its last name stays, dangling."""
        record = self.images[image_id]
        if reference.digest is not None:
            name = str(reference.with_digest(reference.digest))
            record = replace(record, repo_digests=record.repo_digests | {name})
        images = {**self.images, image_id: replace(record, tagged_ns=now_ns)}
        if reference.tag is None:
            return replace(self, images=images)
        name = str(replace(reference, digest=None))
        return Catalog(images, {**self.references, name: image_id})

    def remove(self, text: str, *, force: bool, in_use: Collection[str], running: Collection[str] = ()) -> Removal:
        """What `docker rmi text` does. `in_use` are image ids that containers have, `running` those of running ones.

        A name is untagged; the image goes with its last name. An id takes all names of one repository with it. Raises
        NotFound, or Conflict: a container or a child image needs it, or an id has names in several repositories.
        `force` overrules stopped containers and several names, but neither running containers nor children.
        """
        image_id = self.resolve(text)
        if self._named(text) is None:
            return self._remove_id(image_id, force=force, in_use=in_use, running=running)
        return self._remove_name(parse_reference(text), image_id, force=force, in_use=in_use, running=running)

    def live_blobs(self) -> set[Digest]:
        """Every blob that some image needs."""
        return {blob for record in self.images.values() for blob in record.blobs}

    def live_chains(self) -> set[Digest]:
        """Every layer that some image has."""
        return {chain for record in self.images.values() for chain in chain_ids(record.config.diff_ids)}

    def dump(self) -> bytes:
        """As it is kept on disk."""
        images = {}
        for image_id, record in self.images.items():
            plain = asdict(replace(record, config=ImageConfig({}, (), 0)))
            plain.pop("config")
            images[image_id] = plain | {"repo_digests": sorted(record.repo_digests)}
        document = {"version": VERSION, "images": images, "references": dict(self.references)}
        return json.dumps(document, indent=1, sort_keys=True).encode()

    @classmethod
    def parse(cls, data: bytes, configs: Mapping[Digest, ImageConfig]) -> Catalog:
        """The catalog that `dump` wrote, with the configuration of each image. Raises Internal when it is damaged.

        Images that have no configuration in `configs` are left out, with their names.
        """
        try:
            document = json.loads(data)
            if document["version"] != VERSION:
                raise Internal(f"images.json has version {document['version']!r}; this release reads {VERSION}")
            images = {
                parse_digest(image_id): Record(
                    manifest=parse_digest(plain["manifest"]),
                    blobs=tuple(parse_digest(blob) for blob in plain["blobs"]),
                    size_bytes=int(plain["size_bytes"]),
                    tagged_ns=int(plain["tagged_ns"]),
                    parent=parse_digest(plain["parent"]) if plain["parent"] else None,
                    repo_digests=frozenset(plain["repo_digests"]),
                    config=configs[Digest(image_id)],
                )
                for image_id, plain in document["images"].items()
                if image_id in configs
            }
            names = {name: Digest(found) for name, found in document["references"].items() if found in images}
        except (ValueError, KeyError, TypeError, AttributeError, InvalidArgument) as error:
            raise Internal(f"images.json is damaged: {error!r}; move it away and pull the images again") from error
        return cls(images, names)

    @staticmethod
    def ids(data: bytes) -> list[Digest]:
        """The image ids in a dumped catalog, whose configurations `parse` wants. Raises Internal."""
        try:
            return [parse_digest(image_id) for image_id in json.loads(data)["images"]]
        except (ValueError, KeyError, TypeError, InvalidArgument) as error:
            raise Internal(f"images.json is damaged: {error!r}; move it away and pull the images again") from error

    def _named(self, text: str) -> Digest | None:
        """The image that has `text` for a name. A name wins over the beginning of an id; a whole id is never a name."""
        if DIGEST.fullmatch(text):
            return None
        try:
            return self.find(parse_reference(text))
        except InvalidArgument:
            return None

    def _names(self, image_id: Digest) -> list[str]:
        return [name for name, target in self.references.items() if target == image_id]

    def _remove_name(
        self, reference: Reference, image_id: Digest, *, force: bool, in_use: Collection[str], running: Collection[str]
    ) -> Removal:
        record = self.images[image_id]
        if reference.digest is not None:
            name = str(reference.with_digest(reference.digest))
            record = replace(record, repo_digests=record.repo_digests - {name})
            rest = Catalog({**self.images, image_id: record}, self.references)
        else:
            name = str(reference)
            rest = replace(self, references={key: value for key, value in self.references.items() if key != name})
        last = not rest._names(image_id) and not (reference.digest is not None and record.repo_digests)
        if last and not force and image_id in in_use:
            raise Conflict(
                f"conflict: unable to remove repository reference {reference.familiar!r} (must force): "
                f"a container uses its image {_short(image_id)}"
            )
        untagged = Removed(untagged=reference.familiar)
        if not last or image_id in running or rest._children(image_id):
            return Removal(rest, (untagged,))
        gone = [Removed(untagged=parse_reference(name).familiar) for name in sorted(rest.images[image_id].repo_digests)]
        return Removal(rest._without(image_id), (untagged, *gone, Removed(deleted=image_id)))

    def _remove_id(
        self, image_id: Digest, *, force: bool, in_use: Collection[str], running: Collection[str]
    ) -> Removal:
        names = self._names(image_id)
        repositories = {parse_reference(name).name for name in names}
        what = f"conflict: unable to delete {_short(image_id)}"
        if image_id in running:
            raise Conflict(f"{what} (cannot be forced): a running container uses it; stop that first")
        if self._children(image_id):
            raise Conflict(f"{what} (cannot be forced): other images are built on it; remove them first")
        if not force and image_id in in_use:
            raise Conflict(f"{what} (must be forced): a stopped container uses it")
        if not force and len(repositories) > 1:
            raise Conflict(f"{what} (must be forced): it is referenced in multiple repositories; remove it by name")
        every = sorted(names) + sorted(self.images[image_id].repo_digests)
        untagged = [Removed(untagged=parse_reference(name).familiar) for name in every]
        return Removal(self._without(image_id), (*untagged, Removed(deleted=image_id)))

    def _children(self, image_id: Digest) -> list[Digest]:
        return [child for child, record in self.images.items() if record.parent == image_id]

    def _without(self, image_id: Digest) -> Catalog:
        return Catalog(
            {key: record for key, record in self.images.items() if key != image_id},
            {name: target for name, target in self.references.items() if target != image_id},
        )


def _short(image_id: Digest) -> str:
    return image_id.removeprefix("sha256:")[:12]
