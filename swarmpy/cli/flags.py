"""Flags that describe an object of the API, one row each: how a flag is typed, and what it changes in the JSON.

A flag that was not given changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from swarmpy.cli import values
from swarmpy.cli.failures import WrongFlag

__all__ = [
    "Edit", "Flag", "absent", "apply", "drops", "extends", "forgets", "into", "merges", "sets", "takes",
]  # fmt: skip

JSON = dict[str, Any]
Edit = Callable[[JSON, Any], None]
Function = TypeVar("Function", bound=Callable[..., Any])


class Flag(NamedTuple):
    name: str  # without the dashes
    type: Any  # what typer parses: str, int, float, bool, list[str]
    help: str
    edit: Edit
    short: str = ""
    can_be_taken_back: bool = False

    @property
    def parameter(self) -> str:
        return self.name.replace("-", "_")

    @property
    def options(self) -> set[str]:
        """The ways to type it."""
        names = {f"--{self.name}", f"-{self.short}"} if self.short else {f"--{self.name}"}
        return names | {f"--no-{self.name}"} if self.can_be_taken_back else names

    @property
    def default(self) -> list[str] | None:
        """What the command gets when it was not typed."""
        return [] if self.type == list[str] else None

    @property
    def is_switch(self) -> bool:
        return self.type is bool and not self.name.startswith("no-")


def apply(spec: JSON, flags: tuple[Flag, ...], given: dict[str, Any]) -> None:
    """Change the spec by every flag that was given, in the order of the table."""
    for flag in flags:
        value = given.get(flag.parameter)
        if value is not None and value != []:
            flag.edit(spec, value)


def takes(flags: tuple[Flag, ...], *, take_back: bool = False) -> Callable[[Function], Function]:
    """Say that a command takes these flags, into its `**given`. See `parsing.parameters_of`.

    `take_back`: what is on can be turned off (`--no-init`).
    """

    def decorate(function: Function) -> Function:
        function.flags = [  # type: ignore[attr-defined]  # read by parsing and binding
            flag._replace(can_be_taken_back=True) if take_back and flag.is_switch else flag for flag in flags
        ]
        return function

    return decorate


def absent(*names: str) -> tuple[Flag, ...]:
    """Flags of docker's that swarmpy does not have yet: each says so."""

    def refuse(name: str) -> Edit:
        def edit(spec: JSON, value: Any) -> None:
            raise WrongFlag(f"--{name} is not supported by this version of swarmpy")

        return edit

    return tuple(Flag(name, list[str], "Not supported yet", refuse(name)) for name in names)


# ------------------------------------------------------------------------------------------------ places in the spec


def into(spec: JSON, *path: str) -> JSON:
    """The object at a path, made where it is missing."""
    for name in path:
        if spec.get(name) is None:
            spec[name] = {}
        spec = spec[name]
    return spec


def sets(*path: str, as_: Callable[[Any], Any] = lambda value: value) -> Edit:
    """Put the value, converted, at the path."""

    def edit(spec: JSON, value: Any) -> None:
        into(spec, *path[:-1])[path[-1]] = as_(value)

    return edit


def extends(
    *path: str, as_: Callable[[list[str]], list[Any]] = list, key: Callable[[Any], Any] = lambda item: item
) -> Edit:
    """Add the items to the list at the path; one with the same key takes the other's place."""

    def edit(spec: JSON, items: list[str]) -> None:
        place = into(spec, *path[:-1])
        new = as_(items)
        keys = [key(item) for item in new]         # objects are no members of sets
        place[path[-1]] = [item for item in place.get(path[-1]) or [] if key(item) not in keys] + new

    return edit


def drops(*path: str, key: Callable[[Any], Any] = lambda item: item, as_: Callable[[str], Any] = str) -> Edit:
    """Remove from the list at the path what has one of the keys."""

    def edit(spec: JSON, items: list[str]) -> None:
        place = into(spec, *path[:-1])
        keys = {as_(item) for item in items}
        place[path[-1]] = [item for item in place.get(path[-1]) or [] if key(item) not in keys]

    return edit


def merges(flag: str, *path: str) -> Edit:
    """Add `key=value` items to the mapping at the path."""

    def edit(spec: JSON, items: list[str]) -> None:
        into(spec, *path).update(values.pairs(flag, items))

    return edit


def forgets(*path: str) -> Edit:
    def edit(spec: JSON, names: list[str]) -> None:
        place = into(spec, *path)
        for name in names:
            place.pop(name, None)

    return edit
