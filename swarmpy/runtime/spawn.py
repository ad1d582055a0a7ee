"""Making a child that will be in the container, with nothing of its parent's that it does not need.

Owns    the fork itself: `spawn` runs a function in a child and never returns there. The child keeps exactly the
        descriptors it is told to.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Sequence

from swarmpy.runtime import uapi
from swarmpy.runtime.kernel import LinuxKernel

__all__ = ["close_all_but", "spawn"]


def spawn(
    kernel: LinuxKernel,
    child: Callable[[], None],
    *,
    keep: Iterable[int],
    flags: int = 0,
    cgroup: int | None = None,
    join: Sequence[tuple[int, int]] = (),
) -> int:
    """The pid, in our own pid namespace, of a child of ours that runs `child` with only the descriptors of `keep`.

    `join` lists namespaces (descriptor, flag) the child is born in: for a pid namespace that takes a process in between
    (setns(2): only children are in the new one), for a user namespace it makes the new ones belong to it. The one in
    between closes all descriptors before the child exists, so that no process of the container can find them in /proc.
    """
    kept = sorted({*keep, *([] if cgroup is None else [cgroup])})
    if not join:
        pid = kernel.clone(flags, cgroup)
        if pid == 0:
            _run(child, kernel, kept)
        return pid
    reader, writer = os.pipe2(os.O_CLOEXEC)
    middle = kernel.clone(0)
    if middle == 0:

        def pass_on() -> None:
            for descriptor, flag in join:
                kernel.set_namespace(descriptor, flag)
            pid = kernel.clone(flags | uapi.CLONE_PARENT, cgroup)
            if pid == 0:
                os.close(writer)
                _run(child, kernel, kept)
            os.write(writer, str(pid).encode())

        _run(pass_on, kernel, sorted({*kept, writer, *(descriptor for descriptor, _ in join)}))
    os.close(writer)
    with os.fdopen(reader, "rb") as report:
        text = report.read()
    _, status = os.waitpid(middle, 0)
    if not text:
        raise OSError(os.WEXITSTATUS(status), os.strerror(os.WEXITSTATUS(status)), "join namespaces")
    return int(text)


def _run(child: Callable[[], None], kernel: LinuxKernel, kept: list[int]) -> None:
    """In the child. Whatever happens, control never returns to the parent's code."""
    code = 255
    try:
        signal.set_wakeup_fd(-1)
        close_all_but(kernel, kept)
        child()
        code = 0
    except OSError as error:
        code = error.errno or 255
    finally:
        os._exit(code)


def close_all_but(kernel: LinuxKernel, kept: list[int]) -> None:
    """Close every descriptor from 3 on that is not in `kept` (sorted)."""
    first = 3
    for descriptor in kept:
        if descriptor > first:
            kernel.close_range(first, descriptor - 1)
        first = max(first, descriptor + 1)
    kernel.close_range(first, 0x7FFF_FFFF)
