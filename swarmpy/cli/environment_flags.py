"""Environment variables as they are typed: `--env A=1`, `--env A`, `--env-file PATH`.

Source  docker run, docker service create.
"""

from __future__ import annotations

import os

from swarmpy.cli import values

__all__ = ["env_files", "environment", "variable"]


def environment(items: list[str]) -> list[str]:
    """A name alone takes its value from this process."""
    return values.env(items, dict(os.environ))


def env_files(paths: list[str]) -> list[str]:
    return environment(values.lines("env-file", paths))


def variable(item: str) -> str:
    """The name, by which one entry takes another's place."""
    return item.partition("=")[0]
