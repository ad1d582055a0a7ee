"""Starting the launcher from a sealed copy of the interpreter.

A process that enters a container can be reached from inside as /proc/<pid>/exe; an image whose entry point is
/proc/self/exe even gets the runtime's own binary to run, and with it a way to write to that file (CVE-2019-5736). So
the launcher, and all that is forked from it, run from a memfd that nobody can write to or unseal (memfd_create(2),
fcntl(2) F_ADD_SEALS). What lies on the host's disk is never the executable of a process in a container.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from swarmpy.runtime import uapi

__all__ = ["sealed_interpreter", "start_sealed"]

SPLICE = 1 << 30


def sealed_interpreter() -> tuple[int, str]:
    """A descriptor of the copy, and the path of what was copied: the interpreter finds its library by the latter."""
    original = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    flags = uapi.MFD_CLOEXEC | uapi.MFD_ALLOW_SEALING
    try:
        copy = os.memfd_create("swarmpy-runtime", flags | uapi.MFD_EXEC)
    except OSError:  # MFD_EXEC is known since Linux 6.3
        copy = os.memfd_create("swarmpy-runtime", flags)
    with open(original, "rb") as source:
        while os.sendfile(copy, source.fileno(), None, SPLICE):
            pass
    os.fchmod(copy, 0o500)
    fcntl.fcntl(copy, uapi.F_ADD_SEALS, uapi.SEAL_EVERYTHING)
    return copy, original


def start_sealed(
    module: str, arguments: Sequence[str], pass_fds: Sequence[int], stderr: int
) -> subprocess.Popen[bytes]:
    """Run `module`.main(arguments) in a sealed interpreter that takes nothing from environment or site directories."""
    copy, original = sealed_interpreter()
    root = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path.append({root!r}); from {module} import main; main(sys.argv[1:])"
    try:
        return subprocess.Popen(
            [original, "-I", "-S", "-c", code, *arguments],
            executable=f"/proc/self/fd/{copy}",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={"LD_LIBRARY_PATH": os.environ["LD_LIBRARY_PATH"]} if "LD_LIBRARY_PATH" in os.environ else {},
            cwd="/",
            pass_fds=(*pass_fds, copy),
            start_new_session=True,
        )
    finally:
        os.close(copy)
