"""What may be typed that typer alone does not read."""

from __future__ import annotations

from typing import Annotated, Any

import pytest

from swarmpy.cli.commands import run_verb, verb
from swarmpy.cli.declared import Argument, Noun, Option
from swarmpy.cli.failures import Usage
from swarmpy.cli.flags import Flag, sets, takes
from swarmpy.cli.parsing import parameters_of

FLAGS = (
    Flag("env", list[str], "Environment", sets("Env"), "e"),
    Flag("memory", str, "Memory at most", sets("Memory"), "m"),
    Flag("init", bool, "With an init", sets("Init")),
    Flag("no-healthcheck", bool, "Without", sets("NoHealth")),
)


def read(line: str, stops_after: int = 0) -> dict[str, Any]:
    """What a command is given that has FLAGS, two switches, a number and arguments."""
    app = Noun()
    found: dict[str, Any] = {}

    @verb(app, {}, "x", stops_after=stops_after)
    @takes(FLAGS, take_back=True)
    def x(
        first: Annotated[str, Argument()],
        others: Annotated[list[str] | None, Argument()] = None,
        *,
        detach: Annotated[bool, Option("--detach", "-d")] = False,
        tty: Annotated[bool, Option("--tty", "-t")] = False,
        time: Annotated[int | None, Option("--time", "-n")] = None,
        **given: Any,
    ) -> None:
        found.update(given, first=first, others=others, detach=detach, tty=tty, time=time)

    assert run_verb(app, "x", "swarmpy x", line.split()) == 0
    return {name: value for name, value in found.items() if value not in (None, [], "")}


def test_nothing_given_is_nothing() -> None:
    assert read("web") == {"first": "web", "detach": False, "tty": False}


@pytest.mark.parametrize("line", ["-n5 web", "-n=5 web", "-n 5 web", "--time=5 web", "--time 5 web", "-dn5 a", "a -n5"])
def test_ways_to_write_a_value(line: str) -> None:
    assert read(line)["time"] == 5


def test_only_flags_that_are_typed_are_made_unless_one_is_unknown() -> None:
    @takes(FLAGS, take_back=True)
    def x(*, detach: Annotated[bool, Option("--detach", "-d")] = False, **given: Any) -> dict[str, Any]:
        return given

    def made(line: str) -> set[str]:
        return {parameter.name for parameter in parameters_of(x, line.split())[0]}

    everything = {"detach", *(flag.parameter for flag in FLAGS)}
    assert made("web") == {"detach"}
    assert made("--memory=1g -d web") == {"detach", "memory"}
    assert made("-de A=1 web") == {"detach", "env"}
    assert made("--odd web") == made("-z web") == made("--help") == everything
    assert parameters_of(x, ["web"])[1] == {flag.parameter: flag.default for flag in FLAGS}


def test_values_are_not_looked_at() -> None:
    assert read("-n -1 web")["time"] == -1
    assert read("-e --detach=x -e=A=1 -dteB=2 web -e -")["env"] == ["--detach=x", "A=1", "B=2", "-"]
    assert read("--memory -- web")["memory"] == "--"


@pytest.mark.parametrize(
    ("line", "detach"),
    [
        ("-d web", True), ("--detach=true web", True), ("--detach=1 web", True), ("-d=T web", True),
        ("--detach=false web", False), ("-d=0 web", False), ("-td=false web", False),
        ("-d --detach=false web", False), ("--detach=false -d web", True), ("web --detach=false", False),
    ],
)  # fmt: skip
def test_a_switch_may_be_given_a_value_and_the_last_counts(line: str, detach: bool) -> None:
    assert read(line)["detach"] is detach
    assert read(line)["tty"] is ("-t" in line)


def test_what_is_on_can_be_taken_back() -> None:
    assert read("--init web")["init"] is True
    assert read("--no-init web")["init"] is read("--init=false web")["init"] is False
    assert "init" not in read("web")
    assert read("--no-healthcheck web")["no_healthcheck"] is True


def test_a_value_that_is_neither() -> None:
    with pytest.raises(Usage, match="'perhaps' is neither true nor false") as refused:
        read("--detach=perhaps web")
    assert refused.value.exit_code == 125


def test_options_may_follow_arguments() -> None:
    assert read("a -d b --memory 1g c") | {"tty": None} == {
        "first": "a", "others": ["b", "c"], "detach": True, "memory": "1g", "tty": None,
    }  # fmt: skip
    assert read("a -- -d")["others"] == ["-d"]
    assert read("a -")["others"] == ["-"]


def test_what_belongs_to_a_command_that_is_run() -> None:
    assert read("-d web -d --env x", 1)["others"] == ["-d", "--env", "x"]
    assert read("web -- ls", 1)["others"] == ["--", "ls"]
    assert read("-- web -d", 1)["others"] == ["-d"]
    for line in ("-m 1g host ls -m 2g", "host -m 1g ls -m 2g", "host --memory=1g ls -m 2g"):
        found = read(line, 2)
        assert (found["memory"], found["others"]) == ("1g", ["ls", "-m", "2g"])
    found = read("host -- ls -m 2g", 2)
    assert ("memory" in found, found["others"]) == (False, ["ls", "-m", "2g"])
