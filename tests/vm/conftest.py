"""The image, made once for the sources it is made of, and machines that end with their test."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm.machine import Image, Machine
from tests.vm.site import Site

ROOT = Path(__file__).parents[2]
CACHE = Path("/var/cache/swarmpy/vm")


@pytest.fixture(scope="session")
def image() -> Image:
    """Installs what it takes; a machine without apt says so."""
    packages = ["sh", str(ROOT / "deploy/install-packages.sh"), str(ROOT / "deploy/packages-vm.txt")]
    subprocess.run(packages, check=True)
    made = subprocess.run(
        ["sh", str(ROOT / "deploy/vm/build.sh"), str(CACHE)], stdout=subprocess.PIPE, text=True, check=True
    )
    return Image(Path(made.stdout.strip()))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


@pytest.fixture(scope="module")
def machine(
    site: Site, image: Image, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Machine]]:
    """`machine(name, number, **options)` is one that is off."""
    made: list[Machine] = []

    def make(name: str, number: int, **options: object) -> Machine:
        directory = tmp_path_factory.mktemp("vm") / name
        made.append(Machine(site, image, directory, name, number, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.lose_power()
