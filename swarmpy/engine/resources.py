"""Limits of a container as the OCI's `linux.resources`.

Source  OCI runtime-spec, "config-linux.md", Control groups; Docker Engine API, definition Resources. Pure.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from swarmpy.engine.config import HostConfig, ThrottleDevice
from swarmpy.errors import InvalidArgument

__all__ = ["RLIMITS", "DeviceNumber", "device_rules", "host_device_number", "oci_resources", "oci_rlimits"]

_PERIOD_US = 100_000

_RLIMIT_NAMES = "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack"
RLIMITS = frozenset(_RLIMIT_NAMES.split(" "))

# Character devices every container may use: null, zero, full, random, urandom, tty, console, ptmx, the ptys, tun.
_COMMON = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None), (10, 200))

DeviceNumber = Callable[[str], tuple[str, int, int]]
"""Type ("b" or "c"), major and minor of a device node of the host."""


def oci_resources(host: HostConfig, device_number: DeviceNumber) -> dict[str, Any]:
    """`linux.resources` without the devices; empty parts are left out, so an unlimited container has no limits set."""
    memory: dict[str, Any] = {}
    if host.memory:
        memory["limit"] = host.memory
        memory["swap"] = host.memory_swap or 2 * host.memory
    if host.memory_reservation:
        memory["reservation"] = host.memory_reservation
    if host.oom_kill_disable:
        memory["disableOOMKiller"] = True
    cpu: dict[str, Any] = {}
    if host.cpu_shares:
        cpu["shares"] = host.cpu_shares
    if host.nano_cpus:
        cpu |= {"period": _PERIOD_US, "quota": host.nano_cpus * _PERIOD_US // 1_000_000_000}
    if host.cpu_period:
        cpu["period"] = host.cpu_period
    if host.cpu_quota:
        cpu["quota"] = host.cpu_quota
    if host.cpuset_cpus:
        cpu["cpus"] = host.cpuset_cpus
    if host.cpuset_mems:
        cpu["mems"] = host.cpuset_mems
    out: dict[str, Any] = {}
    if memory:
        out["memory"] = memory
    if cpu:
        out["cpu"] = cpu
    if host.pids_limit:
        out["pids"] = {"limit": host.pids_limit if host.pids_limit > 0 else -1}
    block = _block_io(host, device_number)
    if block:
        out["blockIO"] = block
    return out


def device_rules(host: HostConfig, devices: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`linux.resources.devices`: nothing but the common devices, those asked for, and any node may be made (mknod)."""
    if host.privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    rules += [{"allow": True, "type": kind, "access": "m"} for kind in "cb"]
    for major, minor in _COMMON:
        rule = {"allow": True, "type": "c", "major": major, "access": "rwm"}
        rules.append(rule if minor is None else rule | {"minor": minor})
    rules += [
        {"allow": True, "type": item["type"], "major": item["major"], "minor": item["minor"], "access": item["access"]}
        for item in devices
    ]
    return rules + [_rule(text) for text in host.device_cgroup_rules]


def oci_rlimits(host: HostConfig) -> list[dict[str, Any]]:
    """`process.rlimits`."""
    unlimited = (1 << 64) - 1
    return [
        {
            "type": f"RLIMIT_{limit.name.upper()}",
            "soft": limit.soft if limit.soft >= 0 else unlimited,
            "hard": limit.hard if limit.hard >= 0 else unlimited,
        }
        for limit in host.ulimits
    ]


def _rule(text: str) -> dict[str, Any]:
    """ "c 42:* rmw", as in cgroup v1's devices.allow."""
    parts = text.split()
    if len(parts) != 3 or parts[0] not in "abc" or ":" not in parts[1] or not set(parts[2]) <= set("rwm"):
        raise InvalidArgument(f"HostConfig.DeviceCgroupRules: '{text}' is not of the form 'c 1:3 rwm'")
    rule: dict[str, Any] = {"allow": True, "type": parts[0], "access": parts[2]}
    for key, number in zip(("major", "minor"), parts[1].split(":", 1), strict=True):
        if number != "*":
            if not number.isdigit():
                raise InvalidArgument(f"HostConfig.DeviceCgroupRules: '{text}' has no number as its {key}")
            rule[key] = int(number)
    return rule


def _block_io(host: HostConfig, device_number: DeviceNumber) -> dict[str, Any]:
    def numbered(path: str, key: str, value: int) -> dict[str, Any]:
        _, major, minor = device_number(path)
        return {"major": major, "minor": minor, key: value}

    def throttle(devices: Sequence[ThrottleDevice]) -> list[dict[str, Any]]:
        return [numbered(device.path, "rate", device.rate) for device in devices]

    parts: dict[str, Any] = {
        "weight": host.blkio_weight,
        "weightDevice": [numbered(item.path, "weight", item.weight) for item in host.blkio_weight_device],
        "throttleReadBpsDevice": throttle(host.blkio_device_read_bps),
        "throttleWriteBpsDevice": throttle(host.blkio_device_write_bps),
        "throttleReadIOPSDevice": throttle(host.blkio_device_read_iops),
        "throttleWriteIOPSDevice": throttle(host.blkio_device_write_iops),
    }
    return {key: value for key, value in parts.items() if value}


def host_device_number(path: str) -> tuple[str, int, int]:
    """The `DeviceNumber` of this machine; `InvalidArgument` when `path` is no device."""
    try:
        status = Path(path).stat()
    except OSError as error:
        raise InvalidArgument(f"device {path} cannot be used: {error.strerror}") from error
    if not (stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode)):
        raise InvalidArgument(f"{path} is not a device")
    kind = "b" if stat.S_ISBLK(status.st_mode) else "c"
    return kind, os.major(status.st_rdev), os.minor(status.st_rdev)
