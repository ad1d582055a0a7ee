"""Runs a command inside a lab's host, with this terminal, and ends as it does.

Run as a script by a bare interpreter: `python -I -S enter.py PID CMD...`, where PID is the host's first process.
Source  setns(2).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

CLONE_FLAGS = (("mnt", 0x00020000), ("uts", 0x04000000), ("ipc", 0x08000000), ("pid", 0x20000000), ("net", 0x40000000))


def main(pid: str, *command: str) -> int:
    descriptors = [(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), flag) for name, flag in CLONE_FLAGS]
    here = os.getcwd()  # noqa: PTH109 - pathlib would double the start time
    libc = ctypes.CDLL(None, use_errno=True)
    for descriptor, flag in descriptors:
        if libc.setns(descriptor, flag) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"cannot enter the host: setns: {os.strerror(code)}")
    os.chdir(here if os.path.isdir(here) else "/")  # noqa: PTH112 - pathlib would double the start time
    child = os.fork()
    if child == 0:
        try:
            os.execvp(command[0], command)
        except OSError as failure:
            os.write(2, f"cannot run {command[0]}: {failure.strerror}\n".encode())
            os._exit(127)
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # the terminal sends them to the command as well, and it decides
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
