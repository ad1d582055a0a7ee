"""The launcher: forks one shim for each request, and does nothing else.

One small process of one thread beside the daemon, which itself has threads and must not fork. All modules that shims
need are loaded here once; a shim shares them, copy on write. It ends when the daemon does; shims go on.

In      on its control socket (SOCK_SEQPACKET): a message for each shim that is wanted.
Out     a message with the socket of that shim.
"""

from __future__ import annotations

import array  # noqa: F401  socket.recv_fds imports it when it is called, and a shim must not import from a new release
import gc
import os
import signal
import socket
import sys
from dataclasses import replace

from swarmpy.runtime import uapi
from swarmpy.runtime.birth import Host
from swarmpy.runtime.blank_namespace import make_blank_namespace
from swarmpy.runtime.cgroups import detect_layout
from swarmpy.runtime.kernel import LinuxKernel
from swarmpy.runtime.rehearsal import rehearse_init, rehearse_shim
from swarmpy.runtime.shim import run_shim
from swarmpy.runtime.warm_pages import find_written

__all__ = ["main"]

REHEARSALS = 20
"""CPython specialises a piece of code after some eight runs, and gives up wrong guesses after some more."""
LIBC_SIGNALS = (32, 33)
"""glibc's own. Its posix_spawn leaves them ignored in the child, and whatever started the daemon may have used it."""


def main(arguments: list[str]) -> None:
    """`arguments`: control descriptor, state directory, cgroup parent."""
    control, state, cgroup_parent = int(arguments[0]), arguments[1], arguments[2]
    kernel = LinuxKernel()
    kernel.prctl(uapi.PR_SET_DUMPABLE, 0)
    kernel.set_process_name(b"swarmpy-launch")
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is signal.SIG_IGN:  # a daemon under nohup ignores some; containers must not
            signal.signal(number, signal.SIG_DFL)
    for own in LIBC_SIGNALS:
        kernel.default_signal(own)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    host = _look_around(kernel, state, cgroup_parent)
    for _ in range(REHEARSALS):
        rehearse_shim(host.layout)
        rehearse_init()
    gc.collect()
    gc.disable()
    gc.freeze()
    host = replace(
        host,
        shim_pages=find_written(kernel, lambda: rehearse_shim(host.layout)),
        init_pages=find_written(kernel, rehearse_init),
    )
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # shims are not waited for: sigaction(2), SA_NOCLDWAIT
    with socket.socket(fileno=control) as channel:
        channel.send(b"ready")
        while channel.recv(16):
            _fork_shim(kernel, host, channel)


def _look_around(kernel: LinuxKernel, state: str, cgroup_parent: str) -> Host:
    def read(path: str) -> str:
        with open(path) as file:
            return file.read()

    with open("/proc/sys/kernel/cap_last_cap") as file:
        last_capability = int(file.read())
    own_mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    blank = make_blank_namespace(kernel, state)
    layout = detect_layout(read("/proc/self/mountinfo"), read)
    return Host(state, cgroup_parent, layout, last_capability, blank, own_mounts, (), ())


def _fork_shim(kernel: LinuxKernel, host: Host, channel: socket.socket) -> None:
    """Answer with the socket of a new shim, or with the reason why there is none."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            pid = kernel.clone(0)
        except OSError as error:
            channel.send(f"fork shim: {error}".encode())
            return
        if pid != 0:
            socket.send_fds(channel, [b"shim"], [ours.fileno()])
            return
        try:
            channel.close()
            ours.close()
            run_shim(kernel, host, theirs)
        except BaseException:  # noqa: BLE001  nobody above: it goes to the log, and never back into the launcher
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(0)
