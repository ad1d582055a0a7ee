"""A container from create to delete, by its own door."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.runtime.conftest import Host

pytestmark = pytest.mark.root
WithHost = Callable[[Callable[[Host], Awaitable[None]]], None]


def test_output_and_exit_code(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        status, output = await host.sh("echo out; echo err >&2; exit 7")
        assert (status.exit_code, status.signal) == (7, 0)
        assert sorted(output.split()) == ["err", "out"]
        assert 0 < status.started_ns <= status.finished_ns

    with_host(test)
