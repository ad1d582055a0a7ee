"""Flags that describe an object of the API, one row each: how a flag is typed, and what it changes in the JSON.

A flag that was not given changes nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from swarmpy.cli import values

__all__ = ["Edit", "Flag", "absent", "apply", "drops", "extends", "forgets", "into", "merges", "sets", "takes"]

JSON = dict[str, Any]
Edit = Callable[[JSON, Any], None]


@dataclass(frozen=True)
class Flag:
    name: str  # without the dashes
    type: Any  # what typer parses: str, int, float, bool, list[str]
    help: str
    edit: Edit
    short: str = ""

    @property
    def parameter(self) -> str:
        return self.name.replace("-", "_")


def apply(spec: JSON, flags: tuple[Flag, ...], given: dict[str, Any]) -> None:
    """Change the spec by every flag that was given, in the order of the table."""
    for flag in flags:
        value = given.get(flag.parameter)
        if value is not None and value != []:
            flag.edit(spec, value)


def takes(flags: tuple[Flag, ...], *, take_back: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command that has `**given` a parameter for each flag, as typer reads them from a signature.

    `take_back`: what is on can be turned off (`--no-init`).
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        added = []
        for flag in flags:
            long = f"--{flag.name}"
            if take_back and flag.type is bool and not flag.name.startswith("no-"):
                long += f"/--no-{flag.name}"
            names = ([f"-{flag.short}"] if flag.short else []) + [long]
            option = typer.Option(*names, help=flag.help, show_default=False)
            kind = flag.type if flag.type == list[str] else flag.type | None
            default: list[str] | None = [] if flag.type == list[str] else None
            added.append(
                inspect.Parameter(
                    flag.parameter, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
                )
            )
        function.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        function.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *added]}
        return function

    return decorate


def absent(*names: str) -> tuple[Flag, ...]:
    """Flags of docker's that swarmpy does not have yet: each says so."""

    def refuse(name: str) -> Edit:
        def edit(spec: JSON, value: Any) -> None:
            raise ValueError(f"--{name} is not supported by this version of swarmpy")

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
