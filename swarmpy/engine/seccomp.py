"""The system calls a container may make: the runtime's default profile, or one in Docker's JSON form. Pure.

Owns    the conversion: rules of Docker's form say for which capabilities and machines they are, the OCI's do not.
Source  OCI runtime-spec, "config-linux.md", Seccomp; Docker's documentation of seccomp profiles.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from swarmpy.errors import InvalidArgument
from swarmpy.runtime.seccomp_profile import default_profile

__all__ = ["seccomp_profile"]

_ARCHITECTURES: dict[str, tuple[str, list[str]]] = {
    "x86_64": ("amd64", ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
    "aarch64": ("arm64", ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
}

def seccomp_profile(
    wanted: str | Mapping[str, Any], capabilities: Collection[str], machine: str = ""
) -> dict[str, Any] | None:
    """`linux.seccomp` for a container with these capabilities; None is unconfined.

    `wanted` is "default", "unconfined" or a profile in Docker's form. `machine` is `uname -m`, this one's if empty.
    """
    if wanted == "unconfined":
        return None
    if isinstance(wanted, str):
        return default_profile(capabilities)
    return _converted(wanted, capabilities, machine or platform.machine())


def _converted(profile: Mapping[str, Any], capabilities: Collection[str], machine: str) -> dict[str, Any]:
    """The OCI's form: of the rules those that apply, with what the OCI knows of them."""
    own = _ARCHITECTURES.get(machine, (machine, []))
    rules = []
    for rule in _objects(profile.get("syscalls"), "syscalls"):
        if not _applies(rule, capabilities, own[0]):
            continue
        names = rule.get("names") or ([rule["name"]] if rule.get("name") else [])
        if not names:
            raise InvalidArgument("the seccomp profile has a rule without names")
        kept = {key: rule[key] for key in ("action", "errnoRet", "args") if rule.get(key) is not None}
        rules.append({"names": names, **kept})
    out: dict[str, Any] = {"defaultAction": profile["defaultAction"], "syscalls": rules}
    if profile.get("defaultErrnoRet") is not None:
        out["defaultErrnoRet"] = profile["defaultErrnoRet"]
    if profile.get("flags"):
        out["flags"] = profile["flags"]
    out["architectures"] = profile.get("architectures") or _mapped(profile, own[1])
    return out


def _mapped(profile: Mapping[str, Any], own: Sequence[str]) -> list[str]:
    """`archMap`: the entry of this machine with its sub-architectures."""
    for entry in _objects(profile.get("archMap"), "archMap"):
        if own and entry.get("architecture") == own[0]:
            return [own[0], *(entry.get("subArchitectures") or [])]
    return list(own)


def _applies(rule: Mapping[str, Any], capabilities: Collection[str], architecture: str) -> bool:
    included, excluded = rule.get("includes") or {}, rule.get("excludes") or {}
    return (
        all(name in capabilities for name in included.get("caps") or ())
        and (not included.get("arches") or architecture in included["arches"])
        and not any(name in capabilities for name in excluded.get("caps") or ())
        and architecture not in (excluded.get("arches") or ())
    )


def _objects(value: object, what: str) -> list[Mapping[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise InvalidArgument(f"the seccomp profile's {what} must be a list of objects")
    return value
