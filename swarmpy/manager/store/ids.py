"""Identifiers of swarm objects: 25 characters of base 36 from 128 random bits, as Docker's are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random

from swarmpy.rpc.types_pb2 import TaskSpec, TaskTemplate

__all__ = ["IdSource", "ids_from", "template_of"]

IdSource = Callable[[], str]

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_LENGTH = 25          # 36 ** 25 > 2 ** 128
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]


def ids_from(random: Random) -> IdSource:
    """A source of new ids. Pass `random.SystemRandom()` in a daemon, a seeded `Random` in a simulation."""

    def new_id() -> str:
        number = random.getrandbits(128)
        pairs = []
        for _ in range(_LENGTH // 2):
            number, pair = divmod(number, 1296)
            pairs.append(_PAIRS[pair])
        pairs.append(_DIGITS[number])
        return "".join(reversed(pairs))

    return new_id


def template_of(spec: TaskSpec) -> TaskTemplate:
    """The template of a task spec. Equal specs have equal ids, on every manager: the SHA-256 of what they say."""
    digest = hashlib.sha256(spec.SerializeToString(deterministic=True)).hexdigest()
    return TaskTemplate(id=digest, spec=spec)
