"""The content store: blobs on disk, each under the digest of its bytes.

Owns    `content/<algorithm>/<hex>` and the partial files under `ingest/`. A name in `content/` is always whole: bytes
        are hashed while they are written, flushed to disk, and only then renamed to their digest.
Threads Every method may be called from any thread. `has` and `size` answer from memory.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING, Self

from swarmpy.errors import Internal, InvalidArgument, NotFound
from swarmpy.image.digest import DIGEST, Digest, hasher, split_digest
from swarmpy.image.durable import sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

__all__ = ["BlobWriter", "ContentStore"]

CHUNK_BYTES = 1 << 20


class ContentStore:
    """Blobs by digest."""

    def __init__(self, root: Path) -> None:
        self._content = root / "content"
        self._ingest = root / "ingest"
        for directory in (self._content, self._content / "sha256", self._content / "sha512", self._ingest):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._sizes: dict[Digest, int] = dict(self._scan())

    def has(self, digest: Digest) -> bool:
        """Whether the blob is here, whole."""
        return digest in self._sizes

    def size(self, digest: Digest) -> int:
        """Length in bytes. Raises NotFound."""
        try:
            return self._sizes[digest]
        except KeyError:
            raise NotFound(f"blob {digest} is not in the content store; pull or load its image again") from None

    def path(self, digest: Digest) -> Path:
        """Where the blob lies. Raises NotFound."""
        self.size(digest)
        return self._path(digest)

    def digests(self) -> frozenset[Digest]:
        """Every blob that is here."""
        return frozenset(self._sizes)

    def read(self, digest: Digest, limit_bytes: int) -> bytes:
        """The whole blob, checked against its digest once more. For small blobs: configs and manifests.

        Raises NotFound, InvalidArgument when it is larger than `limit_bytes`, Internal when the disk has damaged it.
        """
        if self.size(digest) > limit_bytes:
            raise InvalidArgument(f"blob {digest} has {self.size(digest)} bytes; at most {limit_bytes} are read here")
        data = self._path(digest).read_bytes()
        self._check(digest, hashlib.new(split_digest(digest)[0], data).hexdigest())
        return data

    def chunks(self, digest: Digest) -> Iterator[bytes]:
        """The blob in pieces of a mebibyte; the last step raises Internal if the bytes no longer match the digest."""
        running = hasher(split_digest(digest)[0])
        with open(self.path(digest), "rb", buffering=0) as file:
            while chunk := file.read(CHUNK_BYTES):
                running.update(chunk)
                yield chunk
        self._check(digest, running.hexdigest())

    def writer(self, algorithm: str = "sha256") -> BlobWriter:
        """A new blob whose digest may not be known yet."""
        return BlobWriter(self, self._ingest / os.urandom(12).hex(), algorithm)

    def put(self, data: bytes) -> Digest:
        """Store a small blob; its digest."""
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()

    def forget(self, digests: Iterable[Digest]) -> list[Digest]:
        """The blobs are no longer found from now on. `unlink` gives their space back. Never waits."""
        return [digest for digest in digests if self._sizes.pop(digest, None) is not None]

    def unlink(self, digests: Iterable[Digest]) -> None:
        """Delete forgotten blobs, but not one that somebody has stored again since."""
        for digest in digests:
            with self._lock:
                if digest not in self._sizes:
                    self._path(digest).unlink(missing_ok=True)

    def clear_ingest(self) -> None:
        """Remove what a crash left half-written. Only at start, before anything is written."""
        for partial in self._ingest.iterdir():
            partial.unlink()

    def _adopt(self, partial: Path, digest: Digest, size: int) -> None:
        """Give the finished file its name. The file itself is already on disk."""
        target = self._path(digest)
        with self._lock:
            partial.replace(target)
            self._sizes[digest] = size
        sync_directory(target.parent)

    def _path(self, digest: Digest) -> Path:
        algorithm, encoded = split_digest(digest)
        return self._content / algorithm / encoded

    def _scan(self) -> Iterator[tuple[Digest, int]]:
        for algorithm in ("sha256", "sha512"):
            for entry in os.scandir(self._content / algorithm):
                name = f"{algorithm}:{entry.name}"
                if DIGEST.fullmatch(name):
                    yield Digest(name), entry.stat().st_size

    def _check(self, digest: Digest, found_hex: str) -> None:
        if split_digest(digest)[1] != found_hex:
            raise Internal(f"blob {digest} is damaged on disk ({found_hex}); remove its image, then pull it")


class BlobWriter:
    """One blob on its way in. Leaving the context without `commit` leaves nothing behind."""

    def __init__(self, store: ContentStore, path: Path, algorithm: str) -> None:
        self._store = store
        self._path = path
        self._algorithm = algorithm
        self._hash = hasher(algorithm)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def digest(self) -> Digest:
        """The digest of what has been written so far."""
        return Digest(f"{self._algorithm}:{self._hash.hexdigest()}")

    def write(self, data: bytes | memoryview) -> None:
        """Append. Raises OSError, such as ENOSPC."""
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self.size += len(data)

    def restart(self) -> None:
        """Forget all that was written: the source begins again at its first byte."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = hasher(self._algorithm)
        self.size = 0

    def commit(self, expected: Digest | None = None) -> Digest:
        """The blob is in the store under its digest, durably. InvalidArgument when it is not the one expected."""
        digest = self.digest
        if expected is not None and digest != expected:
            raise InvalidArgument(f"content does not match its digest: expected {expected}, got {digest}")
        if self._store.has(digest):
            self.close()
            return digest
        os.fsync(self._fd)
        self._store._adopt(self._path, digest, self.size)
        self.close()
        return digest

    def close(self) -> None:
        """Drop the blob unless it is committed. May be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._path.unlink(missing_ok=True)
