"""The words of `mounts[].options`, sorted by what the kernel does with them.

Source  OCI config.md, "Linux mount options"; mount_setattr(2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from swarmpy.runtime import uapi

__all__ = ["MountOptions", "parse_options"]

_ATTRIBUTES: dict[str, tuple[int, int]] = {  # word to (attributes to add, attributes to remove)
    "ro": (uapi.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, uapi.MOUNT_ATTR_RDONLY),
    "nosuid": (uapi.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, uapi.MOUNT_ATTR_NOSUID),
    "nodev": (uapi.MOUNT_ATTR_NODEV, 0),
    "dev": (0, uapi.MOUNT_ATTR_NODEV),
    "noexec": (uapi.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, uapi.MOUNT_ATTR_NOEXEC),
    "nodiratime": (uapi.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, uapi.MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (uapi.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, uapi.MOUNT_ATTR_NOSYMFOLLOW),
    # The access time mode is one field of the kernel's: to choose a value is to clear the field first.
    "noatime": (uapi.MOUNT_ATTR_NOATIME, uapi.MOUNT_ATTR__ATIME),
    "relatime": (0, uapi.MOUNT_ATTR__ATIME),
    "strictatime": (uapi.MOUNT_ATTR_STRICTATIME, uapi.MOUNT_ATTR__ATIME),
    "atime": (0, uapi.MOUNT_ATTR__ATIME),
    "norelatime": (0, uapi.MOUNT_ATTR__ATIME),
    "nostrictatime": (0, uapi.MOUNT_ATTR__ATIME),
}

_PROPAGATION: dict[str, tuple[int, bool]] = {  # word to (type, recursive)
    f"{prefix}{word}": (flag, prefix == "r")
    for word, flag in (
        ("private", uapi.PROPAGATION_PRIVATE),
        ("slave", uapi.PROPAGATION_SLAVE),
        ("shared", uapi.PROPAGATION_SHARED),
        ("unbindable", uapi.PROPAGATION_UNBINDABLE),
    )
    for prefix in ("", "r")
}

_IGNORED = frozenset({"bind", "rbind", "defaults", "remount", "async", "loud", "nomand", "noiversion", "nolazytime"})


@dataclass(frozen=True, slots=True)
class MountOptions:
    """`add`, `remove`: MOUNT_ATTR_ bits of this mount; `add_all`, `remove_all`: also of all mounts below it."""

    add: int
    remove: int
    add_all: int
    remove_all: int
    propagation: tuple[tuple[int, bool], ...]  # type, recursive
    recursive_bind: bool
    data: tuple[tuple[str, str | None], ...]  # for the file system itself


def parse_options(options: Iterable[str]) -> MountOptions:
    """Later words win over earlier ones. Unknown words are the file system's own and go to the kernel as they are."""
    own, whole = [0, 0], [0, 0]
    propagation: list[tuple[int, bool]] = []
    data: list[tuple[str, str | None]] = []
    recursive = False
    for word in options:
        if word in _ATTRIBUTES:
            _fold(own, *_ATTRIBUTES[word])
        elif word.startswith("r") and word[1:] in _ATTRIBUTES:
            _fold(whole, *_ATTRIBUTES[word[1:]])
        elif word in _PROPAGATION:
            propagation.append(_PROPAGATION[word])
        elif word in _IGNORED:
            recursive |= word == "rbind"
        elif word:
            key, separator, value = word.partition("=")
            data.append((key, value if separator else None))
    return MountOptions(own[0], own[1], whole[0], whole[1], tuple(propagation), recursive, tuple(data))


def _fold(masks: list[int], add: int, remove: int) -> None:
    masks[0] = (masks[0] & ~remove) | add
    masks[1] = (masks[1] & ~(add & ~uapi.MOUNT_ATTR__ATIME)) | remove
