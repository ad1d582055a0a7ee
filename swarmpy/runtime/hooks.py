"""OCI hooks: programs of the host that are run at fixed points of a container's life.

Source  OCI config.md, "POSIX-platform Hooks": the container's state is on their standard input, a failure before start
        ends the container, a failure after it does not.
"""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Sequence

from swarmpy.runtime.bundle import Bundle, Hook
from swarmpy.runtime.failure import RuntimeFailure, describe
from swarmpy.runtime.kernel import LinuxKernel

__all__ = ["hook_state", "run_hooks"]


def hook_state(container_id: str, status: str, pid: int, bundle: Bundle) -> bytes:
    """OCI runtime.md, "State"."""
    return json.dumps(
        {
            "ociVersion": "1.2.0",
            "id": container_id,
            "status": status,
            "pid": pid,
            "bundle": bundle.path,
            "annotations": bundle.annotations,
        }
    ).encode()


def run_hooks(kind: str, hooks: Sequence[Hook], state: bytes) -> None:
    """Run them in order. Raises RuntimeFailure at the first that fails, cannot be run or takes too long."""
    for hook in hooks:
        try:
            status = _run(hook, state)
        except OSError as error:
            raise RuntimeFailure(f"{kind} hook {hook.path}: {describe(error)}") from None
        if status is None:
            raise RuntimeFailure(f"{kind} hook {hook.path}: killed after its timeout of {hook.timeout_s} s")
        if status != 0:
            raise RuntimeFailure(f"{kind} hook {hook.path}: failed with exit code {status}")


def _run(hook: Hook, state: bytes) -> int | None:
    """The exit code; None when the timeout passed."""
    # A memory file and no pipe: a hook that does not read its input must not block us, nor get us SIGPIPE.
    stdin = os.memfd_create("hook-state", os.MFD_CLOEXEC)
    try:
        os.write(stdin, state)
        os.lseek(stdin, 0, os.SEEK_SET)
        environment = dict(entry.split("=", 1) for entry in hook.env if "=" in entry)
        pid = os.posix_spawn(
            hook.path, hook.args, environment, file_actions=[(os.POSIX_SPAWN_DUP2, stdin, 0)],
            setsigmask=(), setsigdef=(signal.SIGPIPE, signal.SIGCHLD),
        )  # fmt: skip
    finally:
        os.close(stdin)
    descriptor = LinuxKernel().open_process(pid)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    ended = poll.poll(None if hook.timeout_s is None else hook.timeout_s * 1000)
    os.close(descriptor)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) if ended else None


