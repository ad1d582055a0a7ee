"""Signals by the names and numbers that users write: "SIGTERM", "term", "15", "SIGRTMIN+3"."""

from __future__ import annotations

import signal

from swarmpy.errors import InvalidArgument

__all__ = ["parse_signal"]


def parse_signal(text: str, default: int) -> int:
    """The number of the signal `text` names; `default` for an empty text; `InvalidArgument` when there is none."""
    if not text:
        return default
    if text.isascii() and text.isdigit():
        number = int(text)
        if 0 < number <= signal.SIGRTMAX:
            return number
        raise InvalidArgument(f"invalid signal: {text}")
    name = text.upper().removeprefix("SIG")
    for base, start in (("RTMIN+", signal.SIGRTMIN), ("RTMAX-", signal.SIGRTMAX)):
        if name.startswith(base) and name[6:].isdigit():
            number = start + (int(name[6:]) if base[-1] == "+" else -int(name[6:]))
            if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
                return number
    found = signal.__dict__.get(f"SIG{name}")
    if not isinstance(found, signal.Signals):
        raise InvalidArgument(f"invalid signal: {text}")
    return int(found)
