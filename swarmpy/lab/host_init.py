"""The first process of a lab's host: makes the namespaces, starts what it is told to, reaps, and ends with the host.

Run as a script by a bare interpreter (`python -I -S host_init.py swarmpy-lab LAB HOST SOCKET`), it forks once into new
pid, mount, network, UTS and IPC namespaces, prints the pid of the child as the machine sees it, and exits. The child is
pid 1 of the host: when it is killed the kernel kills every process of the host, so nothing can outlive it.

It answers one JSON object a line on a unix socket:

    {"do": "spawn", "name": N, "argv": [...], "env": {...}, "log": PATH}    -> {"pid": pid inside}
    {"do": "signal", "name": N, "signal": S}                               -> {"sent": bool}
    {"do": "signal-all", "signal": S}          every process but this one  -> {"sent": bool}
    {"do": "status"}                                                        -> {"services": {N: {...}}, "paused": bool}

Imports the standard library alone, and of it little: a lab has one such process for each host.
Source  pid_namespaces(7), mount_namespaces(7), network_namespaces(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import sys
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000  # include/uapi/linux/sched.h
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_SLAVE = 2, 4, 8, 0x4000, 1 << 19  # include/uapi/linux/mount.h

libc = ctypes.CDLL(None, use_errno=True)


def main(marker: str, lab: str, host: str, socket_path: str) -> None:
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET), "unshare")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(socket_path)
    listener.listen(16)
    child = os.fork()
    if child:
        sys.stdout.write(f"{child}\n")
        return
    os.setsid()
    set_up_host(host)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    Init(listener).serve()


def set_up_host(name: str) -> None:
    """Mounts made here stay here; /proc shows this host's processes; the host has its name."""
    check(libc.mount(None, b"/", None, MS_REC | MS_SLAVE, None), "mount --make-rslave /")
    check(libc.mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None), "mount /proc")
    encoded = name.encode()
    check(libc.sethostname(encoded, len(encoded)), "sethostname")


def check(result: int, call: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")


class Init:
    """Pid 1. Single-threaded, so that it may fork."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.services: dict[str, dict[str, Any]] = {}
        self.paused = False

    def serve(self) -> None:
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_end)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector = selectors.DefaultSelector()
        selector.register(self.listener, selectors.EVENT_READ)
        selector.register(read_end, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == read_end:
                    with contextlib.suppress(BlockingIOError):
                        os.read(read_end, 4096)
                    self.reap()
                else:
                    self.answer_one()

    def reap(self) -> None:
        """Every process of the host whose parent is gone comes here to be waited for."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for service in self.services.values():
                if service["pid"] == pid and service["running"]:
                    service.update(running=False, exit_code=os.waitstatus_to_exitcode(status))

    def answer_one(self) -> None:
        connection, _ = self.listener.accept()
        with connection, connection.makefile("rwb") as stream:
            connection.settimeout(5)
            try:
                reply = self.carry_out(json.loads(stream.readline()))
            except (OSError, ValueError, KeyError) as failure:
                reply = {"error": f"{type(failure).__name__}: {failure}"}
            with contextlib.suppress(OSError):  # who asked has gone: nobody to tell
                stream.write(json.dumps(reply).encode() + b"\n")
                stream.flush()

    def carry_out(self, request: dict[str, Any]) -> dict[str, Any]:
        self.reap()
        match request["do"]:
            case "spawn":
                return {"pid": self.spawn(request)}
            case "signal":
                service = self.services.get(request["name"])
                if service is None or not service["running"]:
                    return {"sent": False}
                os.kill(service["pid"], request["signal"])
                return {"sent": True}
            case "signal-all":
                return {"sent": self.signal_all(request["signal"])}
            case "status":
                return {"services": self.services, "paused": self.paused}
        return {"error": f"unknown request {request['do']!r}"}

    def spawn(self, request: dict[str, Any]) -> int:
        name = request["name"]
        if self.services.get(name, {}).get("running"):
            return int(self.services[name]["pid"])
        pid = os.fork()
        if pid == 0:
            try:
                become(request["argv"], request["env"], request["log"])
            finally:
                os._exit(127)
        self.services[name] = {"pid": pid, "running": True, "exit_code": None}
        return pid

    def signal_all(self, number: int) -> bool:
        """kill(2): pid -1 from pid 1 is everybody else in the namespace."""
        try:
            os.kill(-1, number)
        except ProcessLookupError:
            return False
        if number in (signal.SIGSTOP, signal.SIGCONT):
            self.paused = number == signal.SIGSTOP
        return True


def become(argv: list[str], env: dict[str, str], log: str) -> None:
    """The forked child turns into the service; what it says goes to its log."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, stream in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, stream)
    os.chdir("/")
    try:
        os.execve(argv[0], argv, env)
    except OSError as failure:
        os.write(2, f"cannot run {argv[0]}: {failure}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
