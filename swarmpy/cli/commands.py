"""Registering a command once, for its noun and, where docker has it, as a word of its own (`container ls` is `ps`)."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from swarmpy.cli.dialect import DockerCommand, usage_of
from swarmpy.cli.failures import ApiError, Usage
from swarmpy.cli.flags import with_flags
from swarmpy.cli.output import print_text, print_warning

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

__all__ = ["client", "each", "noun", "run_verb", "summaries", "verb"]

NOT_FOUND = 404
Function = TypeVar("Function", bound=Callable[..., Any])


def noun() -> typer.Typer:
    """An app for the verbs of one noun."""
    return typer.Typer(add_completion=False, rich_markup_mode=None)


def verb(
    app: typer.Typer, words: dict[str, str], name: str, *, word: str | None = None,
    reads: type[DockerCommand] = DockerCommand,
) -> Callable[[Function], Function]:  # fmt: skip
    """Register the function as `NOUN name`, and as the top-level `word`."""

    def register(function: Function) -> Function:
        app.command(name=name, cls=reads)(function)
        if word is not None:
            words[word] = name
        return function

    return register


def summaries(app: typer.Typer) -> Iterable[tuple[str, str]]:
    """The verbs of a noun and what they do, in the order of its module."""
    for command in app.registered_commands:
        text = (command.callback.__doc__ or "") if command.callback else ""
        yield command.name or "", text.strip().split("\n")[0].removesuffix(".")


def run_verb(app: typer.Typer, name: str, path: str, words: list[str]) -> int:
    """Run the verb with what was typed, and return the exit code. Raises Usage.

    Only this verb is given to typer: it makes an object of every parameter of every command that it is given, and a
    noun has hundreds. `path` is the command as messages name it.
    """
    found = next((command for command in app.registered_commands if command.name == name), None)
    if found is None or found.callback is None:
        raise Usage(f"unknown command: {path}", 1)
    alone = noun()
    alone.command(name=name, cls=found.cls)(with_flags(found.callback, words))
    command = typer.main.get_command(alone)
    gc.freeze()
    gc.enable()  # a command may follow a log for days
    try:
        with command.make_context(path, words) as context:
            command.invoke(context)
    except typer.TyperException as error:
        raise usage_of(error) from error
    except typer.Exit as end:
        return end.exit_code
    return 0


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
        raise typer.Exit(1)
