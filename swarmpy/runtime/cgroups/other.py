"""The controllers with one kind of file each: huge pages, network classes, RDMA; and v2's files by name.

Source  OCI config-linux.md, "Huge page limits", "Network", "RDMA", "Unified".
"""

from __future__ import annotations

from swarmpy.runtime.cgroups.write import Read, Write
from swarmpy.runtime.failure import FailureKind, RuntimeFailure
from swarmpy.runtime.reader import Fields


def hugetlb_writes(resources: Fields, version: int, read: Read) -> list[Write]:
    suffix = "limit_in_bytes" if version == 1 else "max"
    return [
        Write(f"hugetlb.{limit.text('pageSize')}.{suffix}", str(limit.integer("limit")), limit.at("limit"))
        for limit in resources.objects("hugepageLimits")
    ]


def net_cls_writes(resources: Fields, version: int, read: Read) -> list[Write]:
    network = resources.child("network")
    class_id = network.optional_integer("classID", low=0)
    return [] if class_id is None else [Write("net_cls.classid", str(class_id), network.at("classID"))]


def net_prio_writes(resources: Fields, version: int, read: Read) -> list[Write]:
    return [
        Write("net_prio.ifpriomap", f"{entry.text('name')} {entry.integer('priority', low=0)}", entry.path)
        for entry in resources.child("network").objects("priorities")
    ]


def rdma_writes(resources: Fields, version: int, read: Read) -> list[Write]:
    rdma = resources.child("rdma")
    found = []
    for device in rdma.value:
        limits = rdma.child(device)
        words = [
            f"{key}={limits.integer(name, low=0)}"
            for name, key in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
            if limits.has(name)
        ]
        found.append(Write("rdma.max", " ".join([device, *words]), rdma.at(device)))
    return found


def unified_writes(resources: Fields) -> list[Write]:
    """v2 files by their own name; a name with a slash could leave the cgroup."""
    unified = resources.child("unified")
    for name in unified.value:
        if "/" in name or "." not in name:
            raise RuntimeFailure(f"{unified.at(name)}: is not the name of a cgroup file", FailureKind.INVALID)
    return [Write(name, unified.text(name), unified.at(name)) for name in unified.value]
