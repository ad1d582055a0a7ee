"""The life of a large swarm, in small: what `make scale` measures happens, and its report says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.scale.__main__ import growth, main
from bench.scale.reads import percentile
from bench.scale.report import Sample


@pytest.mark.root
@pytest.mark.cluster
def test_a_small_swarm_lives_through_all_phases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scale.json"
    assert main([
        "--nodes", "20", "--tasks", "400", "--heartbeat-s", "1", "--start-s", "0.1", "--deadline-s", "60",
        "--out", str(out),
    ]) == 0  # fmt: skip
    told = json.loads(out.read_text())
    phases = {phase["name"]: phase for phase in told["phases"]}
    assert {name: phase["count"] for name, phase in phases.items()} == {
        "join": 20, "start": 400, "update": 100, "death": phases["death"]["count"], "remove": 100,
    }  # fmt: skip
    assert phases["death"]["count"] >= 20                    # two of twenty nodes, and what their history holds
    assert all(phase["cpu_s"] > 0 and phase["rss_bytes"] > phase["pss_bytes"] > 0 for phase in told["phases"])
    assert phases["start"]["reads"]["service ls"]["count"] > 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [*lines[:5], *["goal"] * 4]


def test_growth_compares_the_last_tasks_with_the_first() -> None:
    samples = [Sample(0.0, cpu, 0, 90, running) for cpu, running in ((10, 0), (11, 30), (12, 60), (14, 90))]
    assert growth(samples, 90) == 2.0


def test_percentiles_are_samples() -> None:
    assert percentile([], 0.99) == 0.0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(number) for number in range(1, 201)], 0.99) == 198.0
