"""What happened on this host, in the order it happened: `GET /events`.

Owns    the ring of recent events and the subscribers that follow it. Publishing never waits for a subscriber: each
        has a queue of bounded length, and one that falls too far behind loses its oldest events.
Source  Docker Engine API, `GET /events` and definition EventMessage.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swarmpy.engine.filters import Filters

__all__ = ["Event", "EventBus", "Subscription"]

_KEPT = 256  # as many as Docker replays
_QUEUE = 4096


@dataclass(frozen=True)
class Event:
    """One thing that happened to one object. `type` is "container", "image", "network", "volume", "service", …"""

    type: str
    action: str
    actor_id: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    scope: str = "local"
    time_ns: int = 0

    def to_json(self) -> dict[str, Any]:
        """EventMessage, with the deprecated fields (`status`, `id`, `from`) that old clients print."""
        out: dict[str, Any] = {}
        if self.type in ("container", "image"):
            out["status"] = self.action
            out["id"] = self.actor_id
            if self.type == "container" and "image" in self.attributes:
                out["from"] = self.attributes["image"]
        out |= {
            "Type": self.type,
            "Action": self.action,
            "Actor": {"ID": self.actor_id, "Attributes": dict(self.attributes)},
            "scope": self.scope,
            "time": self.time_ns // 1_000_000_000,
            "timeNano": self.time_ns,
        }
        return out


class EventBus:
    """Publish, subscribe, replay."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._recent: deque[Event] = deque(maxlen=_KEPT)
        self._subscribers: weakref.WeakSet[Subscription] = weakref.WeakSet()

    @property
    def listeners(self) -> int:
        """How many follow the events now."""
        return len(self._subscribers)

    def publish(
        self, type: str, action: str, actor_id: str, attributes: Mapping[str, str] | None = None, scope: str = "local"
    ) -> None:
        """Tell everyone; the time is now. Must be called in the event loop."""
        event = Event(type, action, actor_id, dict(attributes or {}), scope, self._clock())
        self._recent.append(event)
        for subscription in self._subscribers:
            subscription.put(event)

    def subscribe(
        self, *, since_ns: int | None = None, until_ns: int | None = None, filters: Filters | None = None
    ) -> Subscription:
        """Events from `since_ns` (None: from now) to `until_ns` (None: for ever), in order, none twice.

        What is published after this returns is not missed, however late the first one is awaited.
        """
        past = [] if since_ns is None else [event for event in self._recent if event.time_ns >= since_ns]
        subscription = Subscription(self._clock, past, until_ns, filters)
        self._subscribers.add(subscription)
        return subscription


class Subscription:
    """An async iterator of events. It ends at its time limit, or with `aclose`; one that is dropped is forgotten."""

    def __init__(
        self, clock: Callable[[], int], past: Sequence[Event], until_ns: int | None, filters: Filters | None
    ) -> None:
        self._clock = clock
        self._until_ns = until_ns
        self._filters = filters
        self._queue: asyncio.Queue[Event] = asyncio.Queue(_QUEUE)
        self._open = True
        for event in past:
            self.put(event)

    def put(self, event: Event) -> None:
        """Take an event if it is wanted. When nobody has read for long the oldest one goes."""
        if not self._open or not _matches(event, self._filters):
            return
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(event)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        if not self._open:
            raise StopAsyncIteration
        limit = self._until_ns
        wait_s = None if limit is None else max(0.0, (limit - self._clock()) / 1e9)
        try:
            event = self._queue.get_nowait() if not self._queue.empty() else await self._next(wait_s)
        except TimeoutError:
            raise StopAsyncIteration from None
        if limit is not None and event.time_ns > limit:
            raise StopAsyncIteration
        return event

    async def _next(self, wait_s: float | None) -> Event:
        async with asyncio.timeout(wait_s):
            return await self._queue.get()

    async def aclose(self) -> None:
        """No more events."""
        self._open = False


def _matches(event: Event, filters: Filters | None) -> bool:
    """The filters of `GET /events`: within one filter any value will do, all filters must."""
    if filters is None:
        return True
    names = (event.actor_id, event.attributes.get("name", ""))

    def object_matches(kind: str) -> bool:
        wanted = filters.get(kind)
        return not wanted or (event.type == kind and any(w in names or event.actor_id.startswith(w) for w in wanted))

    actions = {event.action, event.action.split(":")[0]}
    image = {event.attributes.get("image", ""), event.attributes.get("image", "").split(":")[0]}
    if event.type == "image":
        image |= {event.actor_id, event.attributes.get("name", ""), event.attributes.get("name", "").split(":")[0]}
    return (
        filters.any("type", lambda value: value == event.type)
        and filters.any("event", lambda value: value in actions)
        and filters.any("scope", lambda value: value == event.scope)
        and filters.any("image", lambda value: value in image)
        and filters.labels_match("label", event.attributes)
        and all(object_matches(kind) for kind in ("container", "network", "volume", "service", "node", "daemon"))
    )
