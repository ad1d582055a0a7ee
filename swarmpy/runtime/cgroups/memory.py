"""Memory and swap.

Source  cgroup-v1/memory.rst, "2.4 Usage of memory.memsw"; cgroup-v2.rst, "Memory Interface Files". OCI gives `swap` as
        memory and swap together, v2 wants swap alone. -1 is no limit in OCI and v1, `max` in v2.
"""

from __future__ import annotations

from swarmpy.runtime.cgroups.write import Read, Write, key_values, number
from swarmpy.runtime.failure import FailureKind, RuntimeFailure
from swarmpy.runtime.reader import Fields

LIMIT_V1 = "memory.limit_in_bytes"
SWAP_V1 = "memory.memsw.limit_in_bytes"


def writes(resources: Fields, version: int, read: Read) -> list[Write]:
    """The writes for `resources.memory`, in an order in which the kernel takes them."""
    memory = resources.child("memory")
    limit = memory.optional_integer("limit", low=-1)
    swap = memory.optional_integer("swap", low=-1)
    if limit == 0:
        limit = None
    if swap == 0:
        swap = None
    if limit is not None and swap is not None and 0 <= swap < limit:
        raise RuntimeFailure(
            f"{memory.at('swap')}: {swap} is memory and swap together, and less than limit {limit}",
            FailureKind.INVALID,
        )
    return (_v1 if version == 1 else _v2)(memory, limit, swap, read)


def _v1(memory: Fields, limit: int | None, swap: int | None, read: Read) -> list[Write]:
    found: list[Write] = []
    limits = []
    if limit is not None:
        limits.append(Write(LIMIT_V1, str(limit), memory.at("limit")))
    if swap is not None:
        limits.append(Write(SWAP_V1, str(swap), memory.at("swap")))
    now = number(read(SWAP_V1))
    if len(limits) == 2 and now is not None and (swap == -1 or (swap is not None and swap > now)):
        limits.reverse()  # memsw must never be below limit: when both rise, memsw goes first
    found += limits
    for name, file in (
        ("reservation", "memory.soft_limit_in_bytes"),
        ("kernelTCP", "memory.kmem.tcp.limit_in_bytes"),
        ("swappiness", "memory.swappiness"),
    ):
        if (value := memory.optional_integer(name, low=-1)) is not None and (name == "swappiness" or value != 0):
            found.append(Write(file, str(value), memory.at(name)))
    if memory.flag("disableOOMKiller"):
        found.append(Write("memory.oom_control", "1", memory.at("disableOOMKiller")))
    return found


def _v2(memory: Fields, limit: int | None, swap: int | None, read: Read) -> list[Write]:
    found: list[Write] = []
    if swap is not None:
        bound = limit if limit is not None else number(read("memory.max"))
        if swap >= 0 and bound in (None, -1):
            raise RuntimeFailure(f"{memory.at('swap')}: needs a limit of memory too", FailureKind.INVALID)
        text = "max" if swap == -1 else str(swap - (bound or 0))
        found.append(Write("memory.swap.max", text, memory.at("swap")))
    if limit is not None:
        found.append(Write("memory.max", _or_max(limit), memory.at("limit")))
    reservation = memory.optional_integer("reservation", low=-1)
    if reservation:
        found.append(Write("memory.low", _or_max(reservation), memory.at("reservation")))
    for name in ("disableOOMKiller", "kernelTCP", "swappiness"):
        if memory.value.get(name):
            raise RuntimeFailure(f"{memory.at(name)}: cgroup v2 cannot do this", FailureKind.INVALID)
    return found


def _or_max(value: int) -> str:
    return "max" if value < 0 else str(value)


def oom_kills(version: int, read: Read) -> int:
    """How many processes of this cgroup the OOM killer has killed."""
    file = "memory.oom_control" if version == 1 else "memory.events"
    return key_values(read(file)).get("oom_kill", 0)


def stats(version: int, read: Read) -> dict[str, object]:
    """usage, max_usage, limit (bytes or None), failures, and `stat` with the kernel's own names."""
    if version == 1:
        return {
            "usage": number(read("memory.usage_in_bytes")) or 0,
            "max_usage": number(read("memory.max_usage_in_bytes")) or 0,
            "limit": number(read(LIMIT_V1)),
            "failures": number(read("memory.failcnt")) or 0,
            "stat": key_values(read("memory.stat")),
        }
    return {
        "usage": number(read("memory.current")) or 0,
        "max_usage": number(read("memory.peak")) or 0,
        "limit": number(read("memory.max")),
        "failures": key_values(read("memory.events")).get("max", 0),
        "stat": key_values(read("memory.stat")),
    }
