"""Join tokens: the one line of text that lets a host into a swarm.

Owns    the text form `SWMTKN-1-<digest>-<secret>`: the digest is the SHA-256 of the swarm's root certificate (DER), the
        secret 128 random bits; both in base 36, padded to 50 and 25 digits.
Source  the form is Docker's (`POST /swarm/join`, JoinToken); what the secret does here is in docs/design/identity.md.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from swarmpy.errors import InvalidArgument

__all__ = ["DIGEST_BYTES", "SECRET_BYTES", "JoinToken", "base36"]

DIGEST_BYTES = 32
SECRET_BYTES = 16
DIGEST_DIGITS = 50
SECRET_DIGITS = 25
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class JoinToken:
    """Pins a swarm's root and carries the secret of one role. `repr` shows no secret; `str` is the whole token."""

    root_digest: bytes
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.root_digest) != DIGEST_BYTES or len(self.secret) != SECRET_BYTES:
            raise InvalidArgument(f"a join token has {DIGEST_BYTES} bytes of digest and {SECRET_BYTES} of secret")

    @classmethod
    def generate(cls, root_digest: bytes, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> JoinToken:
        """A new token for the root with this digest."""
        return cls(root_digest, random_bytes(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Read a token as it was printed. Raises InvalidArgument; the text of the token is never in the error."""
        parts = text.strip().split("-")
        if len(parts) != 4 or parts[0] != "SWMTKN":
            raise InvalidArgument(
                "the join token is not one: it must read SWMTKN-1-<digest>-<secret>;"
                " print it with `swarmpy swarm join-token worker` on a manager"
            )
        if parts[1] != "1":
            raise InvalidArgument(f"the join token has version {parts[1]!r:.10}; this node knows version 1")
        return cls(
            _decode("digest", parts[2], DIGEST_DIGITS, DIGEST_BYTES),
            _decode("secret", parts[3], SECRET_DIGITS, SECRET_BYTES),
        )

    def __str__(self) -> str:
        digest = base36(int.from_bytes(self.root_digest, "big"), DIGEST_DIGITS)
        secret = base36(int.from_bytes(self.secret, "big"), SECRET_DIGITS)
        return f"SWMTKN-1-{digest}-{secret}"


def base36(number: int, digits: int) -> str:
    """`number` in lower-case base 36, padded with zeros to `digits`."""
    text = ""
    while number:
        number, rest = divmod(number, 36)
        text = ALPHABET[rest] + text
    return text.rjust(digits, "0")


def _decode(part: str, text: str, digits: int, size_bytes: int) -> bytes:
    if len(text) != digits or any(letter not in ALPHABET for letter in text):
        raise InvalidArgument(
            f"the {part} in the join token is damaged: it must be {digits} digits or lower-case letters,"
            f" and has {len(text)} characters; copy the whole token"
        )
    number = int(text, 36)
    if number >= 1 << (8 * size_bytes):
        raise InvalidArgument(f"the {part} in the join token is damaged: its value is too large; copy the whole token")
    return number.to_bytes(size_bytes, "big")
