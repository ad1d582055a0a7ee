"""What can go wrong, by whose fault it is.

Rooms raise these with a text that names the object, the field and the fix. Only `api/` turns a kind into an HTTP
status, and only `manager/control` turns it into a gRPC status and back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "Conflict",
    "Forbidden",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "NotSupported",
    "SwarmpyError",
    "Unavailable",
    "naming",
]


class SwarmpyError(Exception):
    """Base of every error that is meant for a user to read."""


class InvalidArgument(SwarmpyError):
    """The request cannot be right in any state of the system (HTTP 400)."""


class NotFound(SwarmpyError):
    """No such object (HTTP 404)."""


class Conflict(SwarmpyError):
    """The request clashes with the present state: a name in use, an old version, a running container (HTTP 409)."""


class Forbidden(SwarmpyError):
    """The peer is known, and may not do this (HTTP 403)."""


class Unavailable(SwarmpyError):
    """Not now: no leader, no quorum, not part of a swarm (HTTP 503)."""


class NotSupported(SwarmpyError):
    """An option swarmpy knows of and does not have yet; the text names the option (HTTP 501)."""


class Internal(SwarmpyError):
    """The fault is on our side or the kernel's (HTTP 500)."""


@contextmanager
def naming(field: str) -> Iterator[None]:
    """What the block refuses is the value of this field: its path goes before the text."""
    try:
        yield
    except InvalidArgument as error:
        raise InvalidArgument(f"{field}: {error}") from error
    except NotSupported as error:
        raise NotSupported(f"{field}: {error}") from error
