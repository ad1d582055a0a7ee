"""A container from create to delete, by its own door."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from swarmpy.runtime import Container, ContainerIO, FailureKind, RuntimeFailure, uapi
from swarmpy.runtime.kernel import LinuxKernel
from tests.runtime.conftest import Host, log_of

pytestmark = pytest.mark.root
WithHost = Callable[[Callable[[Host], Awaitable[None]]], None]


def test_output_and_exit_code(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        status, output = await host.sh("echo out; echo err >&2; exit 7")
        assert (status.exit_code, status.signal, status.oom_killed, status.error) == (7, 0, False, "")
        assert sorted(output.split()) == ["err", "out"]
        assert 0 < status.started_ns <= status.finished_ns

    with_host(test)


def test_created_runs_nothing_and_has_its_namespaces(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("sleep", "100"))
        for kind in ("net", "mnt", "pid", "ipc", "uts", "cgroup"):
            assert os.readlink(f"/proc/{container.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
        assert b"sleep" not in Path(f"/proc/{container.pid}/cmdline").read_bytes()
        await container.start()
        assert Path(f"/proc/{container.pid}/cmdline").read_bytes() == b"sleep\x00100\x00"

    with_host(test)


def test_killed_by_a_signal(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        script = "trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done"
        container = await host.create(host.config("sh", "-c", script))
        streams = await container.attach()
        await container.start()
        assert await streams.read() == ("stdout", b"up\n")
        await container.kill(signal.SIGTERM)
        assert (await container.wait()).exit_code == 3

        container = await host.create(host.config("sleep", "100"))
        await container.start()
        await container.kill(signal.SIGKILL)
        status = await container.wait()
        assert (status.exit_code, status.signal, status.oom_killed) == (137, 9, False)

    with_host(test)


def test_signals_are_as_a_program_expects_them(with_host: WithHost) -> None:
    # As under make, whose posix_spawn leaves glibc's own signal ignored in what it starts.
    ignore = ctypes.create_string_buffer((1).to_bytes(8, "little") + bytes(24), 32)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(uapi.SYS_rt_sigaction, 32, ignore, None, ctypes.c_size_t(8)) == 0

    async def test(host: Host) -> None:
        _, output = await host.run(host.config("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"))
        assert output.split() == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]

    try:
        with_host(test)
    finally:
        LinuxKernel().default_signal(32)


def test_kill_everyone(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("sh", "-c", "sleep 100 & sleep 100 & wait; echo over"))
        streams = await container.attach()
        await container.start()
        while len(await container.processes()) < 3:
            await asyncio.sleep(0)
        await container.kill(signal.SIGTERM, everyone=True)  # init is deaf to it, as pid 1 of its namespace
        assert await streams.read() == ("stdout", b"over\n")
        assert (await container.wait()).exit_code == 0

    with_host(test)


def test_delete_leaves_nothing(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("true"))
        state = host.state / "containers" / container.id
        assert state.stat().st_mode & 0o777 == 0o700
        assert (state / "shim.sock").stat().st_mode & 0o777 == 0o600
        with pytest.raises(RuntimeFailure, match="has not ended") as refused:
            await container.delete()
        assert refused.value.kind is FailureKind.CONFLICT
        await container.start()
        await container.wait()
        await container.delete()
        host.made.remove(container)
        assert not state.exists()
        assert not list(Path("/sys/fs/cgroup").glob(f"*{host.cgroup_parent}/{container.id}"))

    with_host(test)


def test_delete_of_what_was_never_started(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("true"))
        await container.kill(9)
        status = await container.wait()
        assert (status.exit_code, status.started_ns) == (137, 0)
        with pytest.raises(RuntimeFailure, match="ended already"):
            await container.start()

    with_host(test)


def test_the_same_id_twice(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        await host.create(host.config("true"), id="twin")
        with pytest.raises(RuntimeFailure, match="container twin: already exists") as refused:
            await host.create(host.config("true"), id="twin")
        assert refused.value.kind is FailureKind.CONFLICT
        with pytest.raises(RuntimeFailure, match="letters, digits"):
            await host.create(host.config("true"), id="../escape")

    with_host(test)


@pytest.mark.parametrize(
    ("args", "text", "code"),
    [
        (("missing",), 'exec: "missing": executable file not found in \\$PATH', 127),
        (("/bin/missing",), 'exec: "/bin/missing": stat /bin/missing: no such file or directory', 127),
        (("/etc/passwd",), 'exec: "/etc/passwd": permission denied', 126),
        (("/etc",), 'exec: "/etc": is a directory', 126),
    ],
)
def test_programs_that_cannot_run(with_host: WithHost, args: tuple[str, ...], text: str, code: int) -> None:
    async def test(host: Host) -> None:
        with pytest.raises(RuntimeFailure, match=f"container [0-9a-f]{{12}}: {text}") as failed:
            await host.create(host.config(*args))
        assert failed.value.exit_code == code
        assert not list((host.state / "containers").iterdir())

    with_host(test)


def test_a_program_that_execve_refuses(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        config = host.config("/upper/strange")
        bundle = host.bundles.write(config)
        strange = bundle / "upper/upper/strange"
        strange.parent.mkdir()
        for content, text, code in (
            (b"no magic", "exec format error", 126),
            (b"#!/no/interpreter\n", "no such file or directory; its interpreter is missing", 127),
        ):
            strange.write_bytes(content)
            strange.chmod(0o755)
            container = await host.runtime.create(f"strange{code}", bundle, ContainerIO())
            host.made.append(container)
            with pytest.raises(RuntimeFailure, match=text) as failed:
                await container.start()
            assert failed.value.exit_code == code
            await container.wait()

    with_host(test)


def test_zombies_of_init_are_its_own_and_orphans_end_with_it(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        status, _ = await host.sh("(sleep 100 &) ; (sleep 100 &) ; exit 0")
        assert status.exit_code == 0

    with_host(test)


def test_a_shared_pid_namespace_keeps_nothing_running(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        config = host.config("sh", "-c", "sleep 1000 & echo $!; exit 5")
        config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "pid"]
        status, output = await host.run(config)
        assert status.exit_code == 5
        assert not Path(f"/proc/{output.strip()}").exists()

    with_host(test)


def test_joining_namespaces_by_path(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        first = await host.create(host.config("sleep", "100"))
        await first.start()
        paths = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
        config = host.config("sh", "-c", "readlink /proc/self/ns/net; hostname; ps | grep -c 'sleep 100$'")
        config["linux"]["namespaces"] = [
            {"type": name, "path": f"/proc/{first.pid}/ns/{paths[name]}"} if name in paths else {"type": name}
            for name in ("pid", "network", "ipc", "uts", "mount", "cgroup")
        ]
        del config["hostname"]
        status, output = await host.run(config)
        assert status.exit_code == 0, output
        assert output.split() == [os.readlink(f"/proc/{first.pid}/ns/net"), "box", "1"]

    with_host(test)


def test_pause_and_resume(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("sh", "-c", "while :; do echo tick; sleep 0.01; done"))
        await container.start()
        await container.pause()
        with pytest.raises(RuntimeFailure, match="is paused already"):
            await container.pause()
        streams = await container.attach()
        for pid in await container.processes():
            assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "D"
        await container.resume()
        assert await streams.read() is not None
        await container.pause()
        await container.kill(9)
        assert (await container.wait()).exit_code == 137

    with_host(test)


def test_logs_are_written_in_dockers_form(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        bundle = host.bundles.write(host.config("sh", "-c", "echo one; printf 'a\\377b\\n'; printf last >&2"))
        container = await host.runtime.create("logged", bundle, ContainerIO(log_path=bundle / "log.json"))
        host.made.append(container)
        await container.start()
        await container.wait()
        entries = log_of(bundle)
        assert [entry["log"] for entry in entries if entry["stream"] == "stdout"] == ["one\n", "a\ufffdb\n"]
        assert [entry["log"] for entry in entries if entry["stream"] == "stderr"] == ["last"]
        assert all(len(entry["time"]) == 30 and entry["time"].endswith("Z") for entry in entries)

    with_host(test)


def test_logs_rotate(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        script = "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done"
        bundle = host.bundles.write(host.config("sh", "-c", script))
        io = ContainerIO(log_path=bundle / "log.json", log_max_size=4096, log_max_files=3)
        container = await host.runtime.create("rotated", bundle, io)
        host.made.append(container)
        await container.start()
        await container.wait()
        names = sorted(path.name for path in bundle.glob("log.json*"))
        assert names == ["log.json", "log.json.1", "log.json.2"]
        assert all(path.stat().st_size < 4096 + 200 for path in bundle.glob("log.json*"))
        assert log_of(bundle)[-1]["log"] == "line 499\n"

    with_host(test)


def test_many_at_once(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        async def one(number: int) -> tuple[int, str]:
            status, output = await host.sh(f"echo {number}; exit {number}")
            return status.exit_code, output.strip()

        results = await asyncio.gather(*(one(number) for number in range(20)))
        assert results == [(number, str(number)) for number in range(20)]

    with_host(test)


def test_handles_say_that_it_is_over(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("true"))
        await container.start()
        first, second = await asyncio.gather(container.wait(), container.wait())
        assert first == second == container.status
        operations: list[Callable[[Container], Awaitable[object]]] = [
            lambda c: c.kill(15), lambda c: c.stats(), lambda c: c.attach(), lambda c: c.pause(), lambda c: c.start(),
        ]  # fmt: skip
        for operation in operations:
            with pytest.raises(RuntimeFailure, match="has ended already") as refused:
                await operation(container)
            assert refused.value.kind is FailureKind.CONFLICT

    with_host(test)
