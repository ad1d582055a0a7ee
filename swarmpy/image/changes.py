"""Changes: Dockerfile instructions applied to an image's configuration, as `docker import --change` takes them.

Owns    the instructions that only touch configuration, and the small language of words, quotes and `$VARIABLES` inside.
Source  `POST /images/create?changes=`; Dockerfile reference, "Format", "Escape", "Environment replacement".
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Mapping
from typing import Any

from swarmpy.errors import InvalidArgument

__all__ = ["apply_changes"]

Config = dict[str, Any]
"""The `config` object of an OCI image configuration."""

SHELL = ["/bin/sh", "-c"]
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def apply_changes(config: Mapping[str, Any], changes: list[str]) -> Config:
    """`config` after each of `changes`, in order. Raises InvalidArgument with the instruction that is wrong."""
    result: Config = json.loads(json.dumps(config))
    for line in changes:
        word, _, argument = line.strip().partition(" ")
        instruction = _INSTRUCTIONS.get(word.upper())
        if instruction is None:
            raise InvalidArgument(f"change {line!r}: {word!r} is not one of {', '.join(_INSTRUCTIONS)}")
        if not argument.strip():
            raise InvalidArgument(f"change {line!r}: {word.upper()} needs an argument")
        try:
            instruction(result, argument.strip())
        except InvalidArgument as error:
            raise InvalidArgument(f"change {line!r}: {error}") from None
    return result


def _cmd(config: Config, argument: str) -> None:
    config["Cmd"] = _command(argument)


def _entrypoint(config: Config, argument: str) -> None:
    config["Entrypoint"] = _command(argument)


def _env(config: Config, argument: str) -> None:
    current = _environment(config)
    for name, value in _pairs(argument, current, "ENV"):
        current[name] = value
    config["Env"] = [f"{name}={value}" for name, value in current.items()]


def _expose(config: Config, argument: str) -> None:
    ports = config.setdefault("ExposedPorts", {})
    for word in _words(argument, _environment(config)):
        match = _PORT.fullmatch(word)
        first = int(match[1]) if match else 0
        last = int(match[2]) if match and match[2] else first
        if match is None or not 1 <= first <= last <= 65535:
            raise InvalidArgument(f"{word!r} is not a port such as 80, 53/udp or 8000-8010/tcp")
        for port in range(first, last + 1):
            ports[f"{port}/{match[3] or 'tcp'}"] = {}


def _label(config: Config, argument: str) -> None:
    config.setdefault("Labels", {}).update(_pairs(argument, _environment(config), "LABEL"))


def _onbuild(config: Config, argument: str) -> None:
    word = argument.partition(" ")[0].upper()
    if word in ("ONBUILD", "FROM", "MAINTAINER"):
        raise InvalidArgument(f"{word} cannot be triggered by ONBUILD")
    config.setdefault("OnBuild", []).append(argument)


def _user(config: Config, argument: str) -> None:
    config["User"] = _one_word(config, argument, "USER")


def _volume(config: Config, argument: str) -> None:
    listed = _json_words(argument)
    for path in listed if listed is not None else _words(argument, _environment(config)):
        if not path.strip():
            raise InvalidArgument("VOLUME needs paths that are not empty")
        config.setdefault("Volumes", {})[path] = {}


def _workdir(config: Config, argument: str) -> None:
    path = " ".join(_words(argument, _environment(config)))
    config["WorkingDir"] = posixpath.normpath(posixpath.join("/", config.get("WorkingDir") or "/", path))


def _stopsignal(config: Config, argument: str) -> None:
    config["StopSignal"] = _one_word(config, argument, "STOPSIGNAL")


def _healthcheck(config: Config, argument: str) -> None:
    check: Config = {}
    rest = argument
    while rest.startswith("--"):
        option, _, rest = rest.partition(" ")
        rest = rest.strip()
        name, equals, value = option[2:].partition("=")
        field = {
            "interval": "Interval",
            "timeout": "Timeout",
            "start-period": "StartPeriod",
            "start-interval": "StartInterval",
            "retries": "Retries",
        }.get(name)
        if field is None or not equals:
            raise InvalidArgument(
                f"{option!r} is not one of --interval= --timeout= --start-period= --start-interval= --retries="
            )
        check[field] = _retries(value) if field == "Retries" else _duration(value)
    word, _, command = rest.partition(" ")
    if word.upper() == "NONE" and not command.strip() and not check:
        check["Test"] = ["NONE"]
    elif word.upper() == "CMD" and command.strip():
        listed = _json_words(command.strip())
        check["Test"] = ["CMD", *listed] if listed is not None else ["CMD-SHELL", command.strip()]
    else:
        raise InvalidArgument("HEALTHCHECK takes NONE, or options and then CMD with a command")
    config["Healthcheck"] = check


_INSTRUCTIONS: dict[str, Callable[[Config, str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}


def _command(argument: str) -> list[str]:
    """The exec form (a JSON list), or the shell form wrapped in the shell."""
    listed = _json_words(argument)
    return listed if listed is not None else [*SHELL, argument]


def _json_words(argument: str) -> list[str] | None:
    if not argument.startswith("["):
        return None
    try:
        value = json.loads(argument)
    except ValueError:
        return None  # such as `[ -f /ready ]`, which is a shell command
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise InvalidArgument("the JSON form must be a list of strings")
    return value


def _environment(config: Config) -> dict[str, str]:
    return {name: value for name, _, value in (entry.partition("=") for entry in config.get("Env") or [])}


def _one_word(config: Config, argument: str, instruction: str) -> str:
    words = _words(argument, _environment(config))
    if len(words) != 1 or not words[0]:
        raise InvalidArgument(f"{instruction} takes exactly one argument")
    return words[0]


def _pairs(argument: str, variables: Mapping[str, str], instruction: str) -> list[tuple[str, str]]:
    """`NAME=value NAME="other value"`, or the old form `NAME the rest of the line`."""
    first = argument.split(None, 1)
    if "=" not in first[0]:
        if len(first) < 2:
            raise InvalidArgument(f"{instruction} needs NAME=value")
        return [(first[0], _expand(first[1].strip(), variables))]
    pairs = []
    for word in _words(argument, variables):
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InvalidArgument(f"{instruction} {word!r} is not NAME=value")
        pairs.append((name, value))
    return pairs


def _words(text: str, variables: Mapping[str, str]) -> list[str]:
    """Words as a shell splits them: at blanks outside quotes, quotes removed, variables replaced."""
    words: list[str] = []
    for raw in _split(text):
        words.append(_expand(raw, variables))
    return words


def _split(text: str) -> list[str]:
    words: list[str] = []
    word, quote, at = "", "", 0
    while at < len(text):
        char = text[at]
        if char == "\\" and quote != "'" and at + 1 < len(text):
            word += text[at : at + 2]
            at += 1
        elif quote:
            quote = "" if char == quote else quote
            word += char
        elif char in "\"'":
            quote = char
            word += char
        elif char.isspace():
            if word:
                words.append(word)
            word = ""
        else:
            word += char
        at += 1
    if quote:
        raise InvalidArgument(f"a quote {quote} is not closed")
    return [*words, word] if word else words


def _expand(word: str, variables: Mapping[str, str]) -> str:
    """One word with quotes and escapes removed and variables replaced, except inside single quotes."""
    result, quote, at = "", "", 0
    while at < len(word):
        char = word[at]
        if char == "\\" and quote != "'" and at + 1 < len(word):
            following = word[at + 1]
            result += following if not quote or following in '"\\$' else char + following
            at += 2
        elif char in "\"'" and quote in ("", char):
            quote = "" if quote else char
            at += 1
        elif char == "$" and quote != "'":
            value, at = _variable(word, at + 1, variables)
            result += value
        else:
            result += char
            at += 1
    return result


def _variable(word: str, at: int, variables: Mapping[str, str]) -> tuple[str, int]:
    """The value of the variable whose name starts at `at`, after the `$`, and where the text goes on."""
    if word[at : at + 1] == "{":
        end = word.find("}", at)
        match = _NAME.match(word, at + 1)
        if end < 0 or match is None:
            raise InvalidArgument(f"{word!r} has a variable that is not ${{NAME}}")
        value = variables.get(match[0], "")
        modifier = word[match.end() : end]
        if modifier.startswith(":-"):
            value = value or _expand(modifier[2:], variables)
        elif modifier.startswith(":+"):
            value = _expand(modifier[2:], variables) if value else ""
        elif modifier:
            raise InvalidArgument(f"{word!r}: of ${{NAME…}} forms only ${{NAME:-word}} and ${{NAME:+word}} exist")
        return value, end + 1
    match = _NAME.match(word, at)
    return (variables.get(match[0], ""), match.end()) if match else ("$", at)


def _duration(text: str) -> int:
    """A duration such as 1m30s, in nanoseconds."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidArgument(f"{text!r} is not a duration such as 30s or 1m30s")
    total = sum(int(float(number) * _NANOSECONDS[unit]) for number, unit in parts)
    if 0 < total < 10**6:
        raise InvalidArgument(f"duration {text!r} is below one millisecond")
    return total


def _retries(text: str) -> int:
    if not text.isdigit():
        raise InvalidArgument(f"--retries={text!r} is not a whole number")
    return int(text)
