"""A host for the tests of this room: one daemon for each module, with the image busybox."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.engine.host import Host


def docker_clients() -> list[str]:
    """The docker clients of this machine: the one in front, and another version if there is one."""
    found = [shutil.which("docker"), "/usr/bin/docker"]
    return list(dict.fromkeys(path for path in found if path and os.access(path, os.X_OK)))


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    daemon = Host()
    try:
        daemon.start()
        daemon.import_busybox()
        yield daemon
    finally:
        daemon.close()
