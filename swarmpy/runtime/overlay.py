"""An overlay of many layers, on every kernel.

Since Linux 6.5 each layer is an option of its own. Before, one option names all, and fsconfig(2) takes values of
less than 256 bytes: there a layer is called by the number of its descriptor, as /proc/self/fd lists it.
Source  fsconfig(2), overlayfs.rst ("lowerdir+"), proc_pid_fd(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from swarmpy.runtime.failure import RuntimeFailure
from swarmpy.runtime.kernel import Kernel, kernel_release

__all__ = ["mount_overlay"]

VALUE_LIMIT = 255
Options = tuple[tuple[str, str | None], ...]


def mount_overlay(
    kernel: Kernel,
    lower: Sequence[str],
    writable: tuple[str, str] | None,
    options: Options = (),
    attributes: int = 0,
    release: tuple[int, int] | None = None,
) -> int:
    """A detached mount of the directories `lower`, the topmost first, and of upper and work directory `writable`.

    On an older kernel the working directory changes meanwhile: a process of several threads does this in one that has
    unshared CLONE_FS. Raises RuntimeFailure, or KernelError (an OSError).
    """
    own: Options = () if writable is None else (("upperdir", writable[0]), ("workdir", writable[1]))
    if (release or kernel_release()) >= (6, 5):
        layers: Options = tuple(("lowerdir+", path) for path in lower)
        return kernel.new_filesystem("overlay", "overlay", (*layers, *own, *options), attributes)
    with _numbers(lower) as numbers:
        if len(numbers) > VALUE_LIMIT:
            raise RuntimeFailure(
                f"mount overlay: {len(lower)} layers are more than this kernel can be told of; Linux 6.5 can be"
            )
        layers = (("lowerdir", numbers),)
        return kernel.new_filesystem("overlay", "overlay", (*layers, *own, *options), attributes)


@contextmanager
def _numbers(paths: Sequence[str]) -> Iterator[str]:
    """The paths as names of two or three characters, joined as overlayfs wants them, while this lasts."""
    with ExitStack() as opened:
        numbers = [_opened(path, opened) for path in paths]
        here = _opened(".", opened)
        os.chdir("/proc/self/fd")
        try:
            yield ":".join(map(str, numbers))
        finally:
            os.fchdir(here)


def _opened(path: str, opened: ExitStack) -> int:
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    opened.callback(os.close, descriptor)
    return descriptor
