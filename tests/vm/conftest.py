"""The image, made once for the sources it is made of, and machines that end with their module."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swarmpy.lab.web_image import web_root
from tests.vm.door import Door, Keys
from tests.vm.machine import Image, Machine
from tests.vm.site import NETWORK, Site

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
        each.remove()


@pytest.fixture(scope="module")
def box(machine: Callable[..., Machine], tmp_path_factory: pytest.TempPathFactory) -> Machine:
    keys = Keys([f"{NETWORK}.1"])
    made = machine("box", 1, memory_mib=1024, processors=2, seed=keys.seed)
    keys.write_client(tmp_path_factory.getbasetemp())
    made.switch_on()
    made.wait_up()
    return made


@pytest.fixture(scope="module")
def door(site: Site, box: Machine, tmp_path_factory: pytest.TempPathFactory) -> Door:
    made = Door(site, box, tmp_path_factory.getbasetemp())
    made.until("version", timeout_s=900)
    made.docker("import", "-", "busybox", stdin=web_root()).ok()
    return made
