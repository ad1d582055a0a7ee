"""The flags of a health check, which services and containers share.

Source  docker run, docker service create; Docker Engine API: HealthConfig.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from swarmpy.cli import values
from swarmpy.cli.flags import Flag, into, sets

__all__ = ["health_flags"]

JSON = dict[str, Any]


def health_flags(*path: str) -> tuple[Flag, ...]:
    """For the HealthConfig at a path of the body."""

    def command(body: JSON, text: str) -> None:
        into(body, *path)["Test"] = ["CMD-SHELL", text]

    def none(body: JSON, off: bool) -> None:
        if off:
            into(body, *path[:-1])[path[-1]] = {"Test": ["NONE"]}

    def duration(flag: str) -> Callable[[str], int]:
        return lambda text: values.duration_ns(flag, text)

    times = (
        ("health-interval", "Interval", "Time between checks"),
        ("health-timeout", "Timeout", "A check may take this long"),
        ("health-start-period", "StartPeriod", "Failures before this do not count"),
        ("health-start-interval", "StartInterval", "Time between checks in the start period"),
    )
    return (
        Flag("health-cmd", str, "Command that tells health", command),
        *(Flag(name, str, help_, sets(*path, field, as_=duration(name))) for name, field, help_ in times),
        Flag("health-retries", int, "Failures in a row that make it unhealthy", sets(*path, "Retries")),
        Flag("no-healthcheck", bool, "Ignore the image's health check", none),
    )
