"""JSON of rows that are shown again and again: made once for each version of a row.

Rows of the store never change, a changed object is another row. So the text of a row holds for as long as the store
shows that very row, and a list of thousands costs little more than the few that changed since it was last shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from aiohttp import web

__all__ = ["Rendered", "json_list"]

TURN_S = 0.005                  # of work on a list, before other requests have a turn
MOST_KEPT = 20_000


class Row(Protocol):
    id: str


T = TypeVar("T", bound=Row)


class Rendered(Generic[T]):
    """The texts of one kind of rows: about `MOST_KEPT` of them, some 20 MB."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[T, str]] = {}

    def text(self, row: T, render: Callable[[T], str]) -> str:
        """The row as JSON. `render` must read nothing that changes but the row."""
        kept = self._kept.get(row.id)
        if kept is None or kept[0] is not row:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            kept = self._kept[row.id] = (row, render(row))
        return kept[1]


async def json_list(texts: Iterable[str | None]) -> web.Response:
    """An answer that is a list of these; None stands for a row that is not shown.

    They are made as they are taken. Under load others' turns cost a list more than its own work does, so it lets them
    have theirs only when that takes long.
    """
    loop = asyncio.get_running_loop()
    shown: list[str] = []
    turn_ends_s = loop.time() + TURN_S
    for text in texts:
        if text is not None:
            shown.append(text)
        if loop.time() > turn_ends_s:
            await asyncio.sleep(0)
            turn_ends_s = loop.time() + TURN_S
    return web.Response(text=f"[{', '.join(shown)}]", content_type="application/json")
