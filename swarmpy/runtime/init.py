"""A container's first process, from its birth to execve.

In      a channel to the shim (SOCK_SEQPACKET), and on it a bundle and a handover. Runs in the new namespaces, as their
        root.
Out     on the channel: {"namespaces"} when hooks wait for them, {"ready"} with the terminal's master, {"error"}. The
        channel closes by execve: that is how the shim knows that the user's program runs.
Order   cgroups before the cgroup namespace, whose root is what the process is in then (cgroup_namespaces(7));
        the user map before anything else that needs privileges; the user last.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
from collections.abc import Sequence

from swarmpy.runtime import process_setup, uapi
from swarmpy.runtime.bundle import Bundle, parse_bundle
from swarmpy.runtime.failure import FailureKind, RuntimeFailure, describe
from swarmpy.runtime.handover import Handover, receive_bundle, receive_handover
from swarmpy.runtime.hooks import hook_state, run_hooks
from swarmpy.runtime.kernel import LinuxKernel
from swarmpy.runtime.plan import build_plan
from swarmpy.runtime.ready_mounts import ReadyMounts
from swarmpy.runtime.rootfs import Builder

__all__ = ["join_cgroups", "report", "run_init", "take_stdio", "take_terminal", "unexpected"]


def run_init(kernel: LinuxKernel, channel: socket.socket, ready: ReadyMounts | None = None) -> None:
    """Wait for the bundle, build the container, wait for start, become the user's program.

    Returns when that failed, having said so, or when the shim ends without a use for it.
    """
    try:
        received = receive_bundle(channel)
        if received is not None:
            path, config = received
            _run(kernel, parse_bundle(json.loads(config), path), channel, ready)
    except RuntimeFailure as failure:
        report(channel, failure)
    except OSError as error:
        report(channel, RuntimeFailure(describe(error)))
    except Exception as error:  # noqa: BLE001  a fault of ours still has to reach the caller
        report(channel, unexpected(error))


def _run(kernel: LinuxKernel, bundle: Bundle, channel: socket.socket, ready: ReadyMounts | None) -> None:
    handover = receive_handover(channel)
    if handover is None:
        return
    process = bundle.process
    join_cgroups(handover.cgroup_files)
    if "user" in bundle.namespaces:  # whose map is written before the handover is sent
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        kernel.prctl(uapi.PR_SET_DUMPABLE, 0)  # the change of user set it
    for descriptor, flag in handover.join:
        kernel.set_namespace(descriptor, flag)
        os.close(descriptor)
    if bundle.namespaces.get("cgroup") == "":
        kernel.unshare(uapi.CLONE_NEWCGROUP)
    os.setsid()
    os.umask(0)
    if handover.whole_mount_table:
        kernel.set_propagation("/", uapi.MS_REC | uapi.MS_SLAVE)
    apparmor = process_setup.set_host_attributes(process)
    _run_creation_hooks(handover.container_id, bundle, channel)
    builder = Builder(kernel, handover.sources, null=handover.null, staging=handover.staging, ready=ready)
    builder.run(build_plan(bundle, *handover.shown).steps)
    os.umask(0o022)
    for source in handover.sources:
        os.close(source)
    _open_stdio(handover, builder, bundle, channel)
    process_setup.enter_directory(process.cwd, create=True)
    process_setup.become_user(
        kernel, process, last_capability=handover.last_capability, apparmor=apparmor, seccomp=handover.seccomp
    )
    process_setup.die_with_parent(kernel)
    program = process_setup.find_program(process)
    channel.send(b'{"ready":true}')
    _await(channel, b"start")
    if bundle.hooks["startContainer"]:
        run_hooks(
            "startContainer", bundle.hooks["startContainer"],
            hook_state(handover.container_id, "created", os.getpid(), bundle),
        )  # fmt: skip
    process_setup.reset_signals()
    process_setup.execute(kernel, process, program, handover.seccomp)


def join_cgroups(files: Sequence[int]) -> None:
    for descriptor in files:
        try:
            os.write(descriptor, b"0")
        except OSError as error:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            raise RuntimeFailure(f"join cgroup {path}: {describe(error)}") from None
        os.close(descriptor)


def _run_creation_hooks(container_id: str, bundle: Bundle, channel: socket.socket) -> None:
    """The shim runs prestart and createRuntime outside; then createContainer runs here, before pivot_root."""
    if bundle.hooks["prestart"] or bundle.hooks["createRuntime"]:
        channel.send(b'{"namespaces":true}')
        _await(channel, b"go")
    inside = bundle.hooks["createContainer"]
    if inside:
        run_hooks("createContainer", inside, hook_state(container_id, "creating", os.getpid(), bundle))


def _open_stdio(handover: Handover, builder: Builder, bundle: Bundle, channel: socket.socket) -> None:
    if builder.console is None:
        take_stdio(handover.stdio)
        for descriptor in handover.stdio:
            os.close(descriptor)
        return
    master, slave = builder.console
    socket.send_fds(channel, [b'{"console":true}'], [master])
    os.close(master)
    take_terminal(slave, bundle.process.console_size, bundle.process.uid)


def take_terminal(slave: int, size: tuple[int, int] | None, uid: int) -> None:
    """The slave becomes the controlling terminal and all three streams; it belongs to the user."""
    if size is not None:
        fcntl.ioctl(slave, 0x5414, struct.pack("HHHH", *size, 0, 0))  # TIOCSWINSZ
    fcntl.ioctl(slave, 0x540E, 0)  # TIOCSCTTY
    os.fchown(slave, uid, -1)
    for number in (0, 1, 2):
        os.dup2(slave, number)
    os.close(slave)


def take_stdio(stdio: Sequence[int]) -> None:
    for number, descriptor in enumerate(stdio):
        os.dup2(descriptor, number)


def _await(channel: socket.socket, expected: bytes) -> None:
    """Wait for the shim's word. When the shim is gone there is nothing left to do here."""
    if channel.recv(64) != expected:
        os._exit(1)


def report(channel: socket.socket, failure: RuntimeFailure) -> None:
    try:
        channel.send(json.dumps(failure.to_json()).encode())
    except OSError:
        os._exit(1)  # nobody is left to hear it


def unexpected(error: BaseException) -> RuntimeFailure:
    """A fault of our own, in one sentence: where it happened and what it was."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
    return RuntimeFailure(f"internal error at {where}: {type(error).__name__}: {error}", FailureKind.SYSTEM)
