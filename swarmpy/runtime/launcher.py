"""The launcher: forks one shim for each request, and does nothing else.

One small process of one thread beside the daemon, which itself has threads and must not fork. All modules that shims
need are loaded here once; a shim shares them, copy on write. It ends when the daemon does; shims go on.

In      on its control socket (SOCK_SEQPACKET): a JSON request, with the socket on which the shim is to answer.
"""

from __future__ import annotations

import array  # noqa: F401  socket.recv_fds imports it when it is called, and a shim must not import from a new release
import gc
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass

from swarmpy.runtime import uapi
from swarmpy.runtime.birth import Host
from swarmpy.runtime.blank_namespace import make_blank_namespace
from swarmpy.runtime.cgroups import detect_layout
from swarmpy.runtime.failure import RuntimeFailure
from swarmpy.runtime.kernel import LinuxKernel
from swarmpy.runtime.rehearsal import rehearse_init, rehearse_shim
from swarmpy.runtime.shim import run_shim
from swarmpy.runtime.wire import json_frame

__all__ = ["main"]

REHEARSALS = 20
"""CPython specialises a piece of code after some eight runs, and gives up wrong guesses after some more."""

def main(arguments: list[str]) -> None:
    """`arguments`: control descriptor, state directory, cgroup parent."""
    control, state, cgroup_parent = int(arguments[0]), arguments[1], arguments[2]
    kernel = LinuxKernel()
    kernel.prctl(uapi.PR_SET_DUMPABLE, 0)
    kernel.set_process_name(b"swarmpy-launch")
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is signal.SIG_IGN:  # a daemon under nohup ignores some; containers must not
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # shims are not waited for: sigaction(2), SA_NOCLDWAIT
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    host = _look_around(kernel, state, cgroup_parent)
    for _ in range(REHEARSALS):
        rehearse_shim(host)
        rehearse_init()
    gc.collect()
    gc.disable()
    gc.freeze()
    with socket.socket(fileno=control) as channel:
        channel.send(b"ready")
        spare = _fork_shim(kernel, host, channel)
        while True:
            data, descriptors, _, _ = socket.recv_fds(channel, 65536, 1, socket.MSG_CMSG_CLOEXEC)
            if not data:
                break
            with socket.socket(fileno=descriptors[0]) as answer:
                _pass_on(kernel, host, channel, spare, data, answer)
            spare = _fork_shim(kernel, host, channel)
        spare.dismiss()


@dataclass(frozen=True, slots=True)
class Spare:
    """A shim that waits for a request."""

    pidfd: int
    requests: socket.socket

    def dismiss(self) -> None:
        """It ends, having nothing to do, and is gone afterwards."""
        self.requests.close()
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        poll.poll()
        os.close(self.pidfd)


def _pass_on(
    kernel: LinuxKernel, host: Host, channel: socket.socket, spare: Spare, data: bytes, answer: socket.socket
) -> None:
    """Give the request to the spare shim; to a fresh one when somebody killed that."""
    for shim in (spare, None):
        shim = shim or _fork_shim(kernel, host, channel)
        try:
            socket.send_fds(shim.requests, [data], [answer.fileno()])
            return
        except BrokenPipeError:
            continue
        finally:
            shim.requests.close()
            os.close(shim.pidfd)
    answer.send(json_frame(RuntimeFailure("shims are killed as soon as they are forked").to_json()))


def _look_around(kernel: LinuxKernel, state: str, cgroup_parent: str) -> Host:
    def read(path: str) -> str:
        with open(path) as file:
            return file.read()

    with open("/proc/sys/kernel/cap_last_cap") as file:
        last_capability = int(file.read())
    own_mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    blank = make_blank_namespace(kernel, state)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    layout = detect_layout(read("/proc/self/mountinfo"), read)
    return Host(state, cgroup_parent, layout, last_capability, blank, own_mounts)


def _fork_shim(kernel: LinuxKernel, host: Host, channel: socket.socket) -> Spare:
    """A shim that gets ready for its container. When there is no memory for one the launcher ends, and is replaced."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = kernel.clone(0)
    if pid != 0:
        theirs.close()
        return Spare(kernel.open_process(pid), ours)
    try:
        channel.close()
        ours.close()
        run_shim(kernel, host, theirs)
    except BaseException:  # noqa: BLE001  nobody above: it goes to the log, and never back into the launcher
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)
