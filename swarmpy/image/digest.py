"""Digests: the names of content.

Source  OCI image-spec, descriptor.md "Digests": `algorithm:encoded`, of which sha256 and sha512 are registered.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NewType

from swarmpy.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DIGEST", "Digest", "chain_ids", "digest_of", "hasher", "parse_digest", "split_digest"]

Digest = NewType("Digest", str)
"""A checked digest, such as `sha256:9f86…` with 64 hexadecimal digits."""

DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def parse_digest(text: object, what: str = "digest") -> Digest:
    """`text` as a digest; InvalidArgument names `what` when it is not one that can be verified."""
    if not isinstance(text, str) or not DIGEST.fullmatch(text):
        raise InvalidArgument(f"{what} {text!r} is not a digest: use sha256: and 64, or sha512: and 128 hex digits")
    return Digest(text)


def split_digest(digest: Digest) -> tuple[str, str]:
    """Algorithm and hexadecimal part."""
    algorithm, _, encoded = digest.partition(":")
    return algorithm, encoded


def hasher(algorithm: str = "sha256") -> hashlib._Hash:
    """A new hash of a registered algorithm. It releases the interpreter lock for inputs above two kilobytes."""
    return hashlib.sha512() if algorithm == "sha512" else hashlib.sha256()


def digest_of(data: bytes | memoryview) -> Digest:
    """The sha256 digest of `data`."""
    return Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")


def chain_ids(diff_ids: Iterable[Digest]) -> list[Digest]:
    """The chain id of every layer, bottom first: the name of the layer applied on all below it.

    Source  OCI image-spec, config.md "Layer ChainID".
    """
    chains: list[Digest] = []
    for diff_id in diff_ids:
        chains.append(digest_of(f"{chains[-1]} {diff_id}".encode()) if chains else diff_id)
    return chains
