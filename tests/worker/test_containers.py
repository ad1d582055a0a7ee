"""Tasks as real containers, on an engine in a network namespace of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from swarmpy.errors import InvalidArgument
from swarmpy.worker.containers import registry_auth

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


def test_registry_credentials_are_read_as_the_client_sends_them() -> None:
    auth = registry_auth("eyJ1c2VybmFtZSI6ImFubmEiLCJwYXNzd29yZCI6InMzY3JldCJ9")
    assert auth is not None and (auth.username, auth.password) == ("anna", "s3cret")
    assert registry_auth("") is None and registry_auth("e30") is None
    with pytest.raises(InvalidArgument):
        registry_auth("bm90IGpzb24")
