"""Reading a JSON object strictly: every refusal names the field by its path and says what is wanted.

`Fields` wraps one object. A field that is absent or null yields the default. Case does not tell names apart, as in Go's
decoder: some clients write `replicated` for `Replicated`. Whoever has read all it knows ends with `refuse_rest`: what
is set to anything but an empty value and was not read answers 501 with the option's name.
"""

from __future__ import annotations

from typing import Any, TypeVar

from swarmpy.errors import InvalidArgument, NotSupported

__all__ = ["Fields"]

T = TypeVar("T")


class Fields:
    """One JSON object of a request body."""

    def __init__(self, value: object, path: str = "") -> None:
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise InvalidArgument(f"{path or 'the request body'}: expected an object, found {kind(value)}")
        self._value: dict[str, Any] = value
        self._folded = {key.lower(): item for key, item in value.items()}
        self._path = path
        self._read: set[str] = set()
        self._inner: dict[str, Fields] = {}
        self._each: list[Fields] = []

    def path(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._get(name) is not None

    def text(self, name: str, default: str = "") -> str:
        return self._typed(name, str, "a string", default)

    def flag(self, name: str, default: bool = False) -> bool:
        return self._typed(name, bool, "true or false", default)

    def integer(self, name: str, default: int = 0, *, least: int | None = None, most: int | None = None) -> int:
        value = self._get(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidArgument(f"{self.path(name)}: expected a whole number, found {kind(value)}")
        if (least is not None and value < least) or (most is not None and value > most):
            raise InvalidArgument(f"{self.path(name)}: {value} is out of range ({bounds(least, most)})")
        return value

    def number(self, name: str, default: float = 0.0) -> float:
        value = self._get(name)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InvalidArgument(f"{self.path(name)}: expected a number, found {kind(value)}")
        return float(value)

    def inner(self, name: str) -> Fields:
        """The object in the field; an empty one when it is absent."""
        if name not in self._inner:
            self._inner[name] = Fields(self._get(name), self.path(name))
        return self._inner[name]

    def each(self, name: str) -> list[Fields]:
        found = [Fields(item, path) for path, item in self._items(name)]
        self._each += found
        return found

    def texts(self, name: str) -> list[str]:
        return [self._element(path, item, str, "a string") for path, item in self._items(name)]

    def mapping(self, name: str) -> dict[str, str]:
        """An object whose values are strings (labels, driver options)."""
        given = self._get(name)
        if given is None:
            return {}
        if not isinstance(given, dict):
            raise InvalidArgument(f"{self.path(name)}: expected an object, found {kind(given)}")
        return {key: self._element(f"{self.path(name)}.{key}", item, str, "a string") for key, item in given.items()}

    def choice(self, name: str, choices: dict[str, T], default: T) -> T:
        value = self.text(name)
        if not value:
            return default
        if value not in choices:
            raise InvalidArgument(f"{self.path(name)}: {value!r} is not one of {', '.join(sorted(choices))}")
        return choices[value]

    def refuse_rest(self) -> None:
        """What is set here or below and was not read is an option that swarmpy does not have."""
        for name, value in self._value.items():
            if name.lower() not in self._read and not is_empty(value):
                raise NotSupported(f"{self.path(name)} is not supported yet")
        for inner in (*self._inner.values(), *self._each):
            inner.refuse_rest()

    def _get(self, name: str) -> Any:
        self._read.add(name.lower())
        return self._value[name] if name in self._value else self._folded.get(name.lower())

    def _typed(self, name: str, type_: type[T], wanted: str, default: T) -> T:
        value = self._get(name)
        return default if value is None else self._element(self.path(name), value, type_, wanted)

    def _items(self, name: str) -> list[tuple[str, object]]:
        value = self._get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise InvalidArgument(f"{self.path(name)}: expected a list, found {kind(value)}")
        return [(f"{self.path(name)}[{index}]", item) for index, item in enumerate(value)]

    @staticmethod
    def _element(path: str, value: object, type_: type[T], wanted: str) -> T:
        if not isinstance(value, type_):
            raise InvalidArgument(f"{path}: expected {wanted}, found {kind(value)}")
        return value


def is_empty(value: object) -> bool:
    """Whether a value asks for nothing: what a client sends for a field that its user left out."""
    if isinstance(value, dict):
        return all(map(is_empty, value.values()))
    return value in (None, "", 0, False, [])


def kind(value: object) -> str:
    """What JSON calls a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names: dict[type, str] = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def bounds(least: int | None, most: int | None) -> str:
    if least is not None and most is not None:
        return f"{least} to {most}"
    return f"at least {least}" if least is not None else f"at most {most}"
