"""Errors as answers: the kinds of `swarmpy.errors` become HTTP statuses here and nowhere else.

Source  Docker Engine API, definition ErrorResponse.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from swarmpy.api.hijack import Answered, has_begun, mark_begun
from swarmpy.api.versions import API_VERSION, text_of
from swarmpy.errors import (
    Conflict,
    Forbidden,
    InvalidArgument,
    NotFound,
    NotSupported,
    SwarmpyError,
    Unavailable,
)

__all__ = ["error_body", "errors_as_answers", "status_of"]

log = logging.getLogger(__name__)

_STATUSES: tuple[tuple[type[SwarmpyError], int], ...] = (
    (InvalidArgument, 400), (Forbidden, 403), (NotFound, 404), (Conflict, 409), (NotSupported, 501), (Unavailable, 503),
)  # fmt: skip


def status_of(error: SwarmpyError) -> int:
    """The HTTP status of an error's kind; 500 when the fault is ours."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def error_body(message: str, status: int) -> web.Response:
    """ErrorResponse."""
    return web.json_response({"message": message}, status=status)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def errors_as_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure is an ErrorResponse.

    A stream that has begun can only be cut off, which its client notices because the end of the stream is missing.
    """
    try:
        return await handler(request)
    except ConnectionError:
        return Answered()  # the client is gone
    except SwarmpyError as error:
        answer = error_body(str(error), status_of(error))
    except web.HTTPException as error:
        answer = _error_of_aiohttp(error)
    except RecursionError:                      # ours are a few calls deep: what nests is what the client sent
        answer = error_body("the request nests objects too deeply", 400)
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        answer = error_body("an internal error occurred; the daemon's log says more", 500)
    if not has_begun(request):
        return answer
    log.error("%s %s: cut off, as it could not go on: %s", request.method, request.path, answer.text)
    if request.transport is not None:
        request.transport.close()
    return Answered()


def _error_of_aiohttp(error: web.HTTPException) -> web.Response:
    match error:
        case web.HTTPRequestEntityTooLarge():
            return error_body(f"the request body is too large: {error.reason}", 413)
        case web.HTTPBadRequest():
            return error_body(error.text or "bad request", 400)
        case web.HTTPMethodNotAllowed():
            return error_body(f"{error.method} is not allowed here", 405)
        case web.HTTPNotFound():
            return error_body("page not found", 404)
        case _:
            raise error


async def name_the_server(request: web.Request, response: web.StreamResponse) -> None:
    """Headers that every answer carries."""
    mark_begun(request)
    if response.content_type == "application/json":
        response.headers["Content-Type"] = "application/json"  # clients compare the whole header
    response.headers.setdefault("Api-Version", text_of(API_VERSION))
    response.headers.setdefault("Docker-Experimental", "false")
    response.headers.setdefault("Ostype", "linux")
    response.headers["Server"] = "swarmpy (linux)"

