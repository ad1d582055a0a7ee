"""Answers to log subscriptions: the lines of this node's tasks, on a stream of their own to the leader.

Owns    the answers under way. One LogSubscription is one `Logs.Publish` stream; it ends when all its tasks' lines are
        told, when the subscription is closed, or with the session it came on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence

import grpc

from swarmpy.errors import SwarmpyError
from swarmpy.rpc.dispatcher_pb2 import LogSubscription
from swarmpy.rpc.logs_pb2 import LogBatch, LogMessage, Published
from swarmpy.worker.executor import LogWish

__all__ = ["LogPublisher"]

PUBLISH = "/swarmpy.v1.Logs/Publish"
BATCH_BYTES = 64 << 10
BATCH_LINES = 500
QUEUE_LINES = 1000               # read ahead of the wire

Reader = Callable[[str, LogWish], AsyncIterator[LogMessage] | None]
log = logging.getLogger(__name__)


class LogPublisher:
    """`read` gives a task's lines, None when this node does not hold the task."""

    def __init__(
        self, channel: grpc.aio.Channel, read: Reader, metadata: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._channel = channel
        self._read = read
        self._metadata = metadata
        self._answers: dict[str, set[asyncio.Task[None]]] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def take(self, subscription: LogSubscription) -> None:
        """Begin an answer, or close all of a subscription."""
        if subscription.close:
            for answer in self._answers.get(subscription.id, ()):
                answer.cancel()
            return
        self._idle.clear()
        answer = asyncio.create_task(self._answer(subscription))
        self._answers.setdefault(subscription.id, set()).add(answer)
        answer.add_done_callback(lambda done: self._ended(subscription.id, done))

    def _ended(self, subscription_id: str, answer: asyncio.Task[None]) -> None:
        answers = self._answers.get(subscription_id, set())
        answers.discard(answer)
        if not answers:
            self._answers.pop(subscription_id, None)
        if not self._answers:
            self._idle.set()

    async def idle(self) -> None:
        """Return when no answer is under way."""
        while self._answers:
            await self._idle.wait()

    async def close(self) -> None:
        """End all answers."""
        answers = [answer for some in self._answers.values() for answer in some]
        for answer in answers:
            answer.cancel()
        if answers:
            await asyncio.wait(answers)

    async def _answer(self, subscription: LogSubscription) -> None:
        call = self._channel.stream_unary(PUBLISH, LogBatch.SerializeToString, Published.FromString)(
            self._batches(subscription), metadata=tuple(self._metadata)
        )
        try:
            await call
        except grpc.aio.AioRpcError as error:
            log.info("logs for subscription %s ended early: %s", subscription.id, error.details())
        finally:
            call.cancel()

    async def _batches(self, subscription: LogSubscription) -> AsyncIterator[LogBatch]:
        yield LogBatch(subscription_id=subscription.id)
        lines: asyncio.Queue[LogMessage | str | None] = asyncio.Queue(QUEUE_LINES)
        readers = [asyncio.create_task(self._drain(task_id, subscription, lines)) for task_id in subscription.task_ids]
        reading = len(readers)
        try:
            while reading:
                batch, size = LogBatch(subscription_id=subscription.id), 0
                item = await lines.get()
                while True:
                    if item is None:
                        reading -= 1
                    elif isinstance(item, str):
                        batch.warnings.append(item)
                    else:
                        batch.messages.append(item)
                        size += len(item.data)
                    if lines.empty() or size >= BATCH_BYTES or len(batch.messages) >= BATCH_LINES:
                        break
                    item = lines.get_nowait()
                if batch.messages or batch.warnings:
                    yield batch
        finally:
            for reader in readers:
                reader.cancel()

    async def _drain(
        self, task_id: str, subscription: LogSubscription, lines: asyncio.Queue[LogMessage | str | None]
    ) -> None:
        wish = LogWish(
            subscription.follow, subscription.stdout, subscription.stderr, subscription.since_ns, subscription.tail
        )
        try:
            found = self._read(task_id, wish)
            if found is not None:
                async for message in found:
                    await lines.put(message)
        except (SwarmpyError, OSError) as error:
            await lines.put(f"logs of task {task_id} cannot be read: {error}")
        await lines.put(None)
