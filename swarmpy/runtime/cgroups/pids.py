"""How many processes. Source: cgroup-v1/pids.rst; the same files in both versions."""

from __future__ import annotations

from swarmpy.runtime.cgroups.write import Read, Write, number
from swarmpy.runtime.reader import Fields


def writes(resources: Fields, version: int, read: Read) -> list[Write]:
    pids = resources.child("pids")
    limit = pids.optional_integer("limit")
    if limit is None:
        return []
    return [Write("pids.max", "max" if limit <= 0 else str(limit), pids.at("limit"))]


def stats(read: Read) -> dict[str, object]:
    return {"current": number(read("pids.current")) or 0, "limit": number(read("pids.max"))}
