"""CPU time: shares or weight, quota, real-time budget, and what was used.

Source  scheduler/sched-bwc.rst; cgroup-v1/cpuacct.rst; cgroup-v2.rst, "CPU Interface Files".
"""

from __future__ import annotations

from swarmpy.runtime.cgroups.write import Read, Write, key_values, number
from swarmpy.runtime.failure import FailureKind, RuntimeFailure
from swarmpy.runtime.reader import Fields

NAMES = ("shares", "quota", "period", "burst", "idle", "realtimeRuntime", "realtimePeriod")


def asked(resources: Fields) -> bool:
    return any(resources.child("cpu").value.get(name) for name in NAMES)


def writes(resources: Fields, version: int, read: Read) -> list[Write]:
    cpu = resources.child("cpu")
    values = {name: cpu.optional_integer(name, low=-1) for name in NAMES}
    return (_v1 if version == 1 else _v2)(cpu, values, read)


def _v1(cpu: Fields, values: dict[str, int | None], read: Read) -> list[Write]:
    files = {
        "shares": "cpu.shares",
        "idle": "cpu.idle",
        "realtimePeriod": "cpu.rt_period_us",
        "realtimeRuntime": "cpu.rt_runtime_us",
        "period": "cpu.cfs_period_us",
        "quota": "cpu.cfs_quota_us",
        "burst": "cpu.cfs_burst_us",
    }
    return [Write(file, str(values[name]), cpu.at(name)) for name, file in files.items() if values[name]]


def _v2(cpu: Fields, values: dict[str, int | None], read: Read) -> list[Write]:
    found: list[Write] = []
    for name in ("realtimeRuntime", "realtimePeriod"):
        if values[name]:
            raise RuntimeFailure(f"{cpu.at(name)}: cgroup v2 cannot do this", FailureKind.INVALID)
    if values["idle"] is not None:
        found.append(Write("cpu.idle", str(values["idle"]), cpu.at("idle")))
    if values["shares"]:
        found.append(Write("cpu.weight", str(weight_of(values["shares"])), cpu.at("shares")))
    if values["quota"] or values["period"]:
        before = (read("cpu.max") or "max 100000").split()
        quota = before[0] if not values["quota"] else "max" if values["quota"] < 0 else str(values["quota"])
        period = str(values["period"] or before[1])
        found.append(Write("cpu.max", f"{quota} {period}", cpu.at("quota")))
    if values["burst"]:
        found.append(Write("cpu.max.burst", str(values["burst"]), cpu.at("burst")))
    return found


def weight_of(shares: int) -> int:
    """v1's 2..262144 on v2's 1..10000, in proportion, as the OCI runtimes agreed on."""
    return 1 + (min(max(shares, 2), 262_144) - 2) * 9999 // 262_142


def stats(version: int, read: Read, read_account: Read) -> dict[str, object]:
    """usage, user and system time in ns, and throttling. `read_account` reads the cpuacct hierarchy of v1."""
    stat = key_values(read("cpu.stat"))
    throttled = {"periods": stat.get("nr_periods", 0), "throttled_periods": stat.get("nr_throttled", 0)}
    if version == 2:
        return {
            "usage_ns": stat.get("usage_usec", 0) * 1000,
            "user_ns": stat.get("user_usec", 0) * 1000,
            "system_ns": stat.get("system_usec", 0) * 1000,
            "per_cpu_ns": [],
            "throttling": {**throttled, "throttled_ns": stat.get("throttled_usec", 0) * 1000},
        }
    return {
        "usage_ns": number(read_account("cpuacct.usage")) or 0,
        "user_ns": number(read_account("cpuacct.usage_user")) or 0,
        "system_ns": number(read_account("cpuacct.usage_sys")) or 0,
        "per_cpu_ns": [int(word) for word in (read_account("cpuacct.usage_percpu") or "").split()],
        "throttling": {**throttled, "throttled_ns": stat.get("throttled_time", 0)},
    }
