"""A wheel of this checkout, installed where no checkout is, brings up a lab and runs a service in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmpy.lab.web_image import CHANGES, web_root

pytestmark = [pytest.mark.root, pytest.mark.cluster]

CHECKOUT = Path(__file__).parents[2]
NAME = f"wheel-{os.getpid()}"


@pytest.fixture(scope="module")
def swarmpy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The command, in an environment of its own. The libraries are those of the tests; swarmpy is the wheel's."""
    base = tmp_path_factory.mktemp("wheel")
    sources = base / "sources"
    shutil.copytree(CHECKOUT / "swarmpy", sources / "swarmpy", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(CHECKOUT / name, sources)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", str(base), str(sources))
    (wheel,) = base.glob("*.whl")
    home = base / "installed"
    venv.create(home)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    run(*pip, "--python", str(home / "bin/python"), "install", "--no-deps", "--no-index", str(wheel))
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    yield home / "bin/swarmpy"
    run(str(home / "bin/swarmpy"), "lab", "down", "--name", NAME)


def run(*argv: str, **environment: str) -> str:
    done = subprocess.run(argv, cwd="/", env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr or done.stdout}"
    return done.stdout


def test_a_service_runs(swarmpy: Path, tmp_path: Path) -> None:
    python = swarmpy.with_name("python")
    where = run(str(python), "-c", "import swarmpy; print(swarmpy.__file__)")
    assert Path(where.strip()).is_relative_to(python.parents[1])
    run(str(swarmpy), "lab", "up", "--name", NAME, "--managers", "1", "--workers", "0")
    rows = [json.loads(line) for line in run(str(swarmpy), "lab", "ls", "--format", "json").splitlines()]
    (door,) = (row["DockerHost"] for row in rows if row["Lab"] == NAME)
    archive = tmp_path / "web.tar"
    archive.write_bytes(web_root())
    changes = [word for change in CHANGES for word in ("--change", change)]
    run(str(swarmpy), "import", *changes, str(archive), "web:1", DOCKER_HOST=door)
    # Not detached, it returns once both run; what it cannot do it says.
    run(str(swarmpy), "service", "create", "--name", "web", "--replicas", "2", "web:1", DOCKER_HOST=door)
    listed = run(str(swarmpy), "service", "ls", "--format", "{{.Replicas}}", DOCKER_HOST=door)
    assert listed.strip() == "2/2"
