"""Flags that describe an object of the API, one row each: how a flag is typed, and what it changes in the JSON.

A flag that was not given changes nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeVar

import typer

from swarmpy.cli import values
from swarmpy.cli.failures import WrongFlag

__all__ = [
    "Edit", "Flag", "absent", "apply", "drops", "extends", "forgets", "into", "merges", "sets", "takes", "with_flags",
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
    """Say that a command takes these flags, into its `**given`. Typer is told when the command is typed: `with_flags`.

    `take_back`: what is on can be turned off (`--no-init`).
    """

    def decorate(function: Function) -> Function:
        function.flags = [  # type: ignore[attr-defined]  # read by with_flags
            flag._replace(can_be_taken_back=True) if take_back and flag.is_switch else flag for flag in flags
        ]
        return function

    return decorate


def with_flags(function: Callable[..., Any], words: list[str]) -> Callable[..., Any]:
    """The command with a parameter for each flag that it `takes` and that `words` name, as typer reads them.

    All of them when a word may be an option that nobody knows, and for help: then the others are spoken of as well.
    """
    flags: list[Flag] = getattr(function, "flags", [])
    if not flags:
        return function
    signature = inspect.signature(function, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    typed = _typed_options(words)
    unsaid: dict[str, Any] = {}
    if typed <= set().union(*map(_own_options, own), *(flag.options for flag in flags)):
        unsaid = {flag.parameter: flag.default for flag in flags if not flag.options & typed}
        flags = [flag for flag in flags if flag.options & typed]
    parameters = [*own, *map(_parameter, flags)]

    def command(*args: Any, **given: Any) -> Any:
        return function(*args, **unsaid, **given)

    command.__doc__ = function.__doc__
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _typed_options(words: list[str]) -> set[str]:
    """Whatever may be an option among the words: `--memory=1g` is `--memory`, `-it` is `-i` and `-t`."""
    found = set()
    for word in words:
        if word.startswith("--"):
            found.add(word.partition("=")[0])
        elif word.startswith("-"):
            found |= {f"-{letter}" for letter in word[1:]}
    return found - {"--"}


def _own_options(parameter: inspect.Parameter) -> set[str]:
    """The ways to type an option that the command declares itself."""
    declared = (getattr(item, "param_decls", None) or () for item in getattr(parameter.annotation, "__metadata__", ()))
    return {name for names in declared for text in names for name in text.split("/")}


def _parameter(flag: Flag) -> inspect.Parameter:
    names = f"--{flag.name}/--no-{flag.name}" if flag.can_be_taken_back else f"--{flag.name}"
    option = typer.Option(*([f"-{flag.short}"] if flag.short else []), names, help=flag.help, show_default=False)
    kind = flag.type if flag.default is not None else flag.type | None
    return inspect.Parameter(
        flag.parameter, inspect.Parameter.KEYWORD_ONLY, default=flag.default, annotation=Annotated[kind, option]
    )


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
