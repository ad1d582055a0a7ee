"""What people type on a command line, as the API wants it: durations, sizes, ports, mounts, key=value pairs.

Source  Go's time.ParseDuration; docker's `--publish`, `--mount`, `--ulimit`. Every refusal is a ValueError that names
the flag and quotes what was typed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

__all__ = ["duration_ns", "env", "filters_json", "mount", "nano_cpus", "pairs", "ports", "size_bytes", "ulimit"]

JSON = dict[str, Any]

UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?$", re.IGNORECASE)
SIZE_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def duration_ns(flag: str, text: str) -> int:
    """`1m30s` -> nanoseconds; `0` needs no unit."""
    if text == "0":
        return 0
    if not text or DURATION.sub("", text):
        raise ValueError(f"--{flag}: {text!r} is not a duration such as 10s, 1m30s or 500ms")
    return int(sum(float(number) * UNITS_NS[unit] for number, unit in DURATION.findall(text)))


def size_bytes(flag: str, text: str) -> int:
    """`64m` -> bytes, in powers of 1024."""
    found = SIZE.match(text)
    if not found:
        raise ValueError(f"--{flag}: {text!r} is not a size such as 512k, 64m or 1g")
    return int(float(found.group(1)) * SIZE_UNITS[found.group(2).lower()])


def nano_cpus(flag: str, text: str) -> int:
    try:
        return round(float(text) * 10**9)
    except ValueError:
        raise ValueError(f"--{flag}: {text!r} is not a number of CPUs such as 0.5") from None


def pairs(flag: str, items: Iterable[str]) -> dict[str, str]:
    """`a=1` -> {"a": "1"}; a name alone has the value ""."""
    result = {}
    for item in items:
        name, _, value = item.partition("=")
        if not name:
            raise ValueError(f"--{flag}: {item!r} has no name before the '='")
        result[name] = value
    return result


def env(items: Iterable[str], environment: dict[str, str]) -> list[str]:
    """`A=1` stays; `A` alone takes its value from this process, and is left out where that has none."""
    result = []
    for item in items:
        if "=" in item:
            result.append(item)
        elif item in environment:
            result.append(f"{item}={environment[item]}")
    return result


def ports(text: str) -> list[JSON]:
    """`8080:80/udp`, `8080-8081:80-81` or `mode=host,target=80,published=8080,protocol=tcp`."""
    if "=" in text:
        return [long_port(text)]
    numbers, _, protocol = text.partition("/")
    published, colon, target = numbers.rpartition(":")
    if ":" in published:
        raise ValueError(f"--publish: {text!r}: a host address is not possible for a service")
    targets = port_range(text, target)
    publisheds = port_range(text, published) if colon and published else [0] * len(targets)
    if len(targets) != len(publisheds):
        raise ValueError(f"--publish: {text!r}: the two ranges are not equally long")
    return [
        {
            "Protocol": protocol or "tcp",
            "TargetPort": inner,
            "PublishMode": "ingress",
        }
        | ({"PublishedPort": outer} if outer else {})
        for outer, inner in zip(publisheds, targets, strict=True)
    ]


def long_port(text: str) -> JSON:
    port: JSON = {"Protocol": "tcp", "PublishMode": "ingress"}
    names = {"target": "TargetPort", "published": "PublishedPort", "protocol": "Protocol", "mode": "PublishMode"}
    for field in text.split(","):
        name, _, value = field.partition("=")
        if name not in names:
            raise ValueError(f"--publish: {text!r}: {name!r} is not one of {', '.join(names)}")
        port[names[name]] = one_port(text, value) if name in ("target", "published") else value
    if "TargetPort" not in port:
        raise ValueError(f"--publish: {text!r}: target=PORT is missing")
    return port


def port_range(whole: str, text: str) -> list[int]:
    first, dash, last = text.partition("-")
    start = one_port(whole, first)
    end = one_port(whole, last) if dash else start
    if end < start:
        raise ValueError(f"--publish: {whole!r}: the range ends before it begins")
    return list(range(start, end + 1))


def one_port(whole: str, text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ValueError(f"--publish: {whole!r}: {text!r} is not a port from 1 to 65535")
    return int(text)


def mount(text: str) -> JSON:
    """`type=bind,source=/srv,target=/data,readonly`."""
    result: JSON = {"Type": "volume"}
    for field in text.split(","):
        name, has_value, value = field.partition("=")
        match name:
            case "type":
                result["Type"] = value
            case "source" | "src":
                result["Source"] = value
            case "target" | "dst" | "destination":
                result["Target"] = value
            case "readonly" | "ro":
                result["ReadOnly"] = not has_value or value.lower() in ("1", "true")
            case "consistency":
                result["Consistency"] = value
            case "bind-propagation":
                result.setdefault("BindOptions", {})["Propagation"] = value
            case "volume-nocopy":
                result.setdefault("VolumeOptions", {})["NoCopy"] = not has_value or value.lower() in ("1", "true")
            case "tmpfs-size":
                result.setdefault("TmpfsOptions", {})["SizeBytes"] = size_bytes("mount", value)
            case "tmpfs-mode":
                result.setdefault("TmpfsOptions", {})["Mode"] = int(value, 8)
            case _:
                raise ValueError(f"--mount: {text!r}: {name!r} is not a field of a mount")
    if "Target" not in result:
        raise ValueError(f"--mount: {text!r}: target=PATH is missing")
    return result


def ulimit(text: str) -> JSON:
    """`nofile=1024:2048`."""
    name, _equals, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    try:
        return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}
    except ValueError:
        raise ValueError(f"--ulimit: {text!r} is not NAME=SOFT[:HARD]") from None


def filters_json(items: list[str]) -> str | None:
    """`--filter name=web` -> the API's `filters`."""
    found: dict[str, list[str]] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"--filter: {item!r} is not NAME=VALUE")
        found.setdefault(name, []).append(value)
    return json.dumps(found) if found else None
