"""Two minutes of it; `make chaos MINUTES=30` is the long way."""

from __future__ import annotations

import time

import pytest

from tests.chaos.run import chaos

pytestmark = [pytest.mark.root, pytest.mark.cluster]

DURATION_S = 120.0


def test_a_swarm_of_ten_hosts_survives_anything() -> None:
    chaos(DURATION_S, seed=int(time.time()))
