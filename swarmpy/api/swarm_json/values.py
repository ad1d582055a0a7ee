"""Objects of the Engine API without their empty fields."""

from __future__ import annotations

__all__ = ["JSON", "compact"]

JSON = dict[str, object]


def compact(value: JSON) -> JSON:
    """Without the fields that are empty: None, "", 0, False, [] and {}."""
    return {key: item for key, item in value.items() if item not in (None, "", 0, False, [], {}, ())}
