"""Which device nodes a container may use.

OCI gives an ordered list of rules, of which the last that matches decides. v1 has two files that take such rules one by
one; v2 has a BPF program (device_program.py).

Source  cgroup-v1/devices.rst; OCI config-linux.md, "Allowed Device list".
"""

from __future__ import annotations

from dataclasses import dataclass

from swarmpy.runtime.cgroups.write import Write
from swarmpy.runtime.failure import FailureKind, RuntimeFailure
from swarmpy.runtime.reader import Fields

__all__ = ["DEFAULT_RULES", "DeviceRule", "parse_rules", "writes"]


@dataclass(frozen=True, slots=True)
class DeviceRule:
    allow: bool
    kind: str  # a (all), b or c
    major: int | None  # None: any
    minor: int | None
    access: str  # of "rwm"

    def text(self) -> str:
        """As the files of v1 take it."""
        numbers = ":".join("*" if number is None else str(number) for number in (self.major, self.minor))
        return f"{self.kind} {numbers} {self.access}"


DEFAULT_RULES = (
    DeviceRule(True, "c", None, None, "m"),  # nodes may be made, which opens nothing
    DeviceRule(True, "b", None, None, "m"),
    *(
        DeviceRule(True, "c", major, minor, "rwm")
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, None))
    ),
)
"""The default devices of OCI and the terminals of the container's own devpts."""


def parse_rules(resources: Fields) -> tuple[DeviceRule, ...]:
    """OCI `resources.devices`; the default devices stay allowed unless a later rule of the bundle takes them away.

    Without any rule nothing but the default devices is allowed: a bundle that says nothing is not privileged.
    """
    rules = []
    for entry in resources.objects("devices"):
        kind, access = entry.text("type") or "a", entry.text("access") or "rwm"
        if kind not in ("a", "b", "c") or set(access) - set("rwm"):
            raise RuntimeFailure(f"{entry.path}: unknown type {kind!r} or access {access!r}", FailureKind.INVALID)
        rules.append(
            DeviceRule(entry.flag("allow"), kind, _any(entry, "major"), _any(entry, "minor"), access)
        )
    deny_all = DeviceRule(False, "a", None, None, "rwm")
    if not rules:
        return (deny_all, *DEFAULT_RULES)
    if rules[0] == deny_all:
        return (deny_all, *DEFAULT_RULES, *rules[1:])
    return tuple(rules)


def _any(entry: Fields, name: str) -> int | None:
    number = entry.optional_integer(name)
    return None if number is None or number < 0 else number


def writes(rules: tuple[DeviceRule, ...]) -> list[Write]:
    """v1: a rule for all devices sets the default and empties the list of exceptions, others are exceptions to it."""
    return [
        Write(
            "devices.allow" if rule.allow else "devices.deny",
            "a" if rule.kind == "a" and rule.major is None and rule.minor is None else rule.text(),
            "linux.resources.devices",
        )
        for rule in rules
    ]

