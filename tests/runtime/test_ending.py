"""The end of all containers at shutdown, by whoever finds their shims."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from swarmpy.runtime import Runtime
from swarmpy.runtime.ending import end_all
from tests.runtime.conftest import Host

pytestmark = pytest.mark.root

WithHost = Callable[[Callable[[Host], Awaitable[None]]], None]


def test_who_ends_in_time_ends_in_its_own_way_and_others_are_killed(with_host: WithHost) -> None:
    """sleep has no handler, so as the first of its pid namespace it never hears SIGTERM; a paused one hears it too."""

    async def test(host: Host) -> None:
        polite = ["sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"]
        containers = [await host.create(host.config(*args)) for args in (polite, polite, ["sleep", "1000"])]
        for container in containers:
            streams = await container.attach()
            await container.start()
            if container is not containers[2]:
                async for _, data in streams:
                    assert data == b"up\n"
                    break
            await streams.close()
        await containers[1].pause()
        assert await end_all(Runtime(host.state, cgroup_parent=host.cgroup_parent), 5.0) == 3
        assert not list(Path("/sys/fs/cgroup").rglob(host.cgroup_parent.strip("/")))
        statuses = [await container.wait() for container in containers]
        assert [(status.exit_code, status.signal) for status in statuses] == [(5, 0), (5, 0), (137, 9)]
        assert await end_all(Runtime(host.state, cgroup_parent=host.cgroup_parent), 5.0) == 0

    with_host(test)
