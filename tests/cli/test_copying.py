"""`swarmpy cp` beside docker's: the same files come to lie at the same places, or neither copies."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from tests.cli.test_running import environment, swarmpy
from tests.engine.conftest import host
from tests.engine.host import Host

__all__ = ["host"]

pytestmark = [pytest.mark.root, pytest.mark.cluster]

MADE = "mkdir -p /d/sub /e; echo one >/d/f; echo two >/d/sub/g; ln -s d/f /link; chown -R 5:6 /d; ln /d/f /d/hard"


@pytest.fixture(scope="module")
def name(host: Host) -> Iterator[str]:
    name = host.out("run", "-d", "busybox", "sh", "-c", f"{MADE}; sleep 999")
    host.docker("exec", name, "sh", "-c", "until [ -e /d/hard ]; do sleep 0.05; done")
    yield name
    host.docker("rm", "-f", name)


def tree(folder: Path) -> dict[str, str]:
    """Every path below, with what it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = f"-> {path.readlink()}" if path.is_symlink() else path.read_text() if path.is_file() else "directory"
        found[str(path.relative_to(folder))] = f"{kind} of {path.lstat().st_uid}"
    return found


@pytest.mark.parametrize(
    "line",
    [
        "C:/d/f H/", "C:/d/f H/new", "C:/d/f H/there", "C:/d/f H/none/", "C:/d/f H/none/new", "C:d/f H/dir",
        "C:/d H/", "C:/d H/new", "C:/d/. H/", "C:/d/. H/new", "C:/d H/there", "C:/d/ H/dir", "-a C:/d H/",
        "C:/link H/", "-L C:/link H/", "C:/none H/", "none:/d H/",
    ],
)  # fmt: skip
def test_out_of_a_container(host: Host, name: str, tmp_path: Path, line: str) -> None:
    seen = []
    for client in ("docker", "swarmpy"):
        here = tmp_path / client
        (here / "dir").mkdir(parents=True)
        (here / "there").write_text("old")
        words = [word.replace("C:", f"{name}:").replace("H/", f"{here}/") for word in line.split()]
        done = host.docker("cp", *words, check=False) if client == "docker" else swarmpy(host, "cp", *words)
        seen.append((done.returncode, tree(here)))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "line",
    [
        "H/f C:/X/", "H/f C:/X/new", "H/f C:/X/there", "H/f C:/X/none/", "H/f C:/X/none/new", "H/d C:/X",
        "H/d C:/X/new", "H/d/. C:/X/", "H/d/. C:/X/new", "H/d C:/X/there", "-a H/d C:/X/", "H/link C:/X/",
        "-L H/link C:/X/", "H/none C:/X/", "H/f C:/X/tofile", "H/f C:/X/todir", "H/f none:/X/",
    ],
)  # fmt: skip
def test_into_a_container(host: Host, name: str, tmp_path: Path, line: str) -> None:
    (tmp_path / "d/sub").mkdir(parents=True)
    for path in ("f", "d/f", "d/sub/g"):
        (tmp_path / path).write_text(path)
        os.chown(tmp_path / path, 5, 6)
    (tmp_path / "link").symlink_to("f")
    seen = []
    for client in ("docker", "swarmpy"):
        top = f"/{client}-{abs(hash(line))}"
        make = f"mkdir -p {top}/dir && cd {top} && echo old >there && ln -s there tofile && ln -s dir todir"
        host.docker("exec", name, "sh", "-c", make)
        words = [word.replace("C:/X", f"{name}:{top}").replace("/X", top) for word in line.split()]
        words = [word.replace("H/", f"{tmp_path}/") for word in words]
        done = host.docker("cp", *words, check=False) if client == "docker" else swarmpy(host, "cp", *words)
        shown = f"cd {top}; find . | sort | while read p; do stat -c '%n %F %u %N' $p; [ -f $p ] && cat $p; done"
        seen.append((done.returncode, host.out("exec", name, "sh", "-c", shown)))
    assert seen[0] == seen[1]


def test_streams(host: Host, name: str) -> None:
    command = [sys.executable, "-m", "swarmpy.cli.main", "cp"]
    out = subprocess.run([*command, f"{name}:/d", "-"], env=environment(host), capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(out)) as archive:
        assert sorted(archive.getnames()) == ["d", "d/f", "d/hard", "d/sub", "d/sub/g"]
    subprocess.run([*command, "-", f"{name}:/e"], env=environment(host), input=out, check=True)
    assert host.out("exec", name, "cat", "/e/d/sub/g") == "two"
    for words in (("a", "b"), (f"{name}:/d", f"{name}:/e"), (f"{name}:", "x"), ("-", f"{name}:/d/f")):
        assert swarmpy(host, "cp", *words).returncode == 1
