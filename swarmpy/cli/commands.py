"""Registering a command once, for its noun and, where docker has it, as a word of its own (`container ls` is `ps`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import typer

from swarmpy.cli.client import ApiError, Client, default_host
from swarmpy.cli.output import print_text, print_warning

__all__ = ["Command", "client", "each", "noun", "verb"]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Command:
    function: Callable[..., Any]
    settings: dict[str, Any] = field(default_factory=dict)


def client() -> Client:
    return Client(default_host())


def noun() -> typer.Typer:
    """An app for the verbs of one noun."""
    return typer.Typer(no_args_is_help=True, rich_markup_mode=None, context_settings={"help_option_names": ["--help"]})


def each(references: list[str], act: Callable[[str], None]) -> None:
    """Do it for all of them; one that fails is reported and does not stop the rest."""
    failed = False
    for reference in references:
        try:
            act(reference)
            print_text(reference)
        except ApiError as error:
            print_warning(f"Error response from daemon: {error}")
            failed = True
    if failed:
        raise typer.Exit(1)


def verb(
    app: typer.Typer, words: dict[str, Command], name: str, *, word: str | None = None, passes_options: bool = False
) -> Callable[[Function], Function]:
    """Register the function as `NOUN name`, and as the top-level `word`.

    `passes_options`: everything after the first argument belongs to the command that is run (`exec web ls -l`).
    """
    settings: dict[str, Any] = {}
    if passes_options:
        settings["context_settings"] = {"allow_interspersed_args": False}

    def register(function: Function) -> Function:
        app.command(name=name, **settings)(function)
        if word is not None:
            words[word] = Command(function, settings)
        return function

    return register
