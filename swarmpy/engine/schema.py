"""JSON objects of the Engine API as frozen dataclasses: strict reading, faithful writing.

Owns    the rules by which a JSON value becomes a typed field. A wrong type is `InvalidArgument` and a field that is set
        and not known here is `NotSupported`; both name the field. Absent and null mean the default, as in the API.
In      objects as `json.loads` gives them.
Out     dataclasses whose fields are declared with `api("Name")`, and JSON objects again.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from swarmpy.errors import InvalidArgument, NotSupported

__all__ = ["api", "describe_type", "read", "write"]

T = TypeVar("T")

_SIZES = {"int64": 1 << 63}


def api(name: str, default: Any = dataclasses.MISSING, *, keys: bool = False, omit: bool = False) -> Any:
    """A dataclass field that the API calls `name`.

    `keys`: in JSON it is an object whose keys are the set and whose values are `{}` (`ExposedPorts`). `omit`: it is
    left out of the JSON when it has its default, for fields that Docker marks so.
    """
    metadata = {"api": name, "keys": keys, "omit": omit}
    if callable(default) and not isinstance(default, type(dataclasses.MISSING)):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def read(cls: type[T], value: object, where: str = "") -> T:
    """The dataclass `cls` that the JSON object `value` describes; `where` is its path for messages ("HostConfig").

    A class may name in `NEUTRAL: ClassVar[Mapping[str, tuple]]` values of fields it does not have that change nothing
    (an explicit default), and in `IGNORED: ClassVar[frozenset[str]]` fields that concern another system.
    """
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"{where or 'the body'} must be a JSON object, not {describe_type(value)}")
    known = _fields(typing.cast(Any, cls))
    arguments: dict[str, Any] = {}
    for name, item in value.items():
        path = f"{where}.{name}" if where else str(name)
        found = known.get(name)
        if found is None:
            _refuse_unknown(cls, str(name), item, path)
        elif item is not None:
            attribute, parse = found
            arguments[attribute] = parse(item, path)
    try:
        return cls(**arguments)
    except TypeError as error:
        missing = [n for n, (a, _) in known.items() if a not in arguments]
        raise InvalidArgument(f"{where or 'the body'} lacks a required field, one of {', '.join(missing)}") from error


def write(value: object) -> Any:
    """The JSON form of a dataclass made of `api` fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        out: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            name = field.metadata.get("api")
            if name is None:
                continue
            item = getattr(value, field.name)
            if field.metadata["omit"] and item == _default_of(field):
                continue
            out[name] = {key: {} for key in item} if field.metadata["keys"] and item is not None else write(item)
        return out
    if isinstance(value, Mapping):
        return {str(key): write(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [write(item) for item in value]
    return value


def describe_type(value: object) -> str:
    """What JSON calls the type of `value`."""
    names: dict[type, str] = {
        bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array", dict: "an object",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return dataclasses.MISSING


def _refuse_unknown(cls: type, name: str, item: object, path: str) -> None:
    if name in getattr(cls, "IGNORED", ()):
        return
    neutral: Mapping[str, tuple[object, ...]] = getattr(cls, "NEUTRAL", {})
    if item in (None, "", 0, False) or item in ([], {}) or item in neutral.get(name, ()):
        return
    raise NotSupported(f"{path} is not supported by this version of swarmpy; leave it unset")


Parser = Callable[[Any, str], Any]


@functools.cache
def _fields(cls: type) -> dict[str, tuple[str, Parser]]:
    hints = typing.get_type_hints(cls)
    out: dict[str, tuple[str, Parser]] = {}
    for field in dataclasses.fields(cls):
        if "api" in field.metadata:
            parser = _keys if field.metadata["keys"] else _parser(hints[field.name])
            out[field.metadata["api"]] = (field.name, parser)
    return out


def _keys(value: Any, path: str) -> tuple[str, ...]:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{path} must be an object whose values are empty, not {describe_type(value)}")
    return tuple(value)


def _parser(hint: Any) -> Parser:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        chosen = [item for item in typing.get_args(hint) if item is not type(None)]
        return _parser(chosen[0])
    if origin is tuple:
        return functools.partial(_array, _parser(typing.get_args(hint)[0]))
    if origin is not None and issubclass(origin, Mapping):
        return functools.partial(_object, _parser(typing.get_args(hint)[1]))
    if dataclasses.is_dataclass(hint):
        return lambda value, path: read(typing.cast(type, hint), value, path)
    return functools.partial(_scalar, hint)


def _array(item: Parser, value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise InvalidArgument(f"{path} must be an array, not {describe_type(value)}")
    return tuple(item(entry, f"{path}[{index}]") for index, entry in enumerate(value))


def _object(item: Parser, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{path} must be an object, not {describe_type(value)}")
    return {
        key: item(entry, f"{path}.{key}") if entry is not None else _null_entry(item) for key, entry in value.items()
    }


def _null_entry(item: Parser) -> Any:
    """What null means as a value of an object: no bindings, an endpoint with nothing set, an empty text."""
    candidates: tuple[Any, ...] = ([], {}, "")
    for empty in candidates:
        try:
            return item(empty, "")
        except InvalidArgument:
            continue
    raise InvalidArgument("null is not allowed here")


def _scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is object:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        wanted = {str: "a string", int: "an integer", bool: "a boolean", float: "a number"}[kind]
        raise InvalidArgument(f"{path} must be {wanted}, not {describe_type(value)}")
    if kind is int and not -_SIZES["int64"] <= value < _SIZES["int64"]:
        raise InvalidArgument(f"{path} does not fit 64 bits")
    if kind is str and "\x00" in value:
        raise InvalidArgument(f"{path} contains a NUL character")
    return value
