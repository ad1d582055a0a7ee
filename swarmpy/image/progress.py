"""Progress: what a long operation on images tells its caller, in the shape that the Engine API streams.

Source  `POST /images/create`: a stream of `{"id", "status", "progressDetail": {"current", "total"}}`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Listener", "Progress", "quiet"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One line. `id` is a layer's short digest or a tag, or empty; `current` and `total` are bytes when set."""

    status: str
    id: str = ""
    current: int | None = None
    total: int | None = None


Listener = Callable[[Progress], None]


def quiet(_progress: Progress) -> None:
    """For callers who do not want to know."""
