"""`swarmpy`: the commands people know from docker.

Owns    which module serves a command, so that only that one is imported; and how failures end the process.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
from collections.abc import Iterable

from swarmpy.cli.failures import FLAG_ERROR, ApiError, Unreachable, Usage, WrongFlag
from swarmpy.errors import SwarmpyError

__all__ = ["main"]

ABOUT = "A container engine and a self-healing cluster, driven by the docker commands you know."

# Commands with verbs below them, and the commands of one word, each with the module that has it. What they do is said
# here once more, because asking all modules would take longer than anything else a command does; a test compares.
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
    "attach": ("container", "Join this terminal to a running container"),
    "cp": ("container", "Copy files into a container, or out of one"),
    "create": ("container", "Make a container, and do not start it"),
    "events": ("system", "Show what happens, as it happens"),
    "exec": ("container", "Run a command in a running container"),
    "images": ("image", "List images"),
    "import": ("image", "Make an image from a tar of a root file system"),
    "info": ("system", "Show the daemon, its host and its swarm"),
    "inspect": ("container", "Show containers in full; as a word of its own also images, services and nodes"),
    "kill": ("container", "Send containers a signal"),
    "load": ("image", "Take in images from an archive"),
    "logs": ("container", "Show what a container printed"),
    "pause": ("container", "Freeze containers"),
    "ps": ("container", "List containers"),
    "pull": ("image", "Fetch an image from its registry"),
    "rename": ("container", "Give a container another name"),
    "restart": ("container", "Stop containers and start them again"),
    "rm": ("container", "Remove containers"),
    "rmi": ("image", "Remove images"),
    "run": ("container", "Make a container and start it"),
    "save": ("image", "Write images to an archive"),
    "start": ("container", "Start containers"),
    "stop": ("container", "Stop containers"),
    "tag": ("image", "Give an image another name"),
    "top": ("container", "List the processes of a container"),
    "unpause": ("container", "Let frozen containers go on"),
    "version": ("system", "Show the versions of this command and of the daemon"),
    "wait": ("container", "Wait until containers have ended and print their exit codes"),
}
HELP = ("--help", "-h", "help")

# Exit codes of a process that a signal has ended, as a shell gives them: 128 and the number of SIGINT, of SIGPIPE.
INTERRUPTED = 130
CLOSED_PIPE = 141


def main() -> None:
    """The entry point of the `swarmpy` command."""
    end = End()
    atexit.register(end)  # the first that is registered is called last
    gc.disable()  # what is imported stays: to look through it again and again would free nothing
    end.code = outcome(sys.argv[1:])
    sys.exit(end.code)


class End:
    """Ends the process when threads have ended and all else that waits for the end has been done.

    The interpreter would now take itself apart, and free what is gone with the process anyway: a tenth of a command's
    time.
    """

    def __init__(self) -> None:
        self.code = 1  # until the outcome is known: an error nobody foresaw, whose traceback has been printed

    def __call__(self) -> None:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            self.code = CLOSED_PIPE
        sys.stderr.flush()
        os._exit(self.code)


def outcome(arguments: list[str]) -> int:
    """Do what was typed; returns the exit code. What goes wrong is said."""
    path = "swarmpy"
    try:
        words = split_host(arguments)
        path = " ".join(["swarmpy", *words[: 2 if words and words[0] in NOUNS else 1]])
        return dispatch(words)
    except Usage as error:
        return failed(f"swarmpy: {error}\n\nRun '{path} --help' for more information", error.exit_code)
    except ApiError as error:
        return failed(f"Error response from daemon: {error}", 1)
    except WrongFlag as error:
        return failed(f"swarmpy: {error}", FLAG_ERROR)
    except (Unreachable, SwarmpyError, ValueError) as error:
        return failed(str(error), 1)
    except BrokenPipeError:
        return CLOSED_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED


def dispatch(words: list[str]) -> int:
    """Run what the words mean; returns the exit code. Raises Usage when they mean nothing."""
    if not words or words[0] in HELP:
        sys.stdout.write(overview())
        return 0
    name, rest = words[0], words[1:]
    if name in WORDS:
        return run(WORDS[name][0], name, rest)
    if name not in NOUNS:
        flag = name.startswith("-")
        raise Usage(f"unknown flag: {name}" if flag else f"unknown command: swarmpy {name}", FLAG_ERROR if flag else 1)
    if not rest or rest[0] in HELP:
        sys.stdout.write(overview_of(name))
        return 0
    return run(name, f"{name} {rest[0]}", rest[1:])


def run(noun: str, path: str, words: list[str]) -> int:
    """Run a verb of a noun: `service ls`, or a word of its own such as `ps`."""
    module = importlib.import_module(f"swarmpy.cli.{noun}")
    from swarmpy.cli.commands import run_verb  # not for the overview, which needs no typer

    verb = module.COMMANDS[path] if path in WORDS else path.split()[1]
    return run_verb(module.app, verb, f"swarmpy {path}", words)


def overview() -> str:
    """The help of `swarmpy`."""
    words = [(name, about) for name, (_, about) in WORDS.items()]
    return (
        f"Usage:  swarmpy [OPTIONS] COMMAND\n\n{ABOUT}\n\nCommands with commands of their own:\n"
        f"{columns(NOUNS.items())}\nCommands:\n{columns(words)}\n"
        "Options:\n  -H, --host string   Where the daemon listens (SWARMPY_HOST, DOCKER_HOST)\n\n"
        "Run 'swarmpy COMMAND --help' for more information on a command.\n"
    )


def overview_of(noun: str) -> str:
    """The help of one noun."""
    module = importlib.import_module(f"swarmpy.cli.{noun}")
    from swarmpy.cli.commands import summaries

    return (
        f"Usage:  swarmpy {noun} COMMAND\n\n{NOUNS[noun]}\n\nCommands:\n{columns(summaries(module.app))}\n"
        f"Run 'swarmpy {noun} COMMAND --help' for more information on a command.\n"
    )


def columns(rows: Iterable[tuple[str, str]]) -> str:
    """Names and what they mean."""
    listed = list(rows)
    width = max(len(name) for name, _ in listed)
    return "".join(f"  {name:<{width}}   {meaning}\n" for name, meaning in listed)


def split_host(arguments: list[str]) -> list[str]:
    """Take `-H ADDRESS`, `--host ADDRESS` from before the command; the rest reads it from the environment."""
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        flag, equals, value = rest[0].partition("=")
        if flag not in ("-H", "--host"):
            break
        if not equals:
            if len(rest) < 2:
                raise WrongFlag(f"{flag}: an address must follow, such as unix:///run/swarmpy.sock")
            value = rest.pop(1)
        os.environ["SWARMPY_HOST"] = value
        rest.pop(0)
    return ["version"] if rest in (["--version"], ["-v"]) else rest


def failed(message: str, code: int) -> int:
    """Say why; returns the exit code."""
    sys.stderr.write(message + "\n")
    return code


if __name__ == "__main__":
    main()
