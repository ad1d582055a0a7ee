"""Garbage is found, and a large state is not looked through again and again."""

from __future__ import annotations

import gc
import weakref

from swarmpy.daemon.garbage import RUSH, Collector


class Knot:
    """Part of a cycle."""

    def __init__(self) -> None:
        self.itself = self


def test_a_cycle_goes_while_objects_are_few() -> None:
    gone = weakref.ref(Knot())
    before = gc.get_freeze_count()
    Collector().collect(many=1 << 30)
    assert gone() is None
    assert gc.get_freeze_count() == before


def test_many_objects_are_set_aside_and_go_when_nobody_holds_them() -> None:
    rows = [[number] for number in range(1000)]
    gc.collect()                                            # they are old now
    before = gc.get_freeze_count()
    try:
        Collector().collect(many=len(rows))
        assert gc.get_freeze_count() >= before + len(rows)
        held = gc.get_freeze_count()
        rows.clear()
        assert gc.get_freeze_count() <= held - 1000
    finally:
        gc.unfreeze()


def test_rows_are_set_aside_and_what_comes_slowly_or_with_garbage_is_looked_through() -> None:
    gc.freeze()                                             # what the tests are made of is out of the way
    gc.disable()                                            # it looks when we say so
    now_s = 0.0
    try:
        collector = Collector(clock=lambda: now_s)
        rows = [[number] for number in range(RUSH)]
        gc.collect(1)                                       # looked at, none of it garbage, and old now
        before = gc.get_freeze_count()
        now_s += 0.5
        collector.collect()
        assert gc.get_freeze_count() >= before + len(rows)

        for seconds, young in ((9.0, 0), (0.5, 500)):       # slowly; beside others that are garbage
            old = [Knot() for _ in range(RUSH)]
            gc.collect(1)
            knots = [weakref.ref(knot) for knot in old]
            old.clear()                                     # garbage, but old
            for _ in range(young):
                Knot()
            gc.collect(1)
            before = gc.get_freeze_count()
            now_s += seconds
            collector.collect()
            assert gc.get_freeze_count() <= before
            assert not any(knot() for knot in knots)
    finally:
        gc.enable()
        gc.unfreeze()
