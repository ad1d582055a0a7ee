"""deploy/Vagrantfile, as Vagrant reads it. No provider is needed for that; `vagrant up` needs one that virtualizes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.root, pytest.mark.vm]


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    packages = ["sh", str(ROOT / "deploy/install-packages.sh"), str(ROOT / "deploy/packages-vagrant.txt")]
    subprocess.run(packages, check=True)


def validate(directory: Path, **numbers: str) -> subprocess.CompletedProcess[str]:
    places = {"VAGRANT_HOME": str(directory / "home"), "VAGRANT_DOTFILE_PATH": str(directory / "state")}
    return subprocess.run(
        ["vagrant", "validate", "--ignore-provider"], cwd=ROOT / "deploy", env={**os.environ, **places, **numbers},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("managers", "workers"), [(1, 0), (3, 2), (5, 7)])
def test_it_describes_as_many_machines_as_wished(tmp_path: Path, managers: int, workers: int) -> None:
    said = validate(tmp_path, MANAGERS=str(managers), WORKERS=str(workers))
    assert said.returncode == 0, said.stdout + said.stderr
    assert "Vagrantfile validated successfully." in said.stdout
    names = {line.split()[1].rstrip(":") for line in said.stdout.splitlines() if line.startswith("==>")}
    wanted = {f"manager{n + 1}" for n in range(managers)} | {f"worker{n + 1}" for n in range(workers)}
    assert names == wanted


@pytest.mark.parametrize("wrong", ["MANAGERS=0", "MANAGERS=x", "WORKERS=-1", "WORKERS=151"])
def test_a_number_that_cannot_be_is_refused_by_name(tmp_path: Path, wrong: str) -> None:
    name, _, value = wrong.partition("=")
    said = validate(tmp_path, **{name: value})
    assert said.returncode != 0
    assert f"{wrong}: " in said.stdout + said.stderr
