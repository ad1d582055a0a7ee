"""Words that need no taking apart: options by their whole names, and arguments by their place.

So most commands are typed, and called without typer then. Law: the call is the one that typer would make, or there is
none; whatever is wrong, or might be, is left to typer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from swarmpy.cli.declared import Argument, Command, Option

__all__ = ["bound"]

CONVERTED = {str: str, int: int, float: float}


class _Way(NamedTuple):
    """One name of an option. `value` is what a switch becomes by it."""

    parameter: str
    kind: Any
    value: bool


def bound(command: Command, words: list[str]) -> dict[str, Any] | None:
    """The keyword arguments of the call; None when typer has to look at the words."""
    given: dict[str, Any] = {}
    arguments: list[str] = []
    ways = _ways(command) if any(word.startswith("-") for word in words) else {}
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        if word == "-" or not word.startswith("-") or (command.stops_after and len(arguments) >= command.stops_after):
            arguments.append(word)
        elif not _takes_option(word, ways, given, rest):
            return None
    call = {name: list(value) if isinstance(value, list) else value for name, value in command.defaults.items()}
    return _placed(command, {**call, **given}, arguments)


def _takes_option(word: str, ways: dict[str, _Way], given: dict[str, Any], rest: list[str]) -> bool:
    """Whether `word`, and perhaps the next, which is taken from `rest`, are an option as it stands in the table."""
    name, equals, text = word.partition("=") if word.startswith("--") else (word, "", "")
    way = ways.get(name)
    if way is None or not (equals or rest or way.kind is bool):
        return False
    if way.kind is bool:
        given[way.parameter] = way.value
        return not equals
    text = text if equals else rest.pop()
    if way.kind == list[str]:
        given.setdefault(way.parameter, []).append(text)
        return True
    try:
        given[way.parameter] = CONVERTED[way.kind](text)
    except (KeyError, ValueError):
        return False
    return True


def _placed(command: Command, call: dict[str, Any], arguments: list[str]) -> dict[str, Any] | None:
    """With the arguments, each in its place."""
    rest = list(arguments)
    for name, kind, declared in command.parameters:
        if not isinstance(declared, Argument):
            continue
        if not rest:
            if name not in call:
                return None
        elif kind in (list[str], list[str] | None):
            call[name], rest = rest, []
        elif kind is str:
            call[name] = rest.pop(0)
        else:
            return None
    return None if rest else call


def _ways(command: Command) -> dict[str, _Way]:
    """Every name of every option."""
    found: dict[str, _Way] = {}
    for name, kind, declared in command.parameters:
        if isinstance(declared, Option):
            for names in declared.names:
                on, _, off = names.partition("/")
                found[on] = _Way(name, _without_none(kind), True)
                if off:
                    found[off] = _Way(name, bool, False)
    for flag in getattr(command.function, "flags", ()):
        off = f"--no-{flag.name}" if flag.can_be_taken_back else ""
        found |= {name: _Way(flag.parameter, flag.type, name != off) for name in flag.options}
    return found


def _without_none(kind: Any) -> Any:
    some = [part for part in getattr(kind, "__args__", ()) if part is not type(None)]
    return kind if kind == list[str] or not some else some[0]
