"""Block devices: weights and throttles.

Source  cgroup-v1/blkio-controller.rst; cgroup-v2.rst, "IO Interface Files".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from swarmpy.runtime.cgroups.write import Read, Write
from swarmpy.runtime.reader import Fields

THROTTLES = {  # OCI name to (v1 file, v2 key)
    "throttleReadBpsDevice": ("blkio.throttle.read_bps_device", "rbps"),
    "throttleWriteBpsDevice": ("blkio.throttle.write_bps_device", "wbps"),
    "throttleReadIOPSDevice": ("blkio.throttle.read_iops_device", "riops"),
    "throttleWriteIOPSDevice": ("blkio.throttle.write_iops_device", "wiops"),
}


def writes(resources: Fields, version: int, read: Read) -> list[Write]:
    block = resources.child("blockIO")
    found: list[Write] = []
    file, device_file, scale = _weight_files(version, read)
    if weight := block.integer("weight", low=0, high=1000):
        found.append(Write(file, str(scale(weight)), block.at("weight")))
    for device in block.objects("weightDevice"):
        if weight := device.integer("weight", low=0, high=1000):
            found.append(Write(device_file, f"{_number(device)} {scale(weight)}", device.at("weight")))
    for name, (old, new) in THROTTLES.items():
        for device in block.objects(name):
            rate = device.integer("rate", low=0)
            text = f"{_number(device)} {rate}" if version == 1 else f"{_number(device)} {new}={rate or 'max'}"
            found.append(Write(old if version == 1 else "io.max", text, device.at("rate")))
    return found


def _weight_files(version: int, read: Read) -> tuple[str, str, Callable[[int], int]]:
    """The files for all devices and for one, and what becomes of a weight. BFQ keeps blkio's range in both versions."""
    if version == 1:
        prefix = "blkio" if read("blkio.weight") is not None else "blkio.bfq"
        return f"{prefix}.weight", f"{prefix}.weight_device", int
    if read("io.bfq.weight") is not None:
        return "io.bfq.weight", "io.bfq.weight", int
    return "io.weight", "io.weight", _io_weight


def _io_weight(weight: int) -> int:
    """blkio's 10..1000 on io.weight's 1..10000, in proportion."""
    return 1 + (max(weight, 10) - 10) * 9999 // 990


def _number(device: Fields) -> str:
    return f"{device.integer('major', low=0)}:{device.integer('minor', low=0)}"


def stats(version: int, read: Read) -> list[dict[str, object]]:
    """Per device and operation: {"major", "minor", "op", "bytes", "count"}."""
    entries = _v1(read) if version == 1 else _v2(read)
    return [
        {"major": major, "minor": minor, "op": op, "bytes": size, "count": count}
        for (major, minor, op), (size, count) in entries
    ]


Entry = tuple[tuple[int, int, str], tuple[int, int]]


def _v1(read: Read) -> Iterator[Entry]:
    counts = {
        (words[0], words[1]): int(words[2])
        for words in _lines(read("blkio.throttle.io_serviced_recursive"))
        if len(words) == 3
    }
    for words in _lines(read("blkio.throttle.io_service_bytes_recursive")):
        if len(words) == 3:
            major, _, minor = words[0].partition(":")
            yield (int(major), int(minor), words[1].lower()), (int(words[2]), counts.get((words[0], words[1]), 0))


def _v2(read: Read) -> Iterator[Entry]:
    for words in _lines(read("io.stat")):
        major, _, minor = words[0].partition(":")
        values = {key: int(value) for key, _, value in (word.partition("=") for word in words[1:]) if value.isdigit()}
        for op, size, count in (("read", "rbytes", "rios"), ("write", "wbytes", "wios"), ("discard", "dbytes", "dios")):
            if size in values:
                yield (int(major), int(minor), op), (values[size], values.get(count, 0))


def _lines(text: str | None) -> Iterator[list[str]]:
    return (line.split() for line in (text or "").splitlines() if line.strip())
