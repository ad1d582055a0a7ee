"""Capabilities and confinement of a container's processes.

Owns    the capabilities a container has by default and what `--cap-add`, `--cap-drop`, `--privileged` and
        `--security-opt` make of them. Pure.
Source  capabilities(7); Docker's documented default set.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from swarmpy.errors import InvalidArgument, NotSupported, naming

__all__ = [
    "ALL_CAPABILITIES", "MASKED_PATHS", "READONLY_PATHS", "Confinement", "capability_set", "confinement",
    "seccomp_option",
]  # fmt: skip

# By number, linux/capability.h
_NAMES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
    SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL
    SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
_DEFAULT_NAMES = """
    CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT
    KILL AUDIT_WRITE
"""
ALL_CAPABILITIES = tuple("CAP_" + name for name in _NAMES.split())
_DEFAULT = frozenset("CAP_" + name for name in _DEFAULT_NAMES.split())

MASKED_PATHS = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def capability_set(
    add: Sequence[str], drop: Sequence[str], *, privileged: bool, available: Iterable[str]
) -> tuple[str, ...]:
    """The bounding set, in the kernel's order. `available` is what the daemon itself may give away.

    `ALL` in `add` is everything available less `drop`; `ALL` in `drop` is nothing but `add`. Privileged is everything
    available whatever is dropped. A capability that is asked for by name and not available is kept: starting the
    container then fails and says so, which is better than running with less than was asked for.
    """
    have = frozenset(available)
    if privileged:
        return tuple(name for name in ALL_CAPABILITIES if name in have)
    added, dropped = {_normal(item) for item in add}, {_normal(item) for item in drop}
    chosen = set(have) if "ALL" in added else set() if "ALL" in dropped else set(_DEFAULT)
    if "ALL" in added:
        chosen -= dropped
    else:
        chosen = (chosen - dropped) | (added - {"ALL"})
    return tuple(name for name in ALL_CAPABILITIES if name in chosen)


def _normal(name: str) -> str:
    upper = name.upper()
    if upper == "ALL":
        return upper
    full = upper if upper.startswith("CAP_") else "CAP_" + upper
    if full not in ALL_CAPABILITIES:
        raise InvalidArgument(f"invalid capability: unknown capability '{name}'")
    return full


@dataclass(frozen=True)
class Confinement:
    """What `SecurityOpt` asks for."""

    no_new_privileges: bool = False
    seccomp: str | dict[str, Any] = "default"
    """"default", "unconfined", or a profile in Docker's JSON form."""


def confinement(options: Sequence[str]) -> Confinement:
    """Read `SecurityOpt`. `InvalidArgument` for what cannot be read, `NotSupported` for other security modules."""
    no_new_privileges = False
    seccomp: str | dict[str, Any] = "default"
    for option in options:
        if option == "no-new-privileges":
            no_new_privileges = True
            continue
        key, separator, value = _split(option)
        if not separator:
            raise InvalidArgument(f"HostConfig.SecurityOpt: '{option}' is not KEY=VALUE")
        match key:
            case "no-new-privileges" if value in ("true", "false"):
                no_new_privileges = value == "true"
            case "seccomp":
                with naming("HostConfig.SecurityOpt"):
                    seccomp = seccomp_option(value)
            case "apparmor" if value == "unconfined":
                continue
            case "label" if value == "disable":
                continue
            case "apparmor" | "label" | "systempaths" | "writable-cgroups":
                raise NotSupported(f"HostConfig.SecurityOpt '{key}={value[:40]}' is not supported; leave it out")
            case _:
                raise InvalidArgument(
                    f"HostConfig.SecurityOpt: invalid option '{option[:60]}'; there are no-new-privileges and seccomp"
                )
    return Confinement(no_new_privileges, seccomp)


def _split(option: str) -> tuple[str, str, str]:
    first = min((option.find(mark) for mark in "=:" if mark in option), default=-1)
    return (option, "", "") if first < 0 else (option[:first], option[first], option[first + 1 :])


def seccomp_option(value: str) -> str | dict[str, Any]:
    """ "default", "unconfined", or the profile that the text is. `InvalidArgument` when it is none."""
    if value in ("unconfined", "builtin"):
        return "default" if value == "builtin" else value
    try:
        profile = json.loads(value)
    except ValueError as error:
        raise InvalidArgument(f"the seccomp profile is not JSON: {error}") from error
    if not isinstance(profile, dict) or "defaultAction" not in profile:
        raise InvalidArgument("the seccomp profile lacks 'defaultAction'")
    return profile
