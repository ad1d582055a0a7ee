"""What people type on a command line, as the API wants it: durations, sizes, ports, mounts, key=value pairs.

Source  Go's time.ParseDuration; docker's `--publish`, `--mount`, `--ulimit`. Every refusal is a WrongFlag.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from swarmpy.cli.failures import WrongFlag

__all__ = [
    "device", "duration_ns", "env", "filters_json", "lines", "mount", "nano_cpus", "pairs", "port_range", "ports",
    "security_options", "size_bytes", "throttle", "ulimit",
]  # fmt: skip

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
        raise WrongFlag(f"--{flag}: {text!r} is not a duration such as 10s, 1m30s or 500ms")
    return int(sum(float(number) * UNITS_NS[unit] for number, unit in DURATION.findall(text)))


def size_bytes(flag: str, text: str) -> int:
    """`64m` -> bytes, in powers of 1024."""
    found = SIZE.match(text)
    if not found:
        raise WrongFlag(f"--{flag}: {text!r} is not a size such as 512k, 64m or 1g")
    return int(float(found.group(1)) * SIZE_UNITS[found.group(2).lower()])


def nano_cpus(flag: str, text: str) -> int:
    try:
        return round(float(text) * 10**9)
    except ValueError:
        raise WrongFlag(f"--{flag}: {text!r} is not a number of CPUs such as 0.5") from None


def pairs(flag: str, items: Iterable[str]) -> dict[str, str]:
    """`a=1` -> {"a": "1"}; a name alone has the value ""."""
    result = {}
    for item in items:
        name, _, value = item.partition("=")
        if not name:
            raise WrongFlag(f"--{flag}: {item!r} has no name before the '='")
        result[name] = value
    return result


def env(items: Iterable[str], environment: dict[str, str]) -> list[str]:
    """`A=1` stays; `A` alone takes its value from this process, and is left out where that has none."""
    result = []
    for item in items:
        if not item.partition("=")[0]:
            raise WrongFlag(f"--env: {item!r} has no name")
        if "=" in item:
            result.append(item)
        elif item in environment:
            result.append(f"{item}={environment[item]}")
    return result


def lines(flag: str, paths: Iterable[str]) -> list[str]:
    """The lines of files such as `--env-file` names, without comments and empty ones."""
    found: list[str] = []
    for path in paths:
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise WrongFlag(f"--{flag}: {path}: {getattr(error, 'strerror', None) or 'is not text'}") from error
        found += [line.lstrip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return found


def ports(text: str) -> list[JSON]:
    """`8080:80/udp`, `8080-8081:80-81` or `mode=host,target=80,published=8080,protocol=tcp`."""
    if "=" in text:
        return [long_port(text)]
    numbers, _, protocol = text.partition("/")
    published, colon, target = numbers.rpartition(":")
    if ":" in published:
        raise WrongFlag(f"--publish: {text!r}: a host address is not possible for a service")
    targets = port_range("publish", text, target)
    publisheds = port_range("publish", text, published) if colon and published else [0] * len(targets)
    if len(targets) != len(publisheds):
        raise WrongFlag(f"--publish: {text!r}: the two ranges are not equally long")
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
            raise WrongFlag(f"--publish: {text!r}: {name!r} is not one of {', '.join(names)}")
        port[names[name]] = one_port("publish", text, value) if name in ("target", "published") else value
    if "TargetPort" not in port:
        raise WrongFlag(f"--publish: {text!r}: target=PORT is missing")
    return port


def port_range(flag: str, whole: str, text: str) -> list[int]:
    first, dash, last = text.partition("-")
    start = one_port(flag, whole, first)
    end = one_port(flag, whole, last) if dash else start
    if end < start:
        raise WrongFlag(f"--{flag}: {whole!r}: the range ends before it begins")
    return list(range(start, end + 1))


def one_port(flag: str, whole: str, text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise WrongFlag(f"--{flag}: {whole!r}: {text!r} is not a port from 1 to 65535")
    return int(text)


def mount(text: str) -> JSON:
    """`type=bind,source=/srv,target=/data,readonly`."""
    result: JSON = {"Type": "volume"}
    for field in text.split(","):
        name, _, value = field.partition("=")
        if name not in MOUNT_FIELDS:
            raise WrongFlag(f"--mount: {text!r}: {name!r} is not a field of a mount")
        path, read = MOUNT_FIELDS[name]
        place = result
        for step in path[:-1]:
            place = place.setdefault(step, {})
        try:
            found = read(value)
        except ValueError as error:
            raise WrongFlag(f"--mount: {text!r}: {name}: {error}") from None
        place[path[-1]] = place.get(path[-1], {}) | found if isinstance(found, dict) else found
    if "Target" not in result:
        raise WrongFlag(f"--mount: {text!r}: target=PATH is missing")
    return result


def is_set(value: str) -> bool:
    """A field without a value is set."""
    return value.lower() in ("", "1", "true")


def recursion(value: str) -> JSON:
    """What becomes of the mounts below a bind's source."""
    if value not in RECURSIONS:
        raise ValueError(f"{value!r} is not one of {', '.join(RECURSIONS)}")
    return RECURSIONS[value]


def octal(value: str) -> int:
    try:
        return int(value, 8)
    except ValueError:
        raise ValueError(f"{value!r} is not a mode such as 1777") from None


RECURSIONS: dict[str, JSON] = {
    "enabled": {}, "disabled": {"NonRecursive": True}, "writable": {"ReadOnlyNonRecursive": True},
    "readonly": {"ReadOnlyForceRecursive": True},
}  # fmt: skip
MOUNT_FIELDS: dict[str, tuple[tuple[str, ...], Callable[[str], Any]]] = {
    "type": (("Type",), str),
    "source": (("Source",), str),
    "src": (("Source",), str),
    "target": (("Target",), str),
    "dst": (("Target",), str),
    "destination": (("Target",), str),
    "readonly": (("ReadOnly",), is_set),
    "ro": (("ReadOnly",), is_set),
    "consistency": (("Consistency",), str),
    "bind-propagation": (("BindOptions", "Propagation"), str),
    "bind-nonrecursive": (("BindOptions", "NonRecursive"), is_set),
    "bind-recursive": (("BindOptions",), recursion),
    "volume-nocopy": (("VolumeOptions", "NoCopy"), is_set),
    "volume-label": (("VolumeOptions", "Labels"), lambda value: pairs("volume-label", [value])),
    "volume-driver": (("VolumeOptions", "DriverConfig", "Name"), str),
    "volume-opt": (("VolumeOptions", "DriverConfig", "Options"), lambda value: pairs("volume-opt", [value])),
    "volume-subpath": (("VolumeOptions", "Subpath"), str),
    "tmpfs-size": (("TmpfsOptions", "SizeBytes"), lambda value: size_bytes("tmpfs-size", value)),
    "tmpfs-mode": (("TmpfsOptions", "Mode"), octal),
}
"""Where each field of `--mount` goes, and how it is read; objects are put together."""


def ulimit(text: str) -> JSON:
    """`nofile=1024:2048`."""
    name, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    try:
        return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}
    except ValueError:
        raise WrongFlag(f"--ulimit: {text!r} is not NAME=SOFT[:HARD]") from None


def device(text: str) -> JSON:
    """`/dev/sda[:/dev/xvda][:rwm]`."""
    source, *rest = text.split(":")
    target = rest.pop(0) if rest and rest[0].startswith("/") else source
    if not source.startswith("/") or len(rest) > 1:
        raise WrongFlag(f"--device: {text!r} is not /dev/SOURCE[:/dev/TARGET][:rwm]")
    return {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": rest[0] if rest else "rwm"}


def throttle(flag: str, text: str) -> JSON:
    """`/dev/sda:1mb` or, of operations, `/dev/sda:100`."""
    path, _, rate = text.rpartition(":")
    if not path.startswith("/"):
        raise WrongFlag(f"--{flag}: {text!r} is not /dev/NAME:RATE")
    return {"Path": path, "Rate": size_bytes(flag, rate)}


def security_options(items: Iterable[str]) -> list[str]:
    """Profiles of seccomp are files here, and text for the daemon."""
    found = []
    for item in items:
        name, separator, value = item.partition("=" if "=" in item else ":")
        if name == "seccomp" and value not in ("", "unconfined", "builtin"):
            try:
                value = Path(value).read_text()
            except OSError as error:
                raise WrongFlag(f"--security-opt: {value}: {error.strerror}") from error
        found.append(f"{name}{separator and '='}{value}")
    return found


def filters_json(items: list[str]) -> str | None:
    """`--filter name=web` -> the API's `filters`."""
    found: dict[str, list[str]] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise WrongFlag(f"--filter: {item!r} is not NAME=VALUE")
        found.setdefault(name, []).append(value)
    return json.dumps(found) if found else None
