"""Records sealed with AES-256-GCM, so that the disk tells nothing and every flipped bit is noticed.

A sealed record is `salt (16) | nonce (12) | ciphertext and tag`. The cipher key is HKDF-SHA256 of the member's key and
the salt; a Sealer draws a salt when it is made and again after 2^32 records. Nonces are random: within one salt, two of
2^32 random 96-bit nonces meet with a probability of 2^-33, the bound of NIST SP 800-38D, 8.3, and a new process never
writes under an old salt, so nothing needs to be remembered across a crash. A counter would be as good until the day a
machine's memory is restored from a checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["OVERHEAD_BYTES", "TAG_BYTES", "BrokenSeal", "Keys", "Sealer"]

_KEY_BYTES = 32
_SALT_BYTES = 16
_NONCE_BYTES = 12
_RECORDS_PER_SALT = 1 << 32

TAG_BYTES = 16
"""What a sealed record ends with, and no other does."""

OVERHEAD_BYTES = _SALT_BYTES + _NONCE_BYTES + TAG_BYTES
"""By how much a sealed record is longer than what it holds."""


@dataclass(frozen=True, slots=True)
class Keys:
    """A member's keys, 32 bytes each, the newest first."""

    all: tuple[bytes, ...] = field(repr=False)


class BrokenSeal(Exception):
    """The record is not what was written here, or was written under another key."""


class Sealer:
    """Seals records under the first of a member's keys and opens those of all of them.

    `context` is authenticated: what the record is, and where.
    """

    def __init__(self, keys: Sequence[bytes], random: Callable[[int], bytes] = os.urandom) -> None:
        self._random = random
        self._ciphers: dict[bytes, tuple[AESGCM, ...]] = {}
        self.take(keys)

    def take(self, keys: Sequence[bytes]) -> None:
        """From now on, these are the keys; the ones before must be among them. By the thread that seals."""
        for key in keys:
            if len(key) != _KEY_BYTES:
                raise ValueError(f"the raft log's key has {len(key)} bytes; it must have {_KEY_BYTES}")
        self._keys = tuple(keys)
        self._ciphers.clear()
        self._renew()

    def twin(self) -> Sealer:
        """One with the same keys, for another thread."""
        return Sealer(self._keys, self._random)

    def seal(self, plain: bytes | memoryview, context: bytes) -> bytes:
        if self._left == 0:
            self._renew()
        self._left -= 1
        nonce = self._random(_NONCE_BYTES)
        return self._salt + nonce + self._cipher.encrypt(nonce, plain, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Raises BrokenSeal."""
        salt, nonce = sealed[:_SALT_BYTES], sealed[_SALT_BYTES : _SALT_BYTES + _NONCE_BYTES]
        ciphers = self._ciphers_of(salt)
        for cipher in ciphers:
            try:
                plain = cipher.decrypt(nonce, sealed[_SALT_BYTES + _NONCE_BYTES :], context)
            except (InvalidTag, ValueError):
                continue
            if len(ciphers) > 1:
                self._ciphers[salt] = (cipher,)    # a salt was drawn for one key
            return plain
        raise BrokenSeal("the record was changed, or sealed under another key")

    def _renew(self) -> None:
        self._salt = self._random(_SALT_BYTES)
        self._cipher = self._ciphers_of(self._salt)[0]
        self._left = _RECORDS_PER_SALT

    def _ciphers_of(self, salt: bytes) -> tuple[AESGCM, ...]:
        ciphers = self._ciphers.get(salt)
        if ciphers is None:
            ciphers = self._ciphers[salt] = tuple(_cipher(key, salt) for key in self._keys)
        return ciphers


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), _KEY_BYTES, salt, b"swarmpy raft log record").derive(key))
