"""The command as a process: what a wrong call says, and that it imports little."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swarmpy.cli import main
from swarmpy.cli.commands import run_verb, summaries

ROOT = Path(__file__).parent.parent.parent
HEAVY = {"asyncio", "aiohttp", "grpc", "google.protobuf", "cryptography", "pyroute2", "rich", "pydantic"}


def swarmpy(*arguments: str, host: str = "unix:///nowhere/api.sock") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "swarmpy.cli.main", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_HOST": host},
        text=True,
        capture_output=True,
        check=False,
    )


def test_without_a_daemon_the_address_is_named() -> None:
    result = swarmpy("service", "ls")
    assert result.returncode == 1
    assert result.stderr.startswith("Cannot connect to the swarmpy daemon at unix:///nowhere/api.sock")


def test_an_address_of_another_kind_is_refused() -> None:
    result = swarmpy("node", "ls", host="ftp://there")
    assert result.returncode == 1
    assert "'ftp://there' is not an address of a daemon" in result.stderr


def test_a_wrong_flag_value_is_one_line() -> None:
    result = swarmpy("service", "create", "--limit-memory", "much", "web:1")
    assert result.returncode == 125
    assert result.stderr.strip() == "swarmpy: --limit-memory: 'much' is not a size such as 512k, 64m or 1g"


def test_every_noun_has_help() -> None:
    for noun in ("service", "node", "swarm", "container", "image", "system", "lab"):
        result = swarmpy(noun, "--help")
        assert result.returncode == 0, result.stderr
        assert "Commands:" in result.stdout


def modules_of(*arguments: str) -> set[str]:
    """What the command has imported when it ends."""
    code = (
        f"import sys; sys.argv = {['swarmpy', *arguments]!r}\n"
        "from swarmpy.cli.main import outcome\n"
        "outcome(sys.argv[1:])\n"
        "print(*sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_HOST": "unix:///nowhere/api.sock"},
        text=True,
        capture_output=True,
        check=True,
    )
    return set(result.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [("service", "ls"), ("ps",), ("lab", "ls"), ("lab", "--help"), ("--help",)])
def test_a_command_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    """Start-up is most of what a command costs."""
    assert not modules_of(*arguments) & HEAVY


HTTP = {"http.client", "email", "ssl"}      # a third of a command's time, and httptools does for one without TLS
OF_TYPER = {"subprocess", "shutil", "inspect"}


@pytest.mark.parametrize("typed", ["service ls", "service ls --help", "ps", "version", "run busybox", "lab ls"])
def test_what_makes_commands_slow_stays_away(typed: str) -> None:
    assert not modules_of(*typed.split()) & (HTTP | {"base64", "secrets", "tempfile", "logging", "concurrent.futures"})


@pytest.mark.parametrize(
    "typed", ["service ls", "ps", "version", "lab ls", "run busybox ls -l", "service ps web", "run --help"]
)
def test_what_needs_no_taking_apart_needs_no_typer(typed: str) -> None:
    assert "typer" not in modules_of(*typed.split())


def test_the_overview_starts_like_the_interpreter() -> None:
    assert not modules_of("--help") & (HTTP | OF_TYPER | {"json", "socket"})


def test_help_needs_no_http() -> None:
    assert not modules_of("run", "--help") & {"httptools", "swarmpy.cli.client"}
    assert not [name for name in modules_of("--help") if name == "typer" or name.startswith("swarmpy.cli.container")]


def test_the_overview_says_what_the_commands_say() -> None:
    modules = {noun: importlib.import_module(f"swarmpy.cli.{noun}") for noun in main.NOUNS}
    for word, (noun, about) in main.WORDS.items():
        assert dict(summaries(modules[noun].app))[modules[noun].COMMANDS[word]] == about, word
    assert {word for module in modules.values() for word in module.COMMANDS} == set(main.WORDS)


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for noun in main.NOUNS:
        app = importlib.import_module(f"swarmpy.cli.{noun}").app
        for name, about in summaries(app):
            assert run_verb(app, name, f"swarmpy {noun} {name}", ["--help"]) == 0
            shown = capsys.readouterr().out
            assert shown.startswith(f"Usage:  swarmpy {noun} {name} [OPTIONS]"), shown
            assert about.split()[0] in shown


def test_what_is_printed_last_arrives() -> None:
    """The interpreter is not taken apart at the end, which would have flushed it."""
    done = swarmpy("run", "--help")
    assert (done.returncode, "--workdir" in done.stdout, done.stderr) == (0, True, "")


def test_a_reader_that_has_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "swarmpy.cli.main", "--help"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (main.CLOSED_PIPE, b"")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("nonsense", 1, "unknown command: swarmpy nonsense"),
        ("--nonsense", 125, "unknown flag: --nonsense"),
        ("service nonsense", 1, "unknown command: swarmpy service nonsense"),
        ("run", 1, "Missing argument 'IMAGE'"),
        ("run --odd busybox", 125, "No such option: --odd"),
        ("run --memory", 125, "'--memory' requires an argument"),
        ("run --memory much busybox", 125, "--memory: 'much' is not a size"),
        ("run --cpus x busybox", 125, "--cpus: 'x' is not a number of CPUs"),
        ("rm", 1, "Missing argument 'CONTAINER…'"),
        ("ps --odd", 125, "No such option: --odd"),
        ("ps a", 1, "unexpected extra argument(s) (a)"),
        ("stop --time soon a", 125, "'soon' is not a valid int"),
    ],
)
def test_a_wrong_call_ends_as_dockers_does(words: str, code: int, message: str) -> None:
    done = swarmpy(*words.split())
    assert (done.returncode, message in done.stderr) == (code, True), done
    assert "Traceback" not in done.stderr
