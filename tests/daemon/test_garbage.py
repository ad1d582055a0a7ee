"""Garbage is found, and a large state is not looked through again and again."""

from __future__ import annotations

import gc
import weakref

from swarmpy.daemon.garbage import collect


class Knot:
    """Part of a cycle."""

    def __init__(self) -> None:
        self.itself = self


def test_a_cycle_goes_while_objects_are_few() -> None:
    gone = weakref.ref(Knot())
    before = gc.get_freeze_count()
    collect(many=1 << 30)
    assert gone() is None
    assert gc.get_freeze_count() == before


def test_many_objects_are_set_aside_and_go_when_nobody_holds_them() -> None:
    rows = [[number] for number in range(1000)]
    gc.collect()                                            # they are old now
    before = gc.get_freeze_count()
    try:
        collect(many=len(rows))
        assert gc.get_freeze_count() >= before + len(rows)
        held = gc.get_freeze_count()
        rows.clear()
        assert gc.get_freeze_count() <= held - 1000
    finally:
        gc.unfreeze()
