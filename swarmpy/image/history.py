"""History: how an image came to be, as `docker history` shows it.

Source  `GET /images/{name}/history`; OCI image-spec, config.md "history".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swarmpy.image.manifest import parse_time_ns

__all__ = ["HistoryEntry", "image_history"]


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One step. `id` is `<missing>` except for the newest, as only that one is an image here."""

    id: str
    created_ns: int
    created_by: str
    comment: str
    size_bytes: int
    tags: tuple[str, ...]


def image_history(
    image_id: str, config: Mapping[str, Any], sizes: Sequence[int], tags: tuple[str, ...]
) -> list[HistoryEntry]:
    """The steps of an image, newest first. `sizes` are its layers' bytes, bottom first.

    A configuration without a history, or with one that does not fit its layers, gets a step for each layer.
    """
    steps = [step for step in config.get("history") or [] if isinstance(step, dict)]
    if sum(1 for step in steps if not step.get("empty_layer")) != len(sizes):
        steps = [{"created": config.get("created")} for _ in sizes]
    remaining = iter(sizes)
    entries = [
        HistoryEntry(
            id="<missing>",
            created_ns=parse_time_ns(step.get("created")),
            created_by=str(step.get("created_by") or ""),
            comment=str(step.get("comment") or ""),
            size_bytes=0 if step.get("empty_layer") else next(remaining),
            tags=(),
        )
        for step in steps
    ]
    entries.reverse()
    if entries:
        newest = entries[0]
        entries[0] = HistoryEntry(
            image_id, newest.created_ns, newest.created_by, newest.comment, newest.size_bytes, tags
        )
    return entries
