"""Errors as answers: the kinds of `swarmpy.errors` become HTTP statuses here and nowhere else.

Source  Docker Engine API, definition ErrorResponse.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from swarmpy.api.hijack import Answered
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
    """Every answer names the API version; every failure is an ErrorResponse."""
    try:
        response = await handler(request)
    except SwarmpyError as error:
        response = error_body(str(error), status_of(error))
    except web.HTTPRequestEntityTooLarge as error:
        response = error_body(f"the request body is too large: {error.reason}", 413)
    except web.HTTPBadRequest as error:
        response = error_body(error.text or "bad request", 400)
    except web.HTTPMethodNotAllowed as error:
        response = error_body(f"{error.method} is not allowed here", 405)
    except web.HTTPNotFound:
        response = error_body("page not found", 404)
    except web.HTTPException:
        raise
    except ConnectionError:
        return Answered()  # the client is gone
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        response = error_body("an internal error occurred; the daemon's log says more", 500)
    return response


async def name_the_server(request: web.Request, response: web.StreamResponse) -> None:
    """Headers that every answer carries."""
    if response.content_type == "application/json":
        response.headers["Content-Type"] = "application/json"  # clients compare the whole header
    response.headers.setdefault("Api-Version", text_of(API_VERSION))
    response.headers.setdefault("Docker-Experimental", "false")
    response.headers.setdefault("Ostype", "linux")
    response.headers["Server"] = "swarmpy (linux)"

