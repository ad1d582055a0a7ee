"""`docker cp` and `docker export`: one container's files as a stream of tar bytes, in both directions.

Owns    which root a container's path is looked up in (the running one's, or an overlay nobody else has mounted, or the
        volume that covers the path), and the passage between the event loop and the threads that read and write files.
"""

from __future__ import annotations

import asyncio
import posixpath
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, aclosing, contextmanager
from pathlib import Path
from typing import Any

from swarmpy.engine import archive
from swarmpy.engine.changes import changes
from swarmpy.engine.live import LiveContainer
from swarmpy.engine.parts import Parts
from swarmpy.engine.rootfs import bare_root, directory_root, mounted_overlay, running_root, writable_overlay
from swarmpy.errors import Conflict
from swarmpy.image import RootFS

__all__ = ["changed_paths", "copy_in", "copy_out", "export", "path_stat"]

_QUEUE = 16
_SPOOL = 8 << 20


async def path_stat(parts: Parts, container: LiveContainer, path: str) -> str:
    """The header that describes what lies at `path`."""
    root = await _root_fs(parts, container)

    def look() -> str:
        with _opened(container, root, path) as (descriptor, inside):
            return archive.describe(descriptor, inside)

    return await asyncio.to_thread(look)


async def copy_out(parts: Parts, container: LiveContainer, path: str) -> AsyncIterator[bytes]:
    """A tar of what lies at `path`."""
    root = await _root_fs(parts, container)
    container.publish("archive-path")

    def work(emit: Callable[[bytes], None]) -> None:
        with _opened(container, root, path) as (descriptor, inside):
            archive.pack(descriptor, inside, emit)

    async with aclosing(_pieces(work)) as pieces:
        async for piece in pieces:
            yield piece


async def export(parts: Parts, container: LiveContainer) -> AsyncIterator[bytes]:
    """A tar of the whole root file system, without what is mounted into it."""
    root = await _root_fs(parts, container)
    container.publish("export")

    def work(emit: Callable[[bytes], None]) -> None:
        with ExitStack() as stack:
            running = _while_it_runs(container, stack, bare_root)
            descriptor = stack.enter_context(_overlay(root, write=False)) if running is None else running
            archive.pack(descriptor, "/", emit, base="")

    async with aclosing(_pieces(work)) as pieces:
        async for piece in pieces:
            yield piece


async def copy_in(
    parts: Parts,
    container: LiveContainer,
    path: str,
    body: AsyncIterator[bytes],
    *,
    keep_kinds: bool = False,
    keep_owners: bool = False,
) -> None:
    """Unpack a tar, of any size, into the directory at `path`."""
    if container.record.host.readonly_rootfs and not _mount_of(container, path)[0]:
        raise Conflict("container rootfs is marked read-only")
    root = await _root_fs(parts, container)
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL, dir=str(parts.config.data_root)) as spool:
        async for piece in body:
            await asyncio.to_thread(spool.write, piece)

        def work() -> None:
            spool.seek(0)
            with _opened(container, root, path, write=True) as (descriptor, inside):
                archive.extract(descriptor, inside, spool, keep_kinds=keep_kinds, keep_owners=keep_owners)

        await asyncio.to_thread(work)
    container.publish("extract-to-dir")


async def changed_paths(parts: Parts, container: LiveContainer) -> list[dict[str, Any]]:
    """FilesystemChange of everything that the container added, changed or deleted."""
    root = await _root_fs(parts, container)

    def look() -> list[dict[str, Any]]:
        with mounted_overlay([Path(layer) for layer in root.lower]) as lower:
            return changes(Path(root.upper), lower)

    return await asyncio.to_thread(look)


async def _root_fs(parts: Parts, container: LiveContainer) -> RootFS:
    return await parts.root_fs(parts.images.resolve(container.record.image_id), container.record.id)


def _mount_of(container: LiveContainer, path: str) -> tuple[str, str]:
    """The host directory of the mount that covers `path` and the path within it; an empty one when none does."""
    clean = posixpath.normpath("/" + path.lstrip("/"))
    for mount in sorted(container.record.mounts, key=lambda item: -len(item.target)):
        if clean == mount.target or clean.startswith(mount.target + "/"):
            return mount.source, clean[len(mount.target) :] or "/"
    return "", path


@contextmanager
def _opened(
    container: LiveContainer, root: RootFS, path: str, *, write: bool = False
) -> Iterator[tuple[int, str]]:
    """A root to look `path` up in, and the path there."""
    covered, inside = _mount_of(container, path)
    with ExitStack() as stack:
        running = _while_it_runs(container, stack, running_root)
        if running is not None:
            yield running, path
        elif covered:
            yield stack.enter_context(directory_root(Path(covered))), inside
        else:
            yield stack.enter_context(_overlay(root, write=write)), path


def _while_it_runs(
    container: LiveContainer, stack: ExitStack, way_in: Callable[[int], AbstractContextManager[int]]
) -> int | None:
    """A descriptor of its root through its first process; None when it does not run, or has just ended."""
    handle = container.handle
    if handle is None:
        return None
    try:
        return stack.enter_context(way_in(handle.pid))
    except Conflict:
        return None


def _overlay(root: RootFS, *, write: bool) -> AbstractContextManager[int]:
    layers = [Path(layer) for layer in root.lower]
    if write:
        return writable_overlay(layers, Path(root.upper), Path(root.work))
    return mounted_overlay([Path(root.upper), *layers])


async def _pieces(work: Callable[[Callable[[bytes], None]], None]) -> AsyncGenerator[bytes]:
    """What `work`, in a thread, emits. It is held back while nobody takes the pieces, and ends when nobody will."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUE)
    left = False

    def emit(piece: bytes) -> None:
        if left:
            raise BrokenPipeError("nobody reads the archive any more")
        asyncio.run_coroutine_threadsafe(queue.put(piece), loop).result()

    async def run() -> None:
        try:
            await asyncio.to_thread(work, emit)
        finally:
            await queue.put(None)

    running = asyncio.create_task(run())
    try:
        while (piece := await queue.get()) is not None:
            yield piece
        await running
    finally:
        left = True
        while not running.done():
            while not queue.empty():
                queue.get_nowait()
            await asyncio.wait([running], timeout=0.05)
        if not running.cancelled() and isinstance(running.exception(), BrokenPipeError):
            pass  # ended because the reader left
