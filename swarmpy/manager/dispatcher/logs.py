"""Service logs: whoever subscribes gets one stream, merged from the nodes that hold the tasks.

Owns    subscriptions, which nodes still owe an answer to each, and a short queue per subscription.
In      requests; batches that nodes publish; events of tasks, services and sessions.
Out     LogSubscription messages to nodes, batches to subscribers.

The laws: a node publishes lines of its own tasks only; a subscriber that reads slowly stops its publishers (the queue
holds `QUEUE` batches); a node that cannot be asked, or breaks off, becomes a warning in the stream and never a silence.
Without `follow` the stream ends when every node asked has answered. With it, it goes on to tasks that come to run
later, and ends when the services are gone, or the tasks named have ended, and all answers are in.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

from swarmpy.errors import Forbidden, NotFound, Unavailable
from swarmpy.manager.store import Store
from swarmpy.rpc.dispatcher_pb2 import LogSubscription
from swarmpy.rpc.logs_pb2 import LogBatch, LogRequest
from swarmpy.rpc.types_pb2 import RUNNING, Task

__all__ = ["LogBroker"]

QUEUE = 16


@dataclass(slots=True)
class _Subscription:
    id: str
    request: LogRequest
    batches: deque[LogBatch] = field(default_factory=deque)
    room: asyncio.Event = field(default_factory=asyncio.Event)  # fewer than QUEUE batches wait, or nobody listens
    closed: bool = False                                     # the subscriber has left
    asked: set[str] = field(default_factory=set)             # tasks
    owed: Counter[str] = field(default_factory=Counter)      # node -> answers that have not ended
    newest_ns: dict[str, int] = field(default_factory=dict)  # task -> time of its newest line
    warnings: list[str] = field(default_factory=list)
    cut: bool = False                                        # the leader no longer leads
    news: asyncio.Event = field(default_factory=asyncio.Event)


class LogBroker:
    """Subscriptions of this term. `push` hands a message to a node's session; False when it has none."""

    def __init__(
        self, store: Store, push: Callable[[str, LogSubscription], bool], new_id: Callable[[], str]
    ) -> None:
        self._store = store
        self._push = push
        self._new_id = new_id
        self._open: dict[str, _Subscription] = {}

    # ------------------------------------------------------------------------------------------ subscribers

    async def subscribe(self, request: LogRequest) -> AsyncIterator[LogBatch]:
        """The lines asked for, until the end described above. Raises NotFound for an unknown service or task.

        Raises Unavailable when this manager ceases to lead. Leaving the iteration ends the answers of all nodes.
        """
        for service_id in request.service_ids:
            if self._store.services.get(service_id) is None:
                raise NotFound(f"no such service: {service_id}")
        for task_id in request.task_ids:
            if self._store.tasks.get(task_id) is None:
                raise NotFound(f"no such task: {task_id}")
        subscription = _Subscription(self._new_id(), request)
        self._open[subscription.id] = subscription
        try:
            self._ask(subscription, self._tasks_of(request), request.since_ns, request.tail)
            async for batch in self._batches(subscription):
                yield batch
        finally:
            del self._open[subscription.id]
            subscription.closed = True
            subscription.room.set()
            for node_id in subscription.owed:
                self._push(node_id, LogSubscription(id=subscription.id, close=True))

    async def _batches(self, subscription: _Subscription) -> AsyncIterator[LogBatch]:
        while True:
            while subscription.batches:
                batch = subscription.batches.popleft()
                subscription.room.set()
                yield batch
            if subscription.warnings:
                warnings, subscription.warnings = subscription.warnings, []
                yield LogBatch(subscription_id=subscription.id, warnings=warnings)
            if subscription.cut:
                raise Unavailable("the leader changed while logs were read: ask again")
            if not subscription.batches and self._complete(subscription):
                return
            await subscription.news.wait()
            subscription.news.clear()

    def _complete(self, subscription: _Subscription) -> bool:
        if subscription.owed:
            return False
        request = subscription.request
        if not request.follow:
            return True
        tasks = (self._store.tasks.get(task_id) for task_id in request.task_ids)
        return not any(service_id in self._store.services for service_id in request.service_ids) and not any(
            task is not None and task.status.state <= RUNNING for task in tasks
        )

    # ------------------------------------------------------------------------------------------ publishers

    async def publish(self, node_id: str, batches: AsyncIterator[LogBatch]) -> None:
        """Take one answer of a node to its end. Returns early when nobody subscribes any more.

        Raises Forbidden when the node publishes lines of a task that is not its own.
        """
        subscription: _Subscription | None = None
        try:
            async for batch in batches:
                subscription = self._open.get(batch.subscription_id)
                if subscription is None:
                    return
                self._check(node_id, batch, subscription)
                if batch.messages or batch.warnings:
                    await self._offer(subscription, batch)
        finally:
            if subscription is not None:
                self._settle(subscription, node_id)

    async def _offer(self, subscription: _Subscription, batch: LogBatch) -> None:
        while len(subscription.batches) >= QUEUE and not subscription.closed:
            subscription.room.clear()
            await subscription.room.wait()
        subscription.batches.append(batch)
        subscription.news.set()

    def _check(self, node_id: str, batch: LogBatch, subscription: _Subscription) -> None:
        for message in batch.messages:
            task = self._store.tasks.get(message.task_id)
            if message.task_id not in subscription.asked or (task is not None and task.node_id != node_id):
                raise Forbidden(f"node {node_id} may not publish logs of task {message.task_id}: it is not asked to")
            subscription.newest_ns[message.task_id] = message.timestamp_ns

    def _settle(self, subscription: _Subscription, node_id: str) -> None:
        if subscription.owed[node_id] > 1:
            subscription.owed[node_id] -= 1
        else:
            del subscription.owed[node_id]
        subscription.news.set()

    # ------------------------------------------------------------------------------------------ events

    def task_changed(self, task: Task) -> None:
        """A task came to run, or ended."""
        for subscription in self._open.values():
            request = subscription.request
            named = task.id in request.task_ids
            if request.follow and (named or task.service_id in request.service_ids):
                if task.id not in subscription.asked:
                    self._ask(subscription, [task], request.since_ns, -1 if not named else request.tail)
                subscription.news.set()

    def service_changed(self, service_id: str) -> None:
        """A service was changed or removed."""
        for subscription in self._open.values():
            if service_id in subscription.request.service_ids:
                subscription.news.set()

    def node_left(self, node_id: str) -> None:
        """The node's session ended: it will not answer on this one."""
        for subscription in self._open.values():
            if subscription.owed.pop(node_id, 0):
                subscription.warnings.append(f"logs of node {node_id} are incomplete: its session ended")
                subscription.news.set()

    def node_connected(self, node_id: str) -> None:
        """The node is back: followers go on where they were."""
        for subscription in self._open.values():
            if not subscription.request.follow:
                continue
            for task in self._store.tasks.by_node(node_id):
                if task.id in subscription.asked and task.status.state <= RUNNING:
                    since = subscription.newest_ns.get(task.id)
                    since_ns, tail = (since + 1, -1) if since else (subscription.request.since_ns, -1)
                    self._ask(subscription, [task], since_ns, tail)

    def close(self) -> None:
        """The term is over: all subscribers are told to ask the next leader."""
        for subscription in self._open.values():
            subscription.cut = True
            subscription.news.set()

    # ------------------------------------------------------------------------------------------ asking

    def _tasks_of(self, request: LogRequest) -> list[Task]:
        tasks = [task for service_id in request.service_ids for task in self._store.tasks.by_service(service_id)]
        named = (self._store.tasks.get(task_id) for task_id in request.task_ids)
        tasks += [task for task in named if task is not None]
        return [task for task in tasks if task.status.state >= RUNNING and task.node_id]

    def _ask(self, subscription: _Subscription, tasks: Iterable[Task], since_ns: int, tail: int) -> None:
        by_node: dict[str, list[str]] = {}
        for task in tasks:
            by_node.setdefault(task.node_id, []).append(task.id)
            subscription.asked.add(task.id)
        request = subscription.request
        for node_id, task_ids in by_node.items():
            message = LogSubscription(
                id=subscription.id, task_ids=task_ids, follow=request.follow, stdout=request.stdout,
                stderr=request.stderr, since_ns=since_ns, tail=tail,
            )
            if self._push(node_id, message):
                subscription.owed[node_id] += 1
            else:
                subscription.warnings.append(
                    f"logs of {len(task_ids)} tasks on node {node_id} are missing: the node is not connected"
                )
        subscription.news.set()
