"""The command as a process: what a wrong call says, and that it imports little."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
HEAVY = ("asyncio", "aiohttp", "grpc", "google.protobuf", "cryptography", "pyroute2", "rich", "pydantic")


def swarmpy(*arguments: str, host: str = "unix:///nowhere/api.sock") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "swarmpy.cli.main", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_HOST": host},
        text=True,
        capture_output=True,
        check=False,
    )


def test_without_a_daemon_the_address_is_named() -> None:
    result = swarmpy("service", "ls")
    assert result.returncode == 1
    assert result.stderr.startswith("Cannot connect to the swarmpy daemon at unix:///nowhere/api.sock")


def test_an_address_of_another_kind_is_refused() -> None:
    result = swarmpy("node", "ls", host="ftp://there")
    assert result.returncode == 1
    assert "'ftp://there' is not an address of a daemon" in result.stderr


def test_a_wrong_flag_value_is_one_line() -> None:
    result = swarmpy("service", "create", "--limit-memory", "much", "web:1")
    assert result.returncode == 1
    assert result.stderr.strip() == "--limit-memory: 'much' is not a size such as 512k, 64m or 1g"


def test_every_noun_has_help() -> None:
    for noun in ("service", "node", "swarm", "container", "image", "system", "lab"):
        result = swarmpy(noun, "--help")
        assert result.returncode == 0, result.stderr
        assert "Commands:" in result.stdout


def test_a_command_imports_nothing_heavy() -> None:
    """Start-up is most of what a command costs."""
    code = (
        "import sys, json; sys.argv = ['swarmpy', 'service', 'ls']\n"
        "from swarmpy.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_HOST": "unix:///nowhere/api.sock"},
        text=True,
        capture_output=True,
        check=True,
    )
    loaded = set(json.loads(result.stdout.splitlines()[-1]))
    assert not loaded & set(HEAVY)
