"""What a container uses, in the shape of `GET /containers/{id}/stats`.

Owns    the translation of the runtime's figures, and the pace of one sample a second. `sample_json` is pure.
Source  Docker Engine API, definition ContainerStatsResponse; proc(5) for /proc/stat and /proc/<pid>/net/dev.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarmpy.engine.live import LiveContainer
from swarmpy.engine.parts import Parts
from swarmpy.engine.times import ZERO_TIME, format_rfc3339
from swarmpy.runtime import RuntimeFailure

__all__ = ["Sample", "network_counters", "sample_json", "samples"]

_PERIOD_S = 1.0
_NO_LIMIT = 1 << 62  # what cgroup v1 shows for "no limit" lies above


@dataclass(frozen=True)
class Sample:
    """The figures of one moment. `usage` is what `Container.stats` of the runtime gives."""

    time_ns: int = 0
    usage: Mapping[str, Any] = field(default_factory=dict)
    networks: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    system_ns: int = 0
    """CPU time of the whole host."""


async def samples(
    parts: Parts, container: LiveContainer, *, stream: bool, one_shot: bool
) -> AsyncIterator[dict[str, Any]]:
    """Samples as JSON. Without `stream` a single one, which has its predecessor a second before unless `one_shot`."""
    previous = Sample()
    if not stream and not one_shot:
        previous = await _take(parts, container)
        await asyncio.sleep(_PERIOD_S)
    while True:
        current = await _take(parts, container)
        yield sample_json(container.record.id, container.record.name, current, previous, parts)
        if not stream or container.removed:
            return
        previous = current
        await asyncio.sleep(_PERIOD_S)


async def _take(parts: Parts, container: LiveContainer) -> Sample:
    """A container that does not run uses nothing."""
    handle = container.handle
    if handle is None:
        return Sample()
    try:
        usage = await handle.stats()
    except RuntimeFailure:
        return Sample()  # it ended meanwhile
    own = container.record.host.network_mode != "host"  # whose traffic is not the container's alone
    networks, system = await asyncio.to_thread(lambda: (network_counters(handle.pid) if own else {}, _system_ns()))
    return Sample(parts.clock(), usage, networks, system)


def network_counters(pid: int) -> dict[str, dict[str, int]]:
    """Counters of every interface but lo, as the process sees them; none when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    except OSError:
        return {}
    names = ("rx_bytes", "rx_packets", "rx_errors", "rx_dropped")
    sent = ("tx_bytes", "tx_packets", "tx_errors", "tx_dropped")
    out = {}
    for line in lines:
        interface, _, rest = line.partition(":")
        counts = [int(word) for word in rest.split()]
        if interface.strip() != "lo":
            out[interface.strip()] = dict(zip(names, counts[:4], strict=True)) | dict(
                zip(sent, counts[8:12], strict=True)
            )
    return out


def _system_ns() -> int:
    """Busy and idle time of all CPUs: the first line of /proc/stat."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    return sum(map(int, words)) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def sample_json(container_id: str, name: str, now: Sample, before: Sample, parts: Parts) -> dict[str, Any]:
    """ContainerStatsResponse."""
    memory, pids = now.usage.get("memory") or {}, now.usage.get("pids") or {}
    limit = memory.get("limit")
    return {
        "read": format_rfc3339(now.time_ns) if now.time_ns else ZERO_TIME,
        "preread": format_rfc3339(before.time_ns) if before.time_ns else ZERO_TIME,
        "id": container_id,
        "name": f"/{name}",
        "num_procs": 0,
        "storage_stats": {},
        "pids_stats": {"current": pids.get("current", 0), **({"limit": pids["limit"]} if pids.get("limit") else {})},
        "blkio_stats": _block_io(now.usage.get("io") or []),
        "cpu_stats": _cpu(now, parts.cpus),
        "precpu_stats": _cpu(before, parts.cpus),
        "memory_stats": {
            "usage": memory.get("usage", 0),
            "max_usage": memory.get("max_usage", 0),
            "failcnt": memory.get("failures", 0),
            "limit": limit if limit is not None and limit < _NO_LIMIT else _host_memory(),
            "stats": dict(memory.get("stat") or {}),
        } if memory else {},
        **({"networks": now.networks} if now.networks else {}),
    }  # fmt: skip


def _cpu(sample: Sample, cpus: int) -> dict[str, Any]:
    cpu = sample.usage.get("cpu") or {}
    throttling = cpu.get("throttling") or {}
    usage: dict[str, Any] = {
        "total_usage": cpu.get("usage_ns", 0), "usage_in_usermode": cpu.get("user_ns", 0),
        "usage_in_kernelmode": cpu.get("system_ns", 0),
    }  # fmt: skip
    if cpu.get("per_cpu_ns"):
        usage["percpu_usage"] = list(cpu["per_cpu_ns"])
    return {
        "cpu_usage": usage,
        **({"system_cpu_usage": sample.system_ns, "online_cpus": cpus} if sample.time_ns else {}),
        "throttling_data": {
            "periods": throttling.get("periods", 0), "throttled_periods": throttling.get("throttled_periods", 0),
            "throttled_time": throttling.get("throttled_ns", 0),
        },
    }  # fmt: skip


def _block_io(entries: list[Mapping[str, Any]]) -> dict[str, Any]:
    def of(kind: str) -> list[dict[str, Any]]:
        return [
            {"major": item["major"], "minor": item["minor"], "op": item["op"], "value": item[kind]} for item in entries
        ]

    rest = ("io_queue_recursive", "io_service_time_recursive", "io_wait_time_recursive", "io_merged_recursive",
            "io_time_recursive", "sectors_recursive")  # fmt: skip
    return {"io_service_bytes_recursive": of("bytes"), "io_serviced_recursive": of("count")} | dict.fromkeys(rest)


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
