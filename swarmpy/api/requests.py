"""Reading a request: its JSON body and its query, each refusal naming the parameter.

Source  Docker Engine API: query parameters are text, true is "1" or "true".
"""

from __future__ import annotations

import json

from aiohttp import web

from swarmpy.engine.times import parse_when
from swarmpy.errors import InvalidArgument

__all__ = ["query_flag", "query_integer", "query_time", "read_json"]


async def read_json(request: web.Request) -> object:
    """The body as JSON; None when it is empty. InvalidArgument when it is not JSON."""
    text = await request.read()
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"the request body is not valid JSON: {error}") from error


def query_flag(request: web.Request, name: str, default: bool = False) -> bool:
    text = request.query.get(name)
    if text is None:
        return default
    if text.lower() in ("1", "true", "t", "yes", "y"):
        return True
    if text.lower() in ("0", "false", "f", "no", "n", ""):
        return False
    raise InvalidArgument(f"{name}: {text!r} is not true or false")


def query_time(request: web.Request, name: str, now_ns: int) -> int | None:
    """`since` and `until`: Unix nanoseconds, or None when it is not set. InvalidArgument names the parameter."""
    try:
        return parse_when(request.query.get(name), now_ns)
    except InvalidArgument as error:
        raise InvalidArgument(f"{name}: {error}") from error


def query_integer(request: web.Request, name: str, default: int | None = None) -> int:
    """Raises InvalidArgument when the parameter is missing and there is no default."""
    text = request.query.get(name)
    if not text:
        if default is None:
            raise InvalidArgument(f"{name}: the query parameter must be given")
        return default
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(f"{name}: {text!r} is not a whole number") from None
