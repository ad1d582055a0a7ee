"""The five capability sets of a process.

Source  capabilities(7); linux/capability.h for the numbers; OCI config.md, `process.capabilities`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from swarmpy.runtime import uapi
from swarmpy.runtime.failure import FailureKind, KernelError, RuntimeFailure
from swarmpy.runtime.kernel import Kernel
from swarmpy.runtime.reader import Fields

__all__ = ["CAPABILITIES", "DEFAULT_CAPABILITIES", "CapabilitySets", "apply_sets", "drop_bounding", "parse"]

CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
"""Names in the order of their numbers, without CAP_."""

DEFAULT_CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
        "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
    )
)  # fmt: skip
"""What a container gets that asks for nothing else."""

NUMBERS = {f"CAP_{name}": number for number, name in enumerate(CAPABILITIES)}


@dataclass(frozen=True, slots=True)
class CapabilitySets:
    """Bit masks, bit n is capability number n."""

    bounding: int
    effective: int
    permitted: int
    inheritable: int
    ambient: int


def parse(fields: Fields) -> CapabilitySets:
    """OCI `process.capabilities`. Absent means none."""
    masks = {}
    for name in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        masks[name] = mask_of(fields.texts(name), fields.at(name))
    return CapabilitySets(**masks)


def mask_of(names: Iterable[str], where: str) -> int:
    mask = 0
    for name in names:
        number = NUMBERS.get(name.upper())
        if number is None:
            raise RuntimeFailure(f"{where}: unknown capability {name!r}", FailureKind.INVALID)
        mask |= 1 << number
    return mask


def drop_bounding(kernel: Kernel, keep: int, last: int) -> None:
    """Remove from the bounding set all that `keep` does not name. Needs CAP_SETPCAP, so it comes before setuid.

    `last` is the kernel's highest capability: those that swarmpy has no name for are dropped as well.
    """
    for number in range(last + 1):
        if not keep >> number & 1:
            kernel.prctl(uapi.PR_CAPBSET_DROP, number)


def apply_sets(kernel: Kernel, sets: CapabilitySets) -> None:
    """Set permitted, effective, inheritable and ambient, after the user was changed with PR_SET_KEEPCAPS.

    An ambient capability needs to be permitted and inheritable (capabilities(7)); the kernel refuses others.
    """
    try:
        kernel.set_capabilities(sets.effective, sets.permitted, sets.inheritable)
    except KernelError as error:
        raise RuntimeFailure(
            f"{error}: process.capabilities asks for more than this daemon itself may have", FailureKind.SYSTEM
        ) from None
    kernel.prctl(uapi.PR_CAP_AMBIENT, uapi.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(len(CAPABILITIES)):
        if sets.ambient >> number & 1:
            kernel.prctl(uapi.PR_CAP_AMBIENT, uapi.PR_CAP_AMBIENT_RAISE, number)
