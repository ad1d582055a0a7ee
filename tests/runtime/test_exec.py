"""Further processes in a container that runs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from swarmpy.runtime import Container, Exec, ExecProcess, FailureKind, RuntimeFailure
from tests.runtime.conftest import Host

pytestmark = pytest.mark.root
WithHost = Callable[[Callable[[Host], Awaitable[None]]], None]
ENV = ("PATH=/bin:/sbin",)


async def running(host: Host) -> Container:
    container = await host.create(host.config("sleep", "1000"))
    await container.start()
    return container


async def output_of(process: Exec) -> bytes:
    return b"".join([data async for _, data in process.streams()])


def test_it_is_in_the_container(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await running(host)
        script = "readlink /proc/self/ns/net; hostname; cat /proc/self/cgroup; echo $A; pwd; id -u; exit 3"
        process = await container.exec(
            ExecProcess(["sh", "-c", script], env=[*ENV, "A=b c"], cwd="/tmp", uid=1000, gid=1000, additional_gids=[7])
        )
        output = (await output_of(process)).decode()
        assert await process.wait() == 3
        assert os.readlink(f"/proc/{container.pid}/ns/net") in output
        assert "box\n" in output and "b c\n/tmp\n1000\n" in output
        assert host.cgroup_parent not in output  # a cgroup namespace shows its own root

    with_host(test)


def test_streams_both_ways(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await running(host)
        process = await container.exec(ExecProcess(["sh", "-c", "cat; echo end >&2"], env=ENV, stdin=True))
        await process.streams().write(b"to and fro\n")
        await process.streams().close_stdin()
        chunks = [chunk async for chunk in process.streams()]
        assert ("stdout", b"to and fro\n") in chunks and ("stderr", b"end\n") in chunks
        assert await process.wait() == 0

    with_host(test)


def test_terminal_and_resize(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await running(host)
        script = "tty; stty size; read x; stty size"
        process = await container.exec(
            ExecProcess(["sh", "-c", script], env=ENV, terminal=True, console_size=(20, 60))
        )
        seen = b""
        while b"20 60" not in seen:
            chunk = await process.streams().read()
            assert chunk is not None
            seen += chunk[1]
        assert b"/dev/pts/0" in seen
        await process.resize(25, 70)
        await process.streams().write(b"\n")
        assert b"25 70" in await output_of(process)
        assert await process.wait() == 0

    with_host(test)


@pytest.mark.parametrize(
    ("args", "text", "code"),
    [(["nope"], 'exec: "nope": executable file not found in \\$PATH', 127), (["/etc"], "is a directory", 126)],
)
def test_programs_that_cannot_run(with_host: WithHost, args: list[str], text: str, code: int) -> None:
    async def test(host: Host) -> None:
        container = await running(host)
        with pytest.raises(RuntimeFailure, match=text) as failed:
            await container.exec(ExecProcess(args, env=ENV))
        assert failed.value.exit_code == code
        assert await container.processes() == [container.pid]

    with_host(test)


def test_it_goes_on_without_its_streams(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await running(host)
        process = await container.exec(ExecProcess(["sh", "-c", "yes | head -c 300000; exit 4"], env=ENV))
        await process.streams().close()
        assert await process.wait() == 4

    with_host(test)


def test_it_ends_with_the_container(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await running(host)
        process = await container.exec(ExecProcess(["sleep", "1000"], env=ENV))
        assert sorted(await container.processes()) == sorted([container.pid, process.pid])
        await container.kill(9)
        assert (await container.wait()).exit_code == 137
        assert await process.wait() == 137
        assert not Path(f"/proc/{process.pid}").exists()

    with_host(test)


def test_it_comes_as_the_container_goes(with_host: WithHost) -> None:
    """Whatever of the container is gone by then: the reason is that it has ended."""

    async def test(host: Host) -> None:
        for round_ in range(10):
            container = await running(host)
            shim = int(Path(f"/proc/{container.pid}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(shim, signal.SIGSTOP)
            os.kill(container.pid, signal.SIGKILL)  # of which the shim does not hear before it reads these
            asked = [asyncio.create_task(container.exec(ExecProcess(["true"], env=ENV))) for _ in range(5)]
            await asyncio.wait(asked, timeout=0.02 * (round_ % 2))
            os.kill(shim, signal.SIGCONT)
            for refused in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(refused, RuntimeFailure), refused
                assert (refused.kind, "ended" in str(refused) or "is not running" in str(refused)) == (
                    FailureKind.CONFLICT, True,
                ), refused  # fmt: skip

    with_host(test)


def test_it_can_be_killed(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await running(host)
        process = await container.exec(ExecProcess(["sleep", "1000"], env=ENV))
        await process.kill(15)
        assert await process.wait() == 128 + 15
        for late in (process.kill(15), process.resize(24, 80)):
            with pytest.raises(RuntimeFailure, match="has ended") as refused:
                await late
            assert refused.value.kind is FailureKind.CONFLICT

    with_host(test)


def test_not_before_start_nor_while_paused(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("sleep", "1000"))
        with pytest.raises(RuntimeFailure, match="is not running"):
            await container.exec(ExecProcess(["true"], env=ENV))
        await container.start()
        await container.pause()
        with pytest.raises(RuntimeFailure, match="is paused") as refused:
            await container.exec(ExecProcess(["true"], env=ENV))
        assert refused.value.kind is FailureKind.CONFLICT
        await container.resume()
        process = await container.exec(ExecProcess(["true"], env=ENV))
        assert await process.wait() == 0

    with_host(test)


def test_many_at_once(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await running(host)

        async def one(number: int) -> int:
            process = await container.exec(ExecProcess(["sh", "-c", f"echo {number}; exit {number}"], env=ENV))
            assert await output_of(process) == b"%d\n" % number
            return await process.wait()

        assert await asyncio.gather(*(one(number) for number in range(10))) == list(range(10))

    with_host(test)


def test_confinement_is_the_containers(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await running(host)
        args = ["grep", "-E", "Seccomp:|CapEff|NoNewPrivs", "/proc/self/status"]
        process = await container.exec(ExecProcess(args, env=ENV, no_new_privileges=True))
        words = (await output_of(process)).decode().split()
        assert words == ["CapEff:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2"]

    with_host(test)
