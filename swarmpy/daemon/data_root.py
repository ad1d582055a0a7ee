"""One daemon per data root: the lock, and who may look inside."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from swarmpy.errors import Conflict

__all__ = ["lock_data_root"]


def lock_data_root(root: Path) -> int:
    """Make `root` (0711: containers' user namespaces pass through, nobody lists it) and lock it for this process.

    Returns the descriptor that holds the lock (flock(2)); the kernel lets it go when the process ends, however it ends.
    Raises Conflict when another daemon has it.
    """
    root.mkdir(mode=0o711, parents=True, exist_ok=True)
    root.chmod(0o711)
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise Conflict(f"--data-root {root} is in use by another swarmpyd (pid {owner})") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
