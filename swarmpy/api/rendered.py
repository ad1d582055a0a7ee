"""JSON of rows that are shown again and again: made once for each version of a row.

Rows of the store never change, a changed object is another row. So the text of a row holds for as long as the store
shows that very row, and a list of thousands costs little more than the few that changed since it was last shown.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from aiohttp import web

from swarmpy.api.swarm_json.values import JSON

__all__ = ["Rendered", "in_turns", "json_list"]

A_TURN = 200                    # rows looked at before other requests have a turn


class Row(Protocol):
    id: str


T = TypeVar("T", bound=Row)
Any_ = TypeVar("Any_")


class Rendered(Generic[T]):
    """The texts of one kind of rows. `to_json` must read nothing but the row."""

    def __init__(self, to_json: Callable[[T], JSON]) -> None:
        self._to_json = to_json
        self._kept: dict[str, tuple[T, str]] = {}

    def text(self, row: T) -> str:
        """The row as JSON."""
        kept = self._kept.get(row.id)
        if kept is None or kept[0] is not row:
            kept = self._kept[row.id] = (row, json.dumps(self._to_json(row)))
        return kept[1]

    def keep_only(self, ids: Collection[str]) -> None:
        """Forget rows that are gone, once they are as many as those that are not. `ids` is quick to look into."""
        if len(self._kept) > 2 * len(ids) + A_TURN:
            self._kept = {key: kept for key, kept in self._kept.items() if key in ids}


async def in_turns(rows: Iterable[Any_]) -> AsyncIterator[Sequence[Any_]]:
    """All rows as they are now, a few at a time; others have their turn in between."""
    now = tuple(rows)
    for start in range(0, len(now), A_TURN):
        if start:
            await asyncio.sleep(0)
        yield now[start : start + A_TURN]


def json_list(texts: Iterable[str]) -> web.Response:
    """An answer that is a list of these."""
    return web.Response(text=f"[{', '.join(texts)}]", content_type="application/json")
