"""Faults happen in their order, however long one takes to make."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from tests.chaos.storm import blow
from tests.chaos.weather import Fault, Trouble


class SlowLab:
    """Remembers what was done to its only host; a restart outlasts what is planned right after it."""

    plan = SimpleNamespace(hosts=[SimpleNamespace(name="host")])

    def __init__(self) -> None:
        self.done: list[str] = []

    def stop(self, name: str) -> None:
        time.sleep(0.2)
        self.done.append(f"stop {name}")

    def start(self, name: str) -> None:
        self.done.append(f"start {name}")

    def pause(self, name: str) -> None:
        self.done.append(f"pause {name}")

    def resume(self, name: str) -> None:
        self.done.append(f"resume {name}")


def test_a_host_that_restarts_longer_than_planned_is_not_left_standing_still() -> None:
    lab: Any = SlowLab()
    restarted = Fault(Trouble.RESTARTED, ("host",), 0.0, 0.01)
    still = [Fault(Trouble.HOST_STANDS_STILL, ("host",), 0.004 * n, 0.004 * n + 0.002) for n in range(5, 45)]
    blow(lab, [restarted, *still], lambda line: None)
    assert lab.done == ["stop host", "start host", *["pause host", "resume host"] * len(still)]
