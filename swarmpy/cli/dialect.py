"""What docker's command line reads and typer's does not.

A switch may be given a value (`--detach=false`), a short option an equals sign (`-m=64m`), and where a command is run
all that follows its name belongs to it. Such words are put as typer understands them; it reads all the others.
Source  POSIX, Utility Syntax Guidelines; docker's exit codes for wrong calls.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from swarmpy.cli.declared import Command
from swarmpy.cli.failures import FLAG_ERROR, Usage
from swarmpy.cli.help_text import help_text, usage_line

__all__ = ["READS", "usage_of"]

TRUTH = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


class DockerCommand(TyperCommand):
    """One command. `stops_after`: as in `Command`. `declared` is set before it reads anything."""

    stops_after = 0
    declared: Command

    def get_usage(self, ctx: Any) -> str:
        return usage_line(self.declared, ctx.command_path)

    def get_help(self, ctx: Any) -> str:
        return help_text(self.declared, ctx.command_path).rstrip("\n")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        reading = _Reading({name: item for item in self.get_params(ctx) for name in (*item.opts, *item.secondary_opts)})
        rest = super().parse_args(ctx, reading.plain(args, self.stops_after))
        ctx.params.update(dict.fromkeys(reading.off & ctx.params.keys(), False))
        return rest


class RunsCommand(DockerCommand):
    """`run IMAGE COMMAND…`"""

    stops_after = 1


class RunsCommandInHost(DockerCommand):
    """`lab exec HOST COMMAND…`: options may also stand between the two."""

    stops_after = 2


READS = {reads.stops_after: reads for reads in (DockerCommand, RunsCommand, RunsCommandInHost)}


class _Reading:
    """One pass over the words of one command. `off` holds the parameters of switches that were last given as false."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self.off: set[str] = set()

    def plain(self, words: list[str], stops_after: int) -> list[str]:
        """The same in typer's words. Raises Usage."""
        found: list[str] = []
        rest = list(reversed(words))
        arguments = 0
        while rest:
            word = rest.pop()
            if word == "--":
                return [*found, word, *reversed(rest)]
            if word == "-" or not word.startswith("-"):
                found.append(word)
                arguments += 1
                if arguments == stops_after:
                    return [*found, "--", *reversed(rest)]
                continue
            option, wants_value = self._long(word) if word.startswith("--") else self._short(word)
            found += option
            if wants_value and rest:
                found.append(rest.pop())
        return found

    def _long(self, word: str) -> tuple[list[str], bool]:
        """The option in typer's words, and whether the next word is its value."""
        name, equals, text = word.partition("=")
        if name not in self._options:
            return [word], False
        if self._is_switch(name):
            return self._switch(name, text if equals else "true"), False
        return [word], not equals

    def _short(self, word: str) -> tuple[list[str], bool]:
        """As `_long`, of `-it`, `-e`, `-eA=1`, `-e=A=1` and `-d=false`."""
        for place in range(1, len(word)):
            name, text = f"-{word[place]}", word[place + 1 :]
            if name not in self._options:
                break
            if not self._is_switch(name):
                return ([word[: place + 1], text[1:]], False) if text.startswith("=") else ([word], not text)
            if text.startswith("="):
                return [*([word[:place]] if place > 1 else []), *self._switch(name, text[1:])], False
            self._switch(name, "true")
        return [word], False

    def _switch(self, name: str, text: str) -> list[str]:
        if text.lower() not in TRUTH:
            raise Usage(f"Invalid value for '{name}': '{text}' is neither true nor false", FLAG_ERROR)
        if TRUTH[text.lower()]:
            self.off.discard(self._options[name].name)
            return [name]
        self.off.add(self._options[name].name)
        return []

    def _is_switch(self, name: str) -> bool:
        return bool(getattr(self._options[name], "is_flag", False))


def usage_of(error: typer.TyperException) -> Usage:
    """What typer refuses, in words for the user and with docker's exit code."""
    parameter = getattr(error, "param", None)
    of_option = hasattr(error, "option_name") or (parameter is not None and parameter.param_type_name == "option")
    context = getattr(error, "ctx", None)
    usage = f"\n\n{context.get_usage()}" if context is not None else ""
    return Usage(error.format_message() + usage, FLAG_ERROR if of_option else 1)
