"""Records sealed with AES-256-GCM, so that the disk tells nothing and every flipped bit is noticed.

A sealed record is `salt (16) | nonce (12) | ciphertext and tag`. The cipher key is HKDF-SHA256 of the member's key and
the salt; a Sealer draws a salt when it is made and again after 2^32 records. Nonces are random: within one salt, two of
2^32 random 96-bit nonces meet with a probability of 2^-33, the bound of NIST SP 800-38D, 8.3, and a new process never
writes under an old salt, so nothing needs to be remembered across a crash. A counter would be as good until the day a
machine's memory is restored from a checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["OVERHEAD_BYTES", "BrokenSeal", "Sealer"]

_KEY_BYTES = 32
_SALT_BYTES = 16
_NONCE_BYTES = 12
_TAG_BYTES = 16
_RECORDS_PER_SALT = 1 << 32

OVERHEAD_BYTES = _SALT_BYTES + _NONCE_BYTES + _TAG_BYTES
"""By how much a sealed record is longer than what it holds."""


class BrokenSeal(Exception):
    """The record is not what was written here, or was written under another key."""


class Sealer:
    """Seals and opens records under one member's key. `context` is authenticated: what the record is, and where."""

    def __init__(self, key: bytes, random: Callable[[int], bytes] = os.urandom) -> None:
        if len(key) != _KEY_BYTES:
            raise ValueError(f"the raft log's key has {len(key)} bytes; it must have {_KEY_BYTES}")
        self._key = key
        self._random = random
        self._ciphers: dict[bytes, AESGCM] = {}
        self._renew()

    def seal(self, plain: bytes, context: bytes) -> bytes:
        if self._left == 0:
            self._renew()
        self._left -= 1
        nonce = self._random(_NONCE_BYTES)
        return self._salt + nonce + self._cipher.encrypt(nonce, plain, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Raises BrokenSeal."""
        salt, nonce = sealed[:_SALT_BYTES], sealed[_SALT_BYTES : _SALT_BYTES + _NONCE_BYTES]
        try:
            return self._cipher_of(salt).decrypt(nonce, sealed[_SALT_BYTES + _NONCE_BYTES :], context)
        except (InvalidTag, ValueError) as error:
            raise BrokenSeal("the record was changed, or sealed under another key") from error

    def _renew(self) -> None:
        self._salt = self._random(_SALT_BYTES)
        self._cipher = self._cipher_of(self._salt)
        self._left = _RECORDS_PER_SALT

    def _cipher_of(self, salt: bytes) -> AESGCM:
        cipher = self._ciphers.get(salt)
        if cipher is None:
            derived = HKDF(SHA256(), _KEY_BYTES, salt, b"swarmpy raft log record").derive(self._key)
            cipher = self._ciphers[salt] = AESGCM(derived)
        return cipher
