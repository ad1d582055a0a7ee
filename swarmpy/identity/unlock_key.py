"""The unlock key of a swarm: the one line of text that opens a locked manager.

Owns    the text form `SWMKEY-1-<secret>`: 256 random bits in base 64 without padding (RFC 4648, 4), 43 characters.
Source  the form is Docker's (`GET /swarm/unlockkey`); what the secret does is in docs/design/autolock.md.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from swarmpy.errors import InvalidArgument

__all__ = ["UnlockKey", "new_unlock_key"]

PREFIX = "SWMKEY-1-"
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class UnlockKey:
    """Wraps the data keys of every manager. `repr` shows no secret; `str` is the whole key."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise InvalidArgument(f"an unlock key has {SECRET_BYTES} bytes of secret")

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> UnlockKey:
        return cls(random_bytes(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> UnlockKey:
        """Read a key as it was printed. Raises InvalidArgument; the text of the key is never in the error."""
        encoded = text.strip().removeprefix(PREFIX)
        try:
            key = cls(base64.b64decode(encoded + "=", validate=True))
        except (binascii.Error, ValueError, InvalidArgument):
            key = None
        if key is None or str(key) != text.strip():
            raise InvalidArgument(
                "UnlockKey: it must read SWMKEY-1- and 43 more characters; print it with"
                " `swarmpy swarm unlock-key` on a manager that is not locked"
            )
        return key

    def __str__(self) -> str:
        return PREFIX + base64.b64encode(self.secret).decode().rstrip("=")


def new_unlock_key() -> str:
    """A fresh unlock key, as text."""
    return str(UnlockKey.generate())
