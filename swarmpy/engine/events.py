"""What happened on this host, in the order it happened: `GET /events`.

Owns    the ring of recent events and the subscribers that follow it. Publishing never waits for a subscriber: each
        has a queue of bounded length, and one that falls too far behind loses its oldest events.
Source  Docker Engine API, `GET /events` and definition EventMessage.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from swarmpy.engine.filters import Filters

__all__ = ["Event", "EventBus"]

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
        self._subscribers: set[asyncio.Queue[Event]] = set()

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
        for queue in self._subscribers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    async def subscribe(
        self, *, since_ns: int | None = None, until_ns: int | None = None, filters: Filters | None = None
    ) -> AsyncGenerator[Event]:
        """Events from `since_ns` (None: from now) to `until_ns` (None: for ever), in order, none twice."""
        queue: asyncio.Queue[Event] = asyncio.Queue(_QUEUE)
        self._subscribers.add(queue)
        try:
            past = [] if since_ns is None else [event for event in self._recent if event.time_ns >= since_ns]
            for event in past:
                if (until_ns is None or event.time_ns <= until_ns) and _matches(event, filters):
                    yield event
            while True:
                wait_s = None if until_ns is None else (until_ns - self._clock()) / 1e9
                if wait_s is not None and wait_s <= 0 and queue.empty():
                    return
                try:
                    event = await asyncio.wait_for(queue.get(), wait_s)
                except TimeoutError:
                    return
                if until_ns is not None and event.time_ns > until_ns:
                    return
                if _matches(event, filters):
                    yield event
        finally:
            self._subscribers.discard(queue)


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
