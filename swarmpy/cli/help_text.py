"""The help of one command, as docker prints its own."""

from __future__ import annotations

from typing import Any

from swarmpy.cli.declared import Argument, Command, Option
from swarmpy.cli.flags import Flag

__all__ = ["help_text", "usage_line"]

KINDS = {str: "string", int: "int", float: "float", bool: "", list[str]: "list"}


def usage_line(command: Command, path: str) -> str:
    """`path` is the command as messages name it."""
    arguments = [
        declared.metavar or name.upper() for name, _, declared in command.parameters if isinstance(declared, Argument)
    ]
    return " ".join([f"Usage:  {path} [OPTIONS]", *arguments])


def help_text(command: Command, path: str) -> str:
    """What it does and every option, with the line's end."""
    defaults = command.defaults
    options = [
        _of_option(declared, kind, defaults.get(name))
        for name, kind, declared in command.parameters
        if isinstance(declared, Option)
    ]
    options += map(_of_flag, getattr(command.function, "flags", []))
    options += [("    --help", "Print usage")]
    width = max(len(names) for names, _ in options)
    lines = [f"  {names:<{width}}   {about}\n" for names, about in sorted(options, key=_long_name)]
    about = (command.function.__doc__ or "").strip().removesuffix(".")
    return f"{usage_line(command, path)}\n\n{about}\n\nOptions:\n{''.join(lines)}"


def _of_option(option: Option, kind: Any, default: Any) -> tuple[str, str]:
    shown = default not in (None, "", [], False) and option.show_default and kind is not bool
    short = next((name for name in option.names if not name.startswith("--")), "")
    long = ", ".join(name for name in option.names if name.startswith("--"))
    quoted = f'"{default}"' if isinstance(default, str) else default
    return _row(short, long, kind), option.help + (f" (default {quoted})" if shown else "")


def _of_flag(flag: Flag) -> tuple[str, str]:
    names = f"--{flag.name}/--no-{flag.name}" if flag.can_be_taken_back else f"--{flag.name}"
    return _row(f"-{flag.short}" if flag.short else "", names, flag.type), flag.help


def _row(short: str, long: str, kind: Any) -> str:
    """`-e, --env list`, and for a switch that can be taken back `--[no-]init`."""
    yes, slash, no = long.partition("/")
    if slash and no == f"--no-{yes.removeprefix('--')}":
        long = f"--[no-]{yes.removeprefix('--')}"
    typed = f"{short}, {long}" if short else f"    {long}"
    return f"{typed} {_kind(kind)}".rstrip()


def _kind(kind: Any) -> str:
    """Of `int | None` that of int."""
    known = [KINDS[part] for part in (kind, *getattr(kind, "__args__", ())) if part in KINDS]
    return known[0] if known else ""


def _long_name(row: tuple[str, str]) -> str:
    return row[0].partition("--")[2].removeprefix("[no-]")
