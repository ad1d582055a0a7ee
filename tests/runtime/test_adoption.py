"""Daemons, launchers and shims that die, at any moment."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from swarmpy.runtime import Container, ContainerIO, ExecProcess, FailureKind, Runtime, RuntimeFailure
from tests.runtime.conftest import Host, log_of

pytestmark = pytest.mark.root
WithHost = Callable[[Callable[[Host], Awaitable[None]]], None]
ROOT = Path(__file__).parents[2]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that gives no event, for as long as the test may last."""
    while not condition():
        await asyncio.sleep(0)


def shim_of(host: Host, container: Container) -> int:
    text = (host.state / "containers" / container.id / "shim.json").read_text()
    return int(json.loads(text)["pid"])


async def next_daemon(host: Host) -> list[Container]:
    """The runtime of the daemon that comes after this one."""
    await host.runtime.close()
    host.runtime = Runtime(host.state, cgroup_parent=host.cgroup_parent)
    await host.runtime.start()
    host.made = await host.runtime.adopt()
    return host.made


def test_a_new_daemon_finds_what_runs(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        bundle = host.bundles.write(host.config("sh", "-c", "echo before; read x; echo after $x; exit 9"))
        io = ContainerIO(stdin=True, log_path=bundle / "log.json")
        before = await host.runtime.create("stays", bundle, io)
        await before.start()
        [after] = await next_daemon(host)
        assert (after.id, after.pid, after.started_ns) == ("stays", before.pid, before.started_ns)
        process = await after.exec(ExecProcess(["true"], env=["PATH=/bin"]))
        assert await process.wait() == 0
        streams = await after.attach()
        await streams.write(b"all\n")
        assert await streams.read() == ("stdout", b"after all\n")
        assert (await after.wait()).exit_code == 9
        assert [entry["log"] for entry in log_of(bundle)] == ["before\n", "after all\n"]

    with_host(test)


def test_it_ended_while_no_daemon_was_there(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        config = host.config("sh", "-c", "read x < /shared/go; echo alone; exit 6")
        shared = host.state.parent / "shared"
        shared.mkdir()
        os.mkfifo(shared / "go")
        config["mounts"].append({"destination": "/shared", "type": "bind", "source": str(shared), "options": ["bind"]})
        bundle = host.bundles.write(config)
        container = await host.runtime.create("alone", bundle, ContainerIO(log_path=bundle / "log.json"))
        await container.start()
        await host.runtime.close()
        await asyncio.to_thread((shared / "go").write_text, "x\n")
        await until((host.state / "containers/alone/status.json").exists)
        [after] = await next_daemon(host)
        status = await after.wait()
        assert (status.exit_code, status.started_ns) == (6, container.started_ns)
        assert [entry["log"] for entry in log_of(bundle)] == ["alone\n"]

    with_host(test)


def test_the_daemon_is_killed(with_host: WithHost) -> None:
    """A process with a Runtime, killed with -9 as it stands; the launcher goes with it, the container does not."""

    async def test(host: Host) -> None:
        await host.runtime.close()
        bundle = host.bundles.write(host.config("sleep", "1000"))
        code = (
            "import asyncio, sys\n"
            "from pathlib import Path\n"
            "from swarmpy.runtime import ContainerIO, Runtime\n"
            "async def main():\n"
            "    runtime = Runtime(Path(sys.argv[1]), cgroup_parent=sys.argv[2])\n"
            "    container = await runtime.create('survivor', Path(sys.argv[3]), ContainerIO())\n"
            "    await container.start()\n"
            "    print(container.pid, runtime._shims.launcher_pid, flush=True)\n"
            "    await asyncio.sleep(1000)\n"
            "asyncio.run(main())\n"
        )
        daemon = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(host.state), host.cgroup_parent, str(bundle),
            stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert daemon.stdout is not None
        pid, launcher = (await daemon.stdout.readline()).decode().split()
        daemon.kill()
        await daemon.wait()
        await until(lambda: not Path(f"/proc/{launcher}").exists() or zombie(int(launcher)))
        [container] = await next_daemon(host)
        assert container.pid == int(pid)
        assert Path(f"/proc/{pid}").exists()

    with_host(test)


def zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_launcher_is_killed(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("sleep", "1000"))
        await container.start()
        launcher = host.runtime._shims.launcher_pid
        assert launcher is not None
        os.kill(launcher, signal.SIGKILL)
        assert (await container.stats())["pids"] == {"current": 1, "limit": None}
        status, output = await host.sh("echo again")
        assert (status.exit_code, output) == (0, "again\n")

    with_host(test)


def test_the_shim_is_killed(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("sleep", "1000"))
        await container.start()
        process = await container.exec(ExecProcess(["sleep", "1000"], env=["PATH=/bin"]))
        os.kill(shim_of(host, container), signal.SIGKILL)
        status = await container.wait()
        assert (status.exit_code, status.signal) == (137, 9)
        assert "its shim ended unexpectedly, and the container was killed with it" in status.error
        assert await process.wait() == 137
        for pid in (container.pid, process.pid):
            await until(lambda pid=pid: zombie(pid))  # type: ignore[misc]  # mypy cannot infer a lambda with a default

    with_host(test)


def test_requests_that_the_shim_takes_with_it(with_host: WithHost) -> None:
    """Whoever asks while a container goes hears that it has ended, and not how it is made."""

    async def test(host: Host) -> None:
        container = await host.create(host.config("sleep", "1000"))
        await container.start()
        shim = shim_of(host, container)
        os.kill(shim, signal.SIGSTOP)  # it answers nobody any more
        asked = [
            asyncio.create_task(operation)
            for operation in (
                container.stats(), container.kill(15), container.attach(), container.exec(ExecProcess(["true"])),
            )
        ]  # fmt: skip
        done, _ = await asyncio.wait(asked, timeout=0.2)
        assert not done
        os.kill(shim, signal.SIGKILL)
        for request in asked:
            with pytest.raises(RuntimeFailure, match="has ended already") as refused:
                await request
            assert refused.value.kind is FailureKind.CONFLICT
        assert container.status is not None

    with_host(test)


def test_the_shim_is_killed_while_no_daemon_is_there(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("sleep", "1000"))
        await container.start()
        shim = shim_of(host, container)
        await host.runtime.close()
        os.kill(shim, signal.SIGKILL)
        [after] = await next_daemon(host)
        assert "shim ended unexpectedly" in (await after.wait()).error
        await until(lambda: zombie(container.pid))

    with_host(test)


@pytest.mark.parametrize("delay_us", [0, 300, 600, 1000, 1500, 2000, 3000, 4000, 6000, 9000])
def test_the_shim_is_killed_while_it_creates(with_host: WithHost, delay_us: int) -> None:
    async def test(host: Host) -> None:
        await until(lambda: bool(children_of_launcher(host)))
        [shim] = children_of_launcher(host)  # the spare one, which the request will find
        creating = asyncio.create_task(host.create(host.config("sleep", "1000"), id=f"cut{uuid.uuid4().hex}"))
        await asyncio.sleep(delay_us / 1e6)
        os.kill(shim, signal.SIGKILL)
        try:
            container = await creating
        except RuntimeFailure as failure:
            assert failure.kind is FailureKind.LOST
            assert not list((host.state / "containers").iterdir())
        else:
            if shim_of(host, container) != shim:  # it was killed before the request came: another one took it
                await container.kill(9)
            assert (await container.wait()).exit_code == 137
        assert not [path for path in Path("/sys/fs/cgroup").glob(f"*{host.cgroup_parent}/cut*") if not host.made]

    with_host(test)


def children_of_launcher(host: Host) -> set[int]:
    pid = host.runtime._shims.launcher_pid
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def test_a_creation_that_was_cut_short_is_cleaned_by_the_next_daemon(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("sleep", "1000"))
        directory = host.state / "containers" / container.id
        shim = shim_of(host, container)
        os.kill(shim, signal.SIGSTOP)  # as if it had not come further
        (directory / "container.json").unlink()
        (directory / "shim.sock").unlink()
        assert await next_daemon(host) == []
        assert not directory.exists()
        assert not list(Path("/sys/fs/cgroup").glob(f"*{host.cgroup_parent}/{container.id}"))
        await until(lambda: zombie(shim) and zombie(container.pid))

    with_host(test)
