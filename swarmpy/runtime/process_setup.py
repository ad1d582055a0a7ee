"""The last steps of a process before it becomes the user's: limits, user, privileges, execve.

Owns    the order of these steps. It runs in a container's init and in every process that enters by exec, and
        nothing else of swarmpy runs in that process after it.
Source  execve(2), credentials(7), capabilities(7), seccomp(2); OCI config.md, "Process".
"""

from __future__ import annotations

import errno
import os
import resource
import signal
from dataclasses import dataclass

from swarmpy.runtime import capabilities, uapi
from swarmpy.runtime.bundle import Process, Rlimit
from swarmpy.runtime.failure import FailureKind, RuntimeFailure, describe
from swarmpy.runtime.kernel import Kernel

__all__ = ["SeccompFilter", "become_user", "enter_directory", "execute", "find_program", "set_host_attributes"]


@dataclass(frozen=True, slots=True)
class SeccompFilter:
    program: bytes
    flags: int


def set_host_attributes(process: Process) -> int | None:
    """What is set through /proc while it still is the host's: the OOM score. Returns the descriptor for AppArmor."""
    if process.oom_score_adj is not None:
        _write_oom_score(process.oom_score_adj)
    if not process.apparmor_profile:
        return None
    try:
        return os.open("/proc/self/attr/apparmor/exec", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        raise RuntimeFailure(
            f"process.apparmorProfile {process.apparmor_profile!r}: AppArmor is not enabled on this host"
        ) from None


def _write_oom_score(score: int) -> None:
    descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(score).encode())
    except PermissionError:
        raise RuntimeFailure(
            f"process.oomScoreAdj {score}: lowering it needs CAP_SYS_RESOURCE, which this daemon does not have"
        ) from None
    finally:
        os.close(descriptor)


def set_rlimits(rlimits: tuple[Rlimit, ...]) -> None:
    for limit in rlimits:
        number = getattr(resource, limit.name, None)
        if number is None:
            raise RuntimeFailure(f"process.rlimits: unknown limit {limit.name}", FailureKind.INVALID)
        soft, hard = (_rlim(value) for value in (limit.soft, limit.hard))
        try:
            resource.setrlimit(number, (soft, hard))
        except (ValueError, OSError):
            _, now = resource.getrlimit(number)
            raise RuntimeFailure(
                f"process.rlimits: {limit.name}: hard limit {limit.hard} is above this daemon's own of "
                f"{'unlimited' if now == resource.RLIM_INFINITY else now}, and raising it needs CAP_SYS_RESOURCE"
            ) from None


def _rlim(value: int) -> int:
    return resource.RLIM_INFINITY if value >= 1 << 63 else value


def enter_directory(cwd: str, *, create: bool) -> None:
    """chdir, while still privileged; an init's missing directory is made, as image authors expect of WORKDIR."""
    try:
        if create:
            os.makedirs(cwd, 0o755, exist_ok=True)
        os.chdir(cwd)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise RuntimeFailure(f'chdir to cwd ("{cwd}") failed: {reason}', FailureKind.INVALID) from None


def become_user(
    kernel: Kernel, process: Process, *, last_capability: int, apparmor: int | None, seccomp: SeccompFilter | None
) -> None:
    """Take the process' user, capabilities and limits. The caller's privileges are gone afterwards.

    Without no_new_privileges a filter needs CAP_SYS_ADMIN and is loaded first; with it the filter comes last, in
    `execute`, and so covers less of our own calls.
    """
    set_rlimits(process.rlimits)
    if apparmor is not None:
        _set_apparmor(apparmor, process.apparmor_profile)
    if process.umask is not None:
        os.umask(process.umask)
    capabilities.drop_bounding(kernel, process.capabilities.bounding, last_capability)
    if seccomp is not None and not process.no_new_privileges:
        kernel.load_seccomp(seccomp.program, seccomp.flags)
    kernel.prctl(uapi.PR_SET_KEEPCAPS, 1)
    try:
        os.setgroups(process.additional_gids)
        os.setresgid(process.gid, process.gid, process.gid)
        os.setresuid(process.uid, process.uid, process.uid)
    except OSError as error:
        raise RuntimeFailure(
            f"process.user {process.uid}:{process.gid}: {describe(error)}; is it mapped in the user namespace?"
        ) from None
    capabilities.apply_sets(kernel, process.capabilities)
    if process.no_new_privileges:
        kernel.prctl(uapi.PR_SET_NO_NEW_PRIVS, 1)


def _set_apparmor(descriptor: int, profile: str) -> None:
    try:
        os.write(descriptor, f"exec {profile}".encode())
    except OSError as error:
        raise RuntimeFailure(f"process.apparmorProfile {profile!r}: {describe(error)}") from None
    os.close(descriptor)


def die_with_parent(kernel: Kernel) -> None:
    """Let the kernel kill this process when its shim dies. A change of user clears it (prctl(2)): it comes after."""
    kernel.prctl(uapi.PR_SET_PDEATHSIG, signal.SIGKILL)


def find_program(process: Process) -> str:
    """The path that execve(2) gets: args[0], looked up in the process' own PATH when it has no slash.

    Raises RuntimeFailure with exit code 127 when there is none and 126 when it may not be executed.
    """
    name = process.args[0]
    if "/" in name:
        _check_executable(name, name)
        return name
    path = next((entry[5:] for entry in reversed(process.env) if entry.startswith("PATH=")), "")
    found_other = False
    for directory in (path or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").split(":"):
        candidate = f"{directory or '.'}/{name}"
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            found_other = True
    if found_other:
        raise RuntimeFailure(f'exec: "{name}": permission denied', FailureKind.INVALID, 126)
    raise RuntimeFailure(f'exec: "{name}": executable file not found in $PATH', FailureKind.NOT_FOUND, 127)


def _check_executable(path: str, name: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        reason = "permission denied" if error.errno == errno.EACCES else f"stat {path}: no such file or directory"
        code = 126 if error.errno == errno.EACCES else 127
        raise RuntimeFailure(f'exec: "{name}": {reason}', FailureKind.NOT_FOUND, code) from None
    if mode & 0o170000 == 0o040000:
        raise RuntimeFailure(f'exec: "{name}": is a directory', FailureKind.INVALID, 126)
    if not os.access(path, os.X_OK):
        raise RuntimeFailure(f'exec: "{name}": permission denied', FailureKind.INVALID, 126)


def reset_signals() -> None:
    """execve(2) keeps what is ignored and blocked: by Python, by the launcher, by the shim."""
    for number in (
        signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP,
    ):  # fmt: skip
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def execute(kernel: Kernel, process: Process, program: str, seccomp: SeccompFilter | None) -> None:
    """Become the user's program. Returns only by raising RuntimeFailure."""
    environment: dict[bytes, bytes] = {}
    for entry in process.env:
        key, _, value = entry.partition("=")
        environment[os.fsencode(key)] = os.fsencode(value)
    if seccomp is not None and process.no_new_privileges:
        kernel.load_seccomp(seccomp.program, seccomp.flags)
    try:
        os.execve(program, process.args, environment)
    except OSError as error:
        raise _exec_failure(program, error) from None


def _exec_failure(program: str, error: OSError) -> RuntimeFailure:
    if error.errno == errno.ENOENT:
        return RuntimeFailure(
            f'exec: "{program}": no such file or directory; its interpreter is missing in the image',
            FailureKind.NOT_FOUND,
            127,
        )
    if error.errno == errno.ENOEXEC:
        return RuntimeFailure(f'exec: "{program}": exec format error', FailureKind.INVALID, 126)
    return RuntimeFailure(f'exec: "{program}": {(error.strerror or "").lower()}', FailureKind.INVALID, 126)


