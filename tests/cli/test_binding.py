"""What is bound without typer is what typer would have made of it, for every command."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.cli.binding import bound
from swarmpy.cli.declared import Command, Option
from swarmpy.cli.failures import Usage
from swarmpy.cli.main import NOUNS
from swarmpy.cli.parsing import run_parsed

COMMANDS = [
    pytest.param(command, id=f"{noun} {command.name}")
    for noun in NOUNS
    for command in importlib.import_module(f"swarmpy.cli.{noun}").app
]
WORD = st.sampled_from(["web", "-", "", "--", "a b", "--all", "-it", "-x", "--format=json", "7", "ls", "-l", "\u00fc"])


def as_typer_calls(command: Command, words: list[str]) -> dict[str, Any] | None:
    """The arguments of the call; None when there is none."""
    calls: list[dict[str, Any]] = []

    def function(**given: Any) -> None:
        calls.append(given)

    function.__signature__ = inspect.signature(command.function, eval_str=True)  # type: ignore[attr-defined]
    function.flags = getattr(command.function, "flags", [])  # type: ignore[attr-defined]
    try:
        run_parsed(command._replace(function=function), "swarmpy x", words)
    except Usage:
        return None
    return calls[0] if calls else None


def options_of(command: Command) -> list[str]:
    own = [declared.names for _, _, declared in command.parameters if isinstance(declared, Option)]
    named = [part for names in own for name in names for part in name.split("/")]
    return named + [name for flag in getattr(command.function, "flags", ()) for name in flag.options]


@pytest.mark.parametrize("command", COMMANDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_bound_call_is_the_one_that_typer_makes(command: Command, data: st.DataObject) -> None:
    options = st.sampled_from([*options_of(command), "--help"])
    valued = st.tuples(options, WORD).map("=".join)
    words = data.draw(st.lists(st.one_of(WORD, options, valued), max_size=6))
    call = bound(command, words)
    if call is not None:
        assert call == as_typer_calls(command, words)


@pytest.mark.parametrize(
    "typed",
    [
        "service ls", "container ls --all -q", "node ls", "image ls", "service ps web", "container stop a b", "lab ls",
        "service create --name web --replicas=3 -p 8080:80 web:1 serve -x", "container logs -f --tail 3 web",
    ],
)  # fmt: skip
def test_common_commands_are_bound(typed: str) -> None:
    noun, name, *words = typed.split()
    command = importlib.import_module(f"swarmpy.cli.{noun}").app.find(name)
    assert bound(command, words) is not None


def test_a_list_is_the_calls_own() -> None:
    command = importlib.import_module("swarmpy.cli.service").app.find("ls")
    first, second = bound(command, []), bound(command, [])
    assert first is not None and second is not None
    for name, value in first.items():
        assert not isinstance(value, list) or value is not second[name]
