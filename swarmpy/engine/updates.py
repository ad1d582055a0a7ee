"""Reading `POST /containers/{id}/update`: limits and the restart policy, of which absent or zero ones stay as they are.

Source  Docker Engine API, `POST /containers/{id}/update`. Pure.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from swarmpy.engine.config import HostConfig
from swarmpy.engine.schema import read
from swarmpy.errors import InvalidArgument, NotSupported

__all__ = ["read_update"]

_CHANGEABLE = frozenset(
    {
        "blkio_weight", "cpu_period", "cpu_quota", "cpu_shares", "cpuset_cpus", "cpuset_mems", "memory",
        "memory_reservation", "memory_swap", "nano_cpus", "pids_limit", "restart_policy",
    }
)  # fmt: skip


def read_update(body: object) -> dict[str, Any]:
    """The attributes of HostConfig to change. `NotSupported` for a field that cannot change while it lives."""
    if not isinstance(body, dict):
        raise InvalidArgument("the body must be a JSON object with the limits to change")
    wanted, untouched = read(HostConfig, body, "UpdateConfig"), HostConfig()
    changes = {}
    for field in dataclasses.fields(HostConfig):
        value = getattr(wanted, field.name)
        if value == getattr(untouched, field.name):
            continue
        if field.name == "restart_policy":
            if not value.name:
                continue
        elif field.name not in _CHANGEABLE:
            raise NotSupported(f"{field.metadata['api']} of an existing container cannot be changed")
        changes[field.name] = value
    if "RestartPolicy" in body and (body["RestartPolicy"] or {}).get("Name") == "no":
        changes["restart_policy"] = wanted.restart_policy
    return changes
