"""Tasks as real containers, on an engine in a network namespace of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.root
def test_tasks_run_end_and_outlive_their_daemon() -> None:
    with tempfile.TemporaryDirectory(prefix="swarmpy-test-") as root:
        done = subprocess.run(
            ["unshare", "--net", sys.executable, str(HERE / "engine_story.py"), root, f"w{os.getpid():x}"],
            env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)}, capture_output=True, text=True, timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-6000:]
