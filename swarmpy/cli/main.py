"""`swarmpy`: the commands people know from docker.

Owns    which module serves a command, so that only that one is imported; and how failures end the process.
"""

from __future__ import annotations

import importlib
import os
import sys

__all__ = ["main"]

# Commands with verbs below them, and the commands of one word, each with the module whose `app` has it.
NOUNS = {
    "service": "Services of the swarm",
    "node": "Nodes of the swarm",
    "swarm": "The swarm itself",
    "container": "Containers of this host",
    "image": "Images of this host",
    "system": "The daemon",
    "lab": "A whole cluster on this machine, for trying out and testing",
}
WORDS = {
    "container": (
        "attach",
        "create",
        "exec",
        "inspect",
        "kill",
        "logs",
        "pause",
        "ps",
        "rename",
        "restart",
        "rm",
        "run",
        "start",
        "stop",
        "top",
        "unpause",
        "wait",
    ),
    "image": ("images", "import", "load", "pull", "rmi", "save", "tag"),
    "system": ("events", "info", "version"),
}


def main() -> None:
    """The entry point of the `swarmpy` command."""
    arguments = split_host(sys.argv[1:])
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    import typer

    app = typer.Typer(
        name="swarmpy",
        help="A container engine and a self-healing cluster, driven by the docker commands you know.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def options() -> None:
        """A container engine and a self-healing cluster, driven by the docker commands you know."""

    for noun, help_ in NOUNS.items():
        words = WORDS.get(noun, ())
        if command and command != noun and command not in words:
            continue
        module = importlib.import_module(f"swarmpy.cli.{noun}")
        app.add_typer(module.app, name=noun, help=help_)
        for word in words:
            app.command(name=word, **module.COMMANDS[word].settings)(module.COMMANDS[word].function)
    run(app, arguments)


def split_host(arguments: list[str]) -> list[str]:
    """Take `-H ADDRESS`, `--host ADDRESS` from before the command; the rest reads it from the environment."""
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        flag, equals, value = rest[0].partition("=")
        if flag not in ("-H", "--host"):
            break
        if not equals:
            if len(rest) < 2:
                fail(f"{flag}: an address must follow, such as unix:///run/swarmpy.sock", 125)
            value = rest.pop(1)
        os.environ["SWARMPY_HOST"] = value
        rest.pop(0)
    return ["version"] if rest in (["--version"], ["-v"]) else rest


def run(app: object, arguments: list[str]) -> None:
    from swarmpy.cli.client import ApiError, Unreachable
    from swarmpy.errors import SwarmpyError

    try:
        app(args=arguments, prog_name="swarmpy")  # type: ignore[operator]  # typer's app is callable; kept untyped here
    except ApiError as error:
        fail(f"Error response from daemon: {error}", 1)
    except (Unreachable, SwarmpyError, ValueError) as error:
        fail(str(error), 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)


def fail(message: str, code: int) -> None:
    sys.stderr.write(message + "\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
