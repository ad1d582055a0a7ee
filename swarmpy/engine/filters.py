"""The `filters` parameter of the Engine API: which objects of a list are wanted.

Owns    its two spellings ({"label": ["a=1"]} and the older {"label": {"a=1": true}}) and the rule that values of one
        filter are alternatives while different filters must all hold. Pure.
Source  Docker Engine API, parameter `filters` of `GET /containers/json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from swarmpy.errors import InvalidArgument

__all__ = ["Filters"]


@dataclass(frozen=True)
class Filters:
    """Filter names with their wanted values; an absent name filters nothing."""

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None, allowed: Iterable[str]) -> Filters:
        """From the query parameter. `InvalidArgument` names a filter that is not in `allowed`, or what is malformed."""
        if not text:
            return cls()
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise InvalidArgument(f"filters is not valid JSON: {error}") from error
        if not isinstance(raw, dict):
            raise InvalidArgument('filters must be an object such as {"name": ["web"]}')
        known = set(allowed)
        values: dict[str, tuple[str, ...]] = {}
        for name, wanted in raw.items():
            if name not in known:
                raise InvalidArgument(f"invalid filter '{name}'; known are {', '.join(sorted(known))}")
            if isinstance(wanted, dict):
                values[name] = tuple(key for key, on in wanted.items() if on)
            elif isinstance(wanted, list) and all(isinstance(item, str) for item in wanted):
                values[name] = tuple(wanted)
            else:
                raise InvalidArgument(f"filters.{name} must be a list of strings")
        return cls({name: wanted for name, wanted in values.items() if wanted})

    def get(self, name: str) -> tuple[str, ...]:
        """The wanted values of one filter; empty when it is not set."""
        return self.values.get(name, ())

    def any(self, name: str, test: Callable[[str], bool]) -> bool:
        """True when the filter is not set, or one of its values passes `test`."""
        wanted = self.values.get(name)
        return wanted is None or any(test(value) for value in wanted)

    def labels_match(self, name: str, labels: Mapping[str, str]) -> bool:
        """True when every wanted "key" or "key=value" is among `labels`: this one filter is a conjunction."""
        for wanted in self.get(name):
            key, has_value, value = wanted.partition("=")
            if key not in labels or (has_value and labels[key] != value):
                return False
        return True

    def flag(self, name: str) -> bool | None:
        """A filter that is true or false; None when it is not set."""
        wanted = self.get(name)
        if not wanted:
            return None
        truth = {"1": True, "true": True, "t": True, "0": False, "false": False, "f": False}
        try:
            return truth[wanted[0].lower()]
        except KeyError:
            raise InvalidArgument(f"filters.{name} must be true or false, not '{wanted[0]}'") from None
