"""Real parts for the image tests: a store of its own, a small root file system, a registry on a free port."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.image.archives import Tar

HTPASSWD = "tester:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n"
"""User `tester`, password `open sesame`."""


def busybox_tar() -> bytes:
    """A root file system of one static program."""
    archive = Tar().directory("./").directory("bin").file("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    for name in ("sh", "cat", "ls", "httpd"):
        archive.symlink(f"bin/{name}", "busybox")
    return archive.directory("tmp", 0o1777).directory("etc").file("etc/passwd", b"root:x:0:0::/:/bin/sh\n").bytes()


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(busybox_tar())
    return path


RegistryStarter = Callable[..., str]


@pytest.fixture
def start_registry(tmp_path: Path) -> Iterator[RegistryStarter]:
    """Starts registries with data under `tmp_path`; returns the `127.0.0.1:port` of each. All end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(auth: str = "", http: str = "") -> str:
        place = tmp_path / f"registry{len(started)}"
        place.mkdir()
        (place / "htpasswd").write_text(HTPASSWD)
        (place / "config.yml").write_text(
            "version: 0.1\nlog: {level: info, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {place / 'data'}}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '127.0.0.1:0', secret: not-a-secret{', ' if http else ''}{http}}}\n"
            + auth.replace("PLACE", str(place))
        )
        environment = {"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"}
        process = subprocess.Popen(
            ["docker-registry", "serve", str(place / "config.yml")], stderr=subprocess.PIPE, env=environment
        )
        started.append(process)
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(rb"listening on (127\.0\.0\.1:\d+)", line):
                # The pipe stays open and small: the access log is off and the level says little more.
                return found[1].decode()
        raise AssertionError(f"docker-registry ended with {process.wait()} before it listened")

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


@pytest.fixture
def registry(start_registry: RegistryStarter) -> str:
    return start_registry()
