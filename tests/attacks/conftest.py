"""The daemon that all attacks of this room are aimed at: it has to live through every one of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.target import Target


@pytest.fixture(scope="package")
def target() -> Iterator[Target]:
    with tempfile.TemporaryDirectory(prefix="swa") as root:
        made = Target(Path(root))
        try:
            made.up()
            yield made
        finally:
            made.close()
