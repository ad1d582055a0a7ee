"""The file systems of nearly all containers, made by a spare init before its bundle is known.

/proc, /sys, mqueue and devpts belong to namespaces, not to bundles; making one takes the kernel up to 0.3 ms. A mount
step that wants exactly such a one gets it, with its own attributes set afterwards.
"""

from __future__ import annotations

from swarmpy.runtime.kernel import Kernel

__all__ = ["ReadyMounts", "make_ready", "take_ready"]

Options = tuple[tuple[str, str | None], ...]
ReadyMounts = dict[tuple[str, frozenset[tuple[str, str]]], int]
"""File system and its own options, however they are written, to a detached mount."""

USUAL: tuple[tuple[str, Options], ...] = (
    ("proc", ()),
    ("sysfs", ()),
    ("mqueue", ()),
    ("devpts", (("newinstance", None), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5"))),
    ("tmpfs", (("mode", "755"), ("size", "65536k"))),
)
"""As containerd, Docker and swarmpy's engine write them."""


def make_ready(kernel: Kernel) -> ReadyMounts:
    """In the namespaces that the container will have. Raises KernelError."""
    return {_key(kind, options): kernel.new_filesystem(kind, kind, options, 0) for kind, options in USUAL}


def take_ready(ready: ReadyMounts, kind: str, options: Options) -> int | None:
    """The mount that is just like this, which then is the caller's."""
    return ready.pop(_key(kind, options), None)


def _key(kind: str, options: Options) -> tuple[str, frozenset[tuple[str, str]]]:
    """Neither order nor the leading zero of an octal mode makes a difference."""
    return kind, frozenset(
        (name, (value or "").lstrip("0") if name.endswith("mode") else value or "") for name, value in options
    )
