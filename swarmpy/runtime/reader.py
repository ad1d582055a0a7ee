"""Reading JSON that others wrote: each value is asked for with its type, each complaint names the field.

Owns    `Fields`, a JSON object with its path. Used for `config.json`, for `linux.resources` and for exec requests.
"""

from __future__ import annotations

from collections.abc import Iterator

from swarmpy.runtime.failure import FailureKind, RuntimeFailure

__all__ = ["Fields"]


class Fields:
    """One JSON object. Every getter raises RuntimeFailure (INVALID) with the field's path when the type is wrong.

    JSON null counts as absent, as Go's encoders write it for empty lists and objects.
    """

    __slots__ = ("path", "value")

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise RuntimeFailure(f"{path}: expected an object, got {_shown(value)}", FailureKind.INVALID)
        self.value: dict[str, object] = value
        self.path = path

    def has(self, name: str) -> bool:
        return self.value.get(name) is not None

    def text(self, name: str, default: str = "") -> str:
        value = self.value.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(name, "a string", value)
        if "\0" in value:
            raise RuntimeFailure(f"{self.at(name)}: must not contain a NUL character", FailureKind.INVALID)
        return value

    def integer(self, name: str, default: int = 0, *, low: int = -(1 << 63), high: int = (1 << 64) - 1) -> int:
        value = self.value.get(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(name, "an integer", value)
        if not low <= value <= high:
            raise RuntimeFailure(f"{self.at(name)}: {value} is not between {low} and {high}", FailureKind.INVALID)
        return value

    def optional_integer(self, name: str, *, low: int = -(1 << 63), high: int = (1 << 64) - 1) -> int | None:
        return self.integer(name, low=low, high=high) if self.has(name) else None

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.value.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false", value)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        items = self.items(name)
        for index, item in enumerate(items):
            if not isinstance(item, str):
                raise self.wrong(f"{name}[{index}]", "a string", item)
            if "\0" in item:
                raise RuntimeFailure(
                    f"{self.at(name)}[{index}]: must not contain a NUL character", FailureKind.INVALID
                )
        return tuple(items)  # type: ignore[arg-type]  # each was checked above

    def integers(self, name: str, *, low: int, high: int) -> tuple[int, ...]:
        holders = [Fields({"value": item}, f"{self.at(name)}[{i}]") for i, item in enumerate(self.items(name))]
        return tuple(holder.integer("value", low=low, high=high) for holder in holders)

    def items(self, name: str) -> list[object]:
        value = self.value.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(name, "a list", value)
        return value

    def objects(self, name: str) -> Iterator[Fields]:
        for index, item in enumerate(self.items(name)):
            yield Fields(item, f"{self.at(name)}[{index}]")

    def child(self, name: str) -> Fields:
        """The object of that name; an empty one when it is absent."""
        value = self.value.get(name)
        return Fields({} if value is None else value, self.at(name))

    def mapping(self, name: str) -> dict[str, str]:
        inner = self.child(name)
        return {key: inner.text(key) for key in inner.value}

    def required(self, name: str) -> None:
        if not self.has(name):
            raise RuntimeFailure(f"{self.at(name)}: is missing", FailureKind.INVALID)

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path and not self.path.endswith(": ") else f"{self.path}{name}"

    def wrong(self, name: str, expected: str, value: object) -> RuntimeFailure:
        return RuntimeFailure(f"{self.at(name)}: expected {expected}, got {_shown(value)}", FailureKind.INVALID)


def _shown(value: object) -> str:
    names = {dict: "an object", list: "a list", type(None): "null"}
    return names.get(type(value), repr(value)[:60])
