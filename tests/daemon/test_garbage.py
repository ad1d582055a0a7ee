"""Garbage is found, and a large state is not looked through again and again."""

from __future__ import annotations

import gc
import weakref

from swarmpy.daemon.garbage import collect


class Knot:
    """Part of a cycle."""

    def __init__(self) -> None:
        self.itself = self


def test_a_cycle_goes_and_little_is_set_aside() -> None:
    gone = weakref.ref(Knot())
    before = gc.get_freeze_count()
    collect(long_s=60)
    assert gone() is None
    assert gc.get_freeze_count() == before


def test_what_took_long_is_set_aside() -> None:
    before = gc.get_freeze_count()
    try:
        collect(long_s=0)
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
