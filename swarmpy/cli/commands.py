"""Registering a command once, for its noun and, where docker has it, as a word of its own (`container ls` is `ps`)."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from swarmpy.cli.binding import bound
from swarmpy.cli.declared import Command, Exit, HelpWanted, Noun
from swarmpy.cli.failures import ApiError, Usage
from swarmpy.cli.help_text import help_text
from swarmpy.cli.output import print_text, print_warning

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

__all__ = ["client", "each", "run_verb", "summaries", "verb"]

NOT_FOUND = 404
Function = TypeVar("Function", bound=Callable[..., Any])


def verb(
    app: Noun, words: dict[str, str], name: str, *, word: str | None = None, stops_after: int = 0
) -> Callable[[Function], Function]:
    """Register the function as `NOUN name`, and as the top-level `word`. See `Command`."""

    def register(function: Function) -> Function:
        app.add(Command(name, function, stops_after))
        if word is not None:
            words[word] = name
        return function

    return register


def summaries(app: Noun) -> Iterable[tuple[str, str]]:
    """The verbs of a noun and what they do, in the order of its module."""
    for command in app:
        yield command.name, (command.function.__doc__ or "").strip().split("\n")[0].removesuffix(".")


def run_verb(app: Noun, name: str, path: str, words: list[str]) -> int:
    """Run the verb with what was typed, and return the exit code. Raises Usage. `path` is as messages name it."""
    command = app.find(name)
    if command is None:
        raise Usage(f"unknown command: {path}", 1)
    try:
        if words[:1] == ["--help"]:
            raise HelpWanted
        _run(command, path, words)
    except HelpWanted:
        sys.stdout.write(help_text(command, path))
    except Exit as end:
        return end.exit_code
    return 0


def _run(command: Command, path: str, words: list[str]) -> None:
    call = bound(command, words)
    if call is None:
        from swarmpy.cli.parsing import run_parsed  # and with it typer, most of a command's time
    gc.freeze()
    gc.enable()  # what has been imported stays; a command may follow a log for days
    if call is None:
        run_parsed(command, path, words)
    else:
        command.function(**call)


def client() -> Client:
    """The daemon that this process talks to."""
    from swarmpy.cli.client import Client, default_host  # not for help, which needs none

    return Client(default_host())


def each(references: list[str], act: Callable[[str], object], *, may_be_gone: bool = False) -> None:
    """Do it for all of them; one that fails is reported and does not stop the rest.

    Prints the lines that `act` returns, and the reference if it returns no list. `may_be_gone`: one that is not there
    is reported, and is no failure.
    """
    failed = False
    for reference in references:
        try:
            done = act(reference)
        except ApiError as error:
            print_warning(f"Error response from daemon: {error}")
            failed |= not (may_be_gone and error.status == NOT_FOUND)
        else:
            for line in done if isinstance(done, list) else [reference]:
                print_text(line)
    if failed:
        raise Exit(1)
