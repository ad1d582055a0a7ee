"""What processes cost, as the kernel counts it."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

__all__ = ["listener", "pss_bytes", "same_namespace"]


def listener(path: Path) -> int:
    """The process that listens on the unix socket at `path`. unix(7), SO_PEERCRED."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def pss_bytes(pid: int) -> int:
    """Its share of the memory it has resident: a page of three processes counts a third. proc(5), smaps_rollup.

    Holds the process up for as long as the kernel counts. RuntimeError when it does not tell.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the kernel does not tell the proportional share of process {pid}")


def same_namespace(pid: int) -> list[int]:
    """All processes in the pid namespace of this one, but its first."""
    namespace = Path(f"/proc/{pid}/ns/pid").readlink()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "ns/pid").readlink() == namespace and not _is_first(entry):
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):    # it ended meanwhile, or is nobody's of ours
            continue
    return found


def _is_first(entry: Path) -> bool:
    numbers = next(line for line in (entry / "status").read_text().splitlines() if line.startswith("NSpid:"))
    return numbers.split()[-1] == "1"
