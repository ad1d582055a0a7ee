"""Small values of the Engine API: times and objects without empty fields."""

from __future__ import annotations

import datetime

__all__ = ["JSON", "ZERO_TIME", "compact", "time_text"]

JSON = dict[str, object]

ZERO_TIME = "0001-01-01T00:00:00Z"     # what Go writes for a time that was never set


def time_text(unix_ns: int) -> str:
    """RFC 3339 in UTC with nanoseconds."""
    if unix_ns <= 0:
        return ZERO_TIME
    seconds, nanoseconds = divmod(unix_ns, 1_000_000_000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def compact(value: JSON) -> JSON:
    """Without the fields that are empty: None, "", 0, False, [] and {}."""
    return {key: item for key, item in value.items() if item not in (None, "", 0, False, [], {}, ())}
