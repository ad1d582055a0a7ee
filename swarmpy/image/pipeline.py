"""Pieces of bytes between threads, and between threads and the event loop.

Owns    three bridges: file to pieces, asynchronous iterator to pieces in a thread, and a generator run ahead in a
        thread of its own so that decompression and hashing overlap with unpacking.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

__all__ = ["Pieces", "file_pieces", "run_ahead", "run_with_source"]

PIECE_BYTES = 1 << 20
AHEAD = 8
"""Pieces a producer may be ahead of its consumer."""

Pieces = Iterator[bytes]
T = TypeVar("T")


def file_pieces(path: Path, on_read: Callable[[int], None] | None = None) -> Pieces:
    """The bytes of a file, a mebibyte at a time; `on_read` is told how many have been read so far."""
    done = 0
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            done += len(piece)
            if on_read is not None:
                on_read(done)
            yield piece


@contextmanager
def run_ahead(pieces: Pieces) -> Iterator[Pieces]:
    """The same pieces, produced by another thread up to `AHEAD` in advance. The thread has ended when the context has.

    What `pieces` raises is raised to the consumer, where it would have got the piece.
    """
    handed: queue.Queue[bytes | BaseException | None] = queue.Queue(AHEAD)
    stopped = threading.Event()

    def produce() -> None:
        try:
            for piece in pieces:
                if stopped.is_set():
                    return
                handed.put(piece)
            handed.put(None)
        except BaseException as error:  # noqa: BLE001 (handed to the consumer, who raises it)
            handed.put(error)

    def consume() -> Pieces:
        while True:
            item = handed.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=produce, name="image-read", daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        stopped.set()
        while thread.is_alive():
            try:
                handed.get(timeout=0.05)
            except queue.Empty:
                continue
        thread.join()


async def run_with_source(source: Path | AsyncIterator[bytes], work: Callable[[Pieces], T]) -> T:
    """Run `work` in a thread on the bytes of `source`, and wait for its end even when the caller is cancelled.

    On cancellation the source ends with an error for `work`, so that it stops at the next piece it asks for.
    """
    loop = asyncio.get_running_loop()
    stopped = threading.Event()
    pieces = _stoppable(file_pieces(source), stopped) if isinstance(source, Path) else _drawn(source, loop, stopped)
    working = loop.run_in_executor(None, work, pieces)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.wait([working])
        if not working.cancelled():
            working.exception()  # the cancellation is what the caller gets to see
        raise


def _stoppable(pieces: Pieces, stopped: threading.Event) -> Pieces:
    for piece in pieces:
        if stopped.is_set():
            raise concurrent.futures.CancelledError
        yield piece


def _drawn(source: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop, stopped: threading.Event) -> Pieces:
    """Each piece is drawn on the event loop and waited for in this thread."""

    async def draw() -> bytes | None:
        return await anext(source, None)

    while True:
        future = asyncio.run_coroutine_threadsafe(draw(), loop)
        while True:
            if stopped.is_set():
                future.cancel()
                raise concurrent.futures.CancelledError
            try:
                piece = future.result(timeout=0.25)
                break
            except concurrent.futures.TimeoutError:
                if future.done():
                    raise
        if piece is None:
            return
        if piece:
            yield piece
