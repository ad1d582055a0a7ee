"""How commands say what they take: typer's words for it, without typer, which takes longer to import than all else.

A command is a function. Its parameters are annotated with an `Argument` or an `Option`; `parsing.py` makes typer's
parameters of them when something typed has to be taken apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

__all__ = ["Argument", "Command", "Exit", "HelpWanted", "Noun", "Option", "Parameter"]


class Argument(NamedTuple):
    """Taken by its place: a str, or as a list all that are left."""

    metavar: str = ""


class Option:
    """`names` as typed, `--all`, `-a`, or `--sig-proxy/--no-sig-proxy`."""

    def __init__(self, *names: str, help: str = "", show_default: bool = True) -> None:
        self.names = names
        self.help = help
        self.show_default = show_default


class Exit(Exception):
    """The command ends with this exit code, and all has been said."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class HelpWanted(Exception):
    """What was typed asks for nothing; the command's help is the answer."""


class Parameter(NamedTuple):
    """Of a command's function. `kind` is its type without what says how it is typed."""

    name: str
    kind: Any
    declared: Argument | Option


class Command(NamedTuple):
    """`stops_after`: after so many arguments all words are those of the command that is run. 0 is never."""

    name: str
    function: Callable[..., Any]
    stops_after: int

    @property
    def parameters(self) -> list[Parameter]:
        """What the function declares; the flags that it `takes` are apart. Not by `inspect`, which imports much."""
        function: Any = self.function
        code = function.__code__
        found = []
        for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
            annotation = eval(function.__annotations__[name], function.__globals__)
            found.append(Parameter(name, annotation.__origin__, annotation.__metadata__[0]))
        return found

    @property
    def defaults(self) -> dict[str, Any]:
        """What each parameter is that was not typed, if it need not be."""
        function: Any = self.function
        code = function.__code__
        given = function.__defaults__ or ()
        return {
            **dict(zip(code.co_varnames[code.co_argcount - len(given) : code.co_argcount], given, strict=True)),
            **(function.__kwdefaults__ or {}),
            **{flag.parameter: flag.default for flag in getattr(function, "flags", ())},
        }


class Noun:
    """The verbs of a noun, in the order of its module."""

    def __init__(self) -> None:
        self._commands: dict[str, Command] = {}

    def add(self, command: Command) -> None:
        self._commands[command.name] = command

    def find(self, name: str) -> Command | None:
        return self._commands.get(name)

    def __iter__(self) -> Iterator[Command]:
        return iter(self._commands.values())
