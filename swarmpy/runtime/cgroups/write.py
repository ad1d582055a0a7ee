"""One write to one cgroup file: what every controller's driver turns resources into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Read", "Write"]


@dataclass(frozen=True, slots=True)
class Write:
    """`field` is where `linux.resources` asked for it, for the error when the kernel does not have the file."""

    file: str
    text: str
    field: str


Read = Callable[[str], str | None]
"""The text of a file of the container's cgroup, None when the kernel does not have it."""


def key_values(text: str | None) -> dict[str, int]:
    """A flat keyed file (cgroup-v2.rst, "Format"): `name number` a line."""
    pairs = (line.split() for line in (text or "").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].lstrip("-").isdigit()}


def number(text: str | None) -> int | None:
    """One number; None for `max`, for nothing, and for v1's way to say no limit."""
    value = (text or "").strip()
    if not value.isdigit():
        return None
    return None if int(value) >= 0x7FFF_FFFF_FFFF_F000 else int(value)
