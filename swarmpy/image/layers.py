"""Unpacked layers: directories under `layers/`, one for each chain id, shared by every image that has the chain.

Owns    `layers/<name>` (what overlayfs mounts), `layers/<name>.json` (what is known of it) and `unpack/` (on the way).
        A layer is in the store from the moment its `.json` exists.

Durability  A layer's files are not flushed one by one. A layer is marked durable once syncfs(2) has run after it was
        unpacked; one that is not and was made under another boot of the kernel may have lost pages with the power, and
        is dropped at start. Its blob is flushed before it counts, so it is unpacked again when next needed.
Threads `unpack` runs in a thread of its caller's; the rest answers from memory, or says otherwise.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from swarmpy.errors import Internal, InvalidArgument, NotFound
from swarmpy.image.compression import MAGIC_BYTES, Compression, decompress, detect
from swarmpy.image.digest import Digest, chain_ids, hasher
from swarmpy.image.durable import Trash, replace_file
from swarmpy.image.pipeline import Pieces, run_ahead
from swarmpy.image.syscalls import sync_filesystem
from swarmpy.image.tar_reader import Bytes, TarReader
from swarmpy.image.unpack import UnpackLimits, unpack_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = ["Layer", "LayerStore", "peek_compression"]


@dataclass(frozen=True, slots=True)
class Layer:
    """An unpacked layer."""

    chain_id: Digest
    diff_id: Digest
    parent: Digest | None
    size_bytes: int
    """Sum of the sizes of its files."""
    opaque_root: bool
    boot_id: str
    durable: bool


class LayerStore:
    """Layers by chain id."""

    def __init__(self, root: Path, trash: Trash, limits: UnpackLimits, boot_id: str) -> None:
        self._layers_dir = root / "layers"
        self._unpack_dir = root / "unpack"
        self.empty = self._layers_dir / "empty"
        """The lower layer of an image that has none."""
        for directory in (self._layers_dir, self._unpack_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.empty.mkdir(mode=0o755, exist_ok=True)
        self._trash = trash
        self._limits = limits
        self._boot_id = boot_id
        self._files = threading.Lock()
        """Held while files are given or lose their names; the disk may be waited for under it."""
        self._memory = threading.Lock()
        """Held for a moment, while `_layers` changes."""
        self._layers: dict[Digest, Layer] = {}
        self._recover()

    def has(self, chain_id: Digest) -> bool:
        """Whether the layer is unpacked."""
        return chain_id in self._layers

    def get(self, chain_id: Digest) -> Layer:
        """The layer. Raises NotFound."""
        try:
            return self._layers[chain_id]
        except KeyError:
            raise NotFound(f"layer {chain_id} is not unpacked") from None

    def chains(self) -> frozenset[Digest]:
        """Every unpacked layer."""
        return frozenset(self._layers)

    def path(self, chain_id: Digest) -> Path:
        """The layer's directory. Short, as the directories of all layers share one mount option of 4096 bytes."""
        return self._layers_dir / _directory_name(chain_id)

    def lower(self, chain_id: Digest | None) -> list[Path]:
        """The directories of the layer and of what is visible below it, topmost first. Raises NotFound."""
        paths: list[Path] = []
        while chain_id is not None:
            layer = self.get(chain_id)
            paths.append(self.path(chain_id))
            chain_id = None if layer.opaque_root else layer.parent
        return paths

    def unpack(
        self,
        parent: Digest | None,
        pieces: Pieces,
        expected: Digest | None,
        hashed: Callable[[], Digest] | None = None,
    ) -> Layer:
        """Unpack the layer whose archive, compressed or not, is `pieces`, on top of `parent`. Blocks.

        Afterwards it is in the store. Raises InvalidArgument when the archive breaks the rules of `unpack_layer`, or
        when its plain bytes do not hash to the diff id `expected`; then nothing of it stays.
        Whoever hashes `pieces` himself, and hands them out plain, gives their digest by `hashed`.
        """
        place = self._unpack_dir / os.urandom(8).hex()
        place.mkdir(mode=0o755)
        try:
            place.chmod(0o755)
            running = hasher(expected.partition(":")[0] if expected else "sha256")
            lower = self.lower(parent)
            update = running.update if hashed is None else _ignore
            with run_ahead(_hashed(pieces, update, self._limits.bytes)) as plain:
                made = unpack_layer(TarReader(Bytes(plain)), place, lower, self._trash, self._limits)
            diff_id = hashed() if hashed is not None else Digest(f"{running.name}:{running.hexdigest()}")
            if expected is not None and diff_id != expected:
                raise InvalidArgument(f"layer does not match its diff id: expected {expected}, unpacked {diff_id}")
            chain_id = chain_ids([parent, diff_id])[1] if parent else diff_id
            layer = Layer(chain_id, diff_id, parent, made.size_bytes, made.opaque_root, self._boot_id, durable=False)
            return self._adopt(place, layer)
        finally:
            if place.exists():
                self._trash.throw(place)

    def make_durable(self) -> None:
        """All layers are on disk, and known to be. Blocks."""
        pending = [layer for layer in self._layers.values() if not layer.durable]
        if not pending:
            return
        fd = os.open(self._layers_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_filesystem(fd)
        finally:
            os.close(fd)
        for layer in pending:
            with self._files:
                if self._layers.get(layer.chain_id) != layer:
                    continue
                durable = replace(layer, durable=True)
                self._write_record(durable)
                with self._memory:
                    # It may have been forgotten meanwhile; then `discard`, which waits for the files, takes the record.
                    if self._layers.get(layer.chain_id) == layer:
                        self._layers[layer.chain_id] = durable

    def forget(self, chains: Iterable[Digest]) -> list[Digest]:
        """The layers are no longer found from now on. `discard` gives their space back. Never waits."""
        with self._memory:
            return [chain_id for chain_id in chains if self._layers.pop(chain_id, None) is not None]

    def discard(self, chains: Iterable[Digest]) -> None:
        """Throw forgotten layers away, but not one that was unpacked again since. Blocks; the trash is not emptied."""
        for chain_id in chains:
            with self._files:
                if chain_id not in self._layers:
                    self._throw(_directory_name(chain_id))

    def _adopt(self, place: Path, layer: Layer) -> Layer:
        target = self.path(layer.chain_id)
        with self._files:
            known = self._layers.get(layer.chain_id)
            if known is not None:
                return known
            if target.exists():  # forgotten, and not discarded yet
                self._throw(target.name)
            place.rename(target)
            self._write_record(layer)
            with self._memory:
                self._layers[layer.chain_id] = layer
        return layer

    def _write_record(self, layer: Layer) -> None:
        path = self.path(layer.chain_id)
        replace_file(path.with_name(f"{path.name}.json"), json.dumps(asdict(layer)).encode())

    def _throw(self, name: str) -> None:
        for path in (self._layers_dir / f"{name}.json", self._layers_dir / name):
            if path.exists():
                self._trash.throw(path)

    def _recover(self) -> None:
        """Know what is whole; throw away what is not."""
        names = {entry.name for entry in os.scandir(self._layers_dir)}
        for name in sorted(names):
            if name.startswith("."):
                self._trash.throw(self._layers_dir / name)
            elif name.endswith(".json"):
                layer = _read_layer(self._layers_dir / name)
                lost_power = not layer.durable and layer.boot_id != self._boot_id
                if name.removesuffix(".json") not in names or lost_power:
                    self._throw(name.removesuffix(".json"))
                else:
                    self._layers[layer.chain_id] = layer
            elif f"{name}.json" not in names and name != self.empty.name:
                self._trash.throw(self._layers_dir / name)
        for entry in os.scandir(self._unpack_dir):
            self._trash.throw(entry.path)


def peek_compression(pieces: Pieces) -> tuple[Compression, Pieces]:
    """What `pieces` are compressed with, and all of them again."""
    head: list[bytes] = []
    while sum(map(len, head)) < MAGIC_BYTES and (piece := next(pieces, None)) is not None:
        head.append(piece)

    def again() -> Pieces:
        yield from head
        yield from pieces

    return detect(b"".join(head)), again()


def _hashed(pieces: Pieces, update: Callable[[bytes], object], limit_bytes: int) -> Pieces:
    compression, pieces = peek_compression(pieces)
    for piece in decompress(pieces, compression, limit_bytes):
        update(piece)
        yield piece


def _ignore(_piece: bytes) -> None:
    """In place of a hash."""


def _directory_name(chain_id: Digest) -> str:
    """26 characters of base 32: 130 bits of the chain id, so that nobody makes two that meet."""
    return base64.b32encode(bytes.fromhex(chain_id.partition(":")[2])).decode().lower()[:26]


def _read_layer(path: Path) -> Layer:
    try:
        return Layer(**json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise Internal(f"layer record {path} is damaged: {error}; move it away and pull its image again") from error


