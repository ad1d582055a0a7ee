"""One swarm for each module of tests, whole again before each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.swarm import Swarm, lab_of, web_images


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[Swarm]:
    """Three managers and three workers, with the images; a module asks for others by SHAPE = (managers, workers)."""
    module = request.module
    managers, workers = getattr(module, "SHAPE", (3, 3))
    with lab_of(module.__name__.rpartition("_")[2][:9], managers, workers) as swarm:
        web_images(swarm)
        yield swarm


@pytest.fixture
def swarm(shared: Swarm) -> Iterator[Swarm]:
    """The module's swarm; what the test made or broke is mended afterwards."""
    yield shared
    shared.mend()
    shared.remove_services()
