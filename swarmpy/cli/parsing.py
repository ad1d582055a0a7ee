"""Taking apart what was typed: by typer, which is given one command.

It makes an object of every parameter of every command that it is given, and a noun has hundreds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from swarmpy.cli.declared import Argument, Command, Exit, Option
from swarmpy.cli.dialect import READS, usage_of
from swarmpy.cli.flags import Flag

__all__ = ["parameters_of", "run_parsed"]


def run_parsed(command: Command, path: str, words: list[str]) -> None:
    """Run it with what was typed, or print its help. Raises Usage, Exit, and what the command raises.

    `path` is the command as messages name it.
    """
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name=command.name, cls=READS[command.stops_after])(_for_typer(command.function, words))
    parser: Any = typer.main.get_command(alone)
    parser.declared = command
    try:
        with parser.make_context(path, words) as context:
            parser.invoke(context)
    except typer.TyperException as error:
        raise usage_of(error) from error
    except typer.Exit as end:
        raise Exit(end.exit_code) from end


def _for_typer(function: Callable[..., Any], words: list[str]) -> Callable[..., Any]:
    """The function with the signature that typer reads."""
    parameters, unsaid = parameters_of(function, words)

    def command(*args: Any, **given: Any) -> Any:
        return function(*args, **unsaid, **given)

    command.__doc__ = function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def parameters_of(function: Callable[..., Any], words: list[str]) -> tuple[list[inspect.Parameter], dict[str, Any]]:
    """A parameter for each that the function declares and each flag that it `takes` and `words` name, as typer reads
    them; and the values of the other flags.

    All flags when a word may be an option that nobody knows, and for help: then the others are spoken of as well.
    """
    flags: list[Flag] = getattr(function, "flags", [])
    signature = inspect.signature(function, eval_str=True)
    declared = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    typed = _typed_options(words)
    unsaid: dict[str, Any] = {}
    if typed <= set().union(*map(_own_options, declared), *(flag.options for flag in flags)):
        unsaid = {flag.parameter: flag.default for flag in flags if not flag.options & typed}
        flags = [flag for flag in flags if flag.options & typed]
    return [*map(_own_parameter, declared), *map(_flag_parameter, flags)], unsaid


def _typed_options(words: list[str]) -> set[str]:
    """Whatever may be an option among the words: `--memory=1g` is `--memory`, `-it` is `-i` and `-t`."""
    found = set()
    for word in words:
        if word.startswith("--"):
            found.add(word.partition("=")[0])
        elif word.startswith("-"):
            found |= {f"-{letter}" for letter in word[1:]}
    return found - {"--"}


def _own_options(parameter: inspect.Parameter) -> set[str]:
    """The ways to type an option that the command declares itself."""
    (declared,) = parameter.annotation.__metadata__
    return {name for names in declared.names for name in names.split("/")} if isinstance(declared, Option) else set()


def _own_parameter(parameter: inspect.Parameter) -> inspect.Parameter:
    kind, (declared,) = parameter.annotation.__origin__, parameter.annotation.__metadata__
    read: Any
    if isinstance(declared, Argument):
        read = typer.Argument(metavar=declared.metavar or None, show_default=False)
    else:
        read = typer.Option(*declared.names, help=declared.help, show_default=declared.show_default)
    return parameter.replace(annotation=Annotated[kind, read])


def _flag_parameter(flag: Flag) -> inspect.Parameter:
    names = f"--{flag.name}/--no-{flag.name}" if flag.can_be_taken_back else f"--{flag.name}"
    option = typer.Option(*([f"-{flag.short}"] if flag.short else []), names, help=flag.help, show_default=False)
    kind = flag.type if flag.default is not None else flag.type | None
    return inspect.Parameter(
        flag.parameter, inspect.Parameter.KEYWORD_ONLY, default=flag.default, annotation=Annotated[kind, option]
    )
