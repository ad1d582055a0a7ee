"""The keys that seal what a node keeps on its disk, and the unlock key around them.

Owns    `<data>/swarm/certificates/data.keys` (0600): random keys of 256 bits, the newest first. It seals all that is
        written from now on; the others, of which there are some only while all is being sealed anew, what was before.
Laws    with autolock the file holds the keys wrapped by the unlock key alone; without it they lie there as they are.
        The file is replaced whole (durable_file), so a change of the unlock key is made or not made.
        No key ever lies there both wrapped and as it is: with autolock comes another one, and it goes with it.
        An older word of the swarm than the one the file was written by changes nothing: a manager that starts, or
        joins, hears the swarm's past again.

    {"version": 1, "as_of": 17, "keys": [base64, …]}                     open
    {"version": 1, "as_of": 17, "salt": …, "check": …, "sealed": …}      wrapped; all base64

`salt` is fresh in each file. HKDF-SHA256 (RFC 5869) of the unlock key and the salt gives the wrapping key and `check`,
which tells a wrong unlock key from a damaged file. `sealed` is `nonce (12) | AES-256-GCM of the keys, joined`.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from swarmpy.errors import Internal, InvalidArgument, NotFound, Unavailable
from swarmpy.identity.durable_file import write_durably
from swarmpy.identity.unlock_key import UnlockKey

__all__ = ["KEYS_FILE", "NO_LOCK", "DataKeys", "Lock", "Locked", "unwrap", "wrap"]

KEYS_FILE = "data.keys"
KEY_BYTES = 32
SALT_BYTES = 16
NONCE_BYTES = 12
CHECK_BYTES = 16
PURPOSE = b"swarmpy data keys 1"

RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Lock:
    """What the swarm says about unlocking: the key, None without autolock, as of a version of the cluster object."""

    unlock_key: UnlockKey | None = None
    as_of: int = 0


NO_LOCK = Lock()


class Locked(Unavailable):
    """The keys are wrapped, and no unlock key was given."""

    def __init__(self) -> None:
        super().__init__(
            'this node of the swarm is locked: give it the unlock key with "docker swarm unlock" before it can be used'
        )


def wrap(keys: tuple[bytes, ...], lock: Lock, random: RandomBytes = secrets.token_bytes) -> bytes:
    """The file that holds `keys`."""
    if lock.unlock_key is None:
        return json.dumps({"version": 1, "as_of": lock.as_of, "keys": [_text(key) for key in keys]}).encode()
    salt, nonce = random(SALT_BYTES), random(NONCE_BYTES)
    cipher, check = _derive(lock.unlock_key, salt)
    sealed = nonce + cipher.encrypt(nonce, b"".join(keys), _context(lock.as_of, salt))
    texts = {"salt": _text(salt), "check": _text(check), "sealed": _text(sealed)}
    return json.dumps({"version": 1, "as_of": lock.as_of} | texts).encode()


def unwrap(data: bytes, unlock_key: UnlockKey | None) -> tuple[tuple[bytes, ...], Lock]:
    """What `wrap` was given. Raises Locked, InvalidArgument for a wrong unlock key, ValueError for damage.

    An unlock key for a file that is open is not looked at.
    """
    fields = _fields(data)
    as_of = fields["as_of"]
    if "keys" in fields:
        return _checked(tuple(_bytes(text) for text in fields["keys"])), Lock(None, as_of)
    salt, check, sealed = (_bytes(fields[name]) for name in ("salt", "check", "sealed"))
    if unlock_key is None:
        raise Locked
    cipher, expected = _derive(unlock_key, salt)
    if not hmac.compare_digest(check, expected):
        raise InvalidArgument(
            "UnlockKey: this is not the key that locks this node. If the swarm's key was changed while the node was"
            " down, it still takes the one before"
        )
    try:
        joined = cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _context(as_of, salt))
    except InvalidTag as failure:
        raise ValueError("the sealed keys were changed") from failure
    keys = tuple(joined[at : at + KEY_BYTES] for at in range(0, len(joined), KEY_BYTES))
    return _checked(keys), Lock(unlock_key, as_of)


class DataKeys:
    """The keys of one node, in use. Made by `create` or `load`; changed by `change` and `settle`. All of it blocks."""

    def __init__(self, path: Path, keys: tuple[bytes, ...], lock: Lock) -> None:
        self._path = path
        self.all = keys                         # newest first
        self.locked_by = lock                   # as the file is
        self._opening = False                   # its key for the time without an unlock key is drawn

    @classmethod
    def create(cls, directory: Path, lock: Lock = NO_LOCK) -> DataKeys:
        """A new key, on the disk; whatever lay there is gone."""
        return cls.adopt(directory, (secrets.token_bytes(KEY_BYTES),), lock)

    @classmethod
    def adopt(cls, directory: Path, keys: tuple[bytes, ...], lock: Lock = NO_LOCK) -> DataKeys:
        """Keys that were drawn elsewhere, on the disk."""
        write_durably(directory / KEYS_FILE, wrap(keys, lock))
        return cls(directory / KEYS_FILE, keys, lock)

    @classmethod
    def load(cls, directory: Path, unlock_key: UnlockKey | None = None) -> DataKeys:
        """What is on the disk.

        Raises NotFound when there is nothing, Locked, InvalidArgument for a wrong unlock key, Internal for damage.
        """
        path = directory / KEYS_FILE
        try:
            return cls(path, *unwrap(path.read_bytes(), unlock_key))
        except FileNotFoundError as failure:
            raise NotFound(f"{path} is not there") from failure
        except (ValueError, KeyError, TypeError) as failure:
            raise Internal(f"{path} is damaged: restore it, or leave the swarm and join again ({failure})") from failure

    def outdated(self, lock: Lock) -> bool:
        """Whether it is an older word of the swarm than the one the file was written by."""
        return lock.as_of < self.locked_by.as_of

    def forget_word(self) -> None:
        """No word is older than the one the file was written by. On the disk with the next change."""
        self.locked_by = replace(self.locked_by, as_of=0)

    def change(self, lock: Lock) -> bool:
        """Begin to do as `lock` says. True when there is another key: with autolock, and when it ends.

        From then on the file opens with an unlock key alone: the new one, or where there is to be none the one before,
        because of what is sealed with keys of that time. Raises OSError; then the file may be as it was or as it is to
        be.
        """
        before, opens = self.locked_by, lock.unlock_key is None
        if lock == before or (opens and self._opening):
            return False
        draws = opens is not (before.unlock_key is None)
        keys = (secrets.token_bytes(KEY_BYTES), *self.all) if draws else self.all
        self._put(keys, before if opens and draws else lock)
        self._opening = opens and draws
        return draws

    def is_settled(self, lock: Lock) -> bool:
        """Whether the file is as `lock` says, and holds one key."""
        return lock == self.locked_by and len(self.all) == 1

    def settle(self, lock: Lock) -> None:
        """End it: the newest key seals all that there is. Raises OSError, as `change` does."""
        self._put(self.all[:1], lock)
        self._opening = False

    def _put(self, keys: tuple[bytes, ...], lock: Lock) -> None:
        write_durably(self._path, wrap(keys, lock))
        self.all, self.locked_by = keys, lock


def _context(as_of: int, salt: bytes) -> bytes:
    return b"%s of %d %s" % (PURPOSE, as_of, salt)


def _derive(unlock_key: UnlockKey, salt: bytes) -> tuple[AESGCM, bytes]:
    derived = HKDF(SHA256(), KEY_BYTES + CHECK_BYTES, salt, PURPOSE).derive(unlock_key.secret)
    return AESGCM(derived[:KEY_BYTES]), derived[KEY_BYTES:]


def _fields(data: bytes) -> dict[str, Any]:
    fields = json.loads(data)
    if not isinstance(fields, dict) or fields.get("version") != 1:
        raise ValueError("it is not of version 1, the only one known here")
    if not isinstance(fields["as_of"], int) or fields["as_of"] < 0:
        raise ValueError("as_of must be a number")
    return fields


def _checked(keys: tuple[bytes, ...]) -> tuple[bytes, ...]:
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        raise ValueError(f"it must hold keys of {KEY_BYTES} bytes")
    return keys


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
