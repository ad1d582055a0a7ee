"""Attached peers: input, output, terminals, slow readers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from swarmpy.runtime import ContainerIO, ExecProcess, RuntimeFailure, Streams
from swarmpy.runtime.loop import Loop
from swarmpy.runtime.peer import Peer
from tests.runtime.conftest import Host, log_of

pytestmark = pytest.mark.root
WithHost = Callable[[Callable[[Host], Awaitable[None]]], None]


async def read_until(streams: Streams, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        chunk = await streams.read()
        assert chunk is not None, seen
        seen += chunk[1]
    return seen


def test_input_reaches_the_process_and_ends(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("cat"), ContainerIO(stdin=True))
        streams = await container.attach()
        await container.start()
        payload = bytes(range(256)) * 4096  # 1 MiB, more than all buffers on the way
        reading = asyncio.create_task(collect(streams))
        await streams.write(payload)
        await streams.close_stdin()
        assert await reading == payload
        assert (await container.wait()).exit_code == 0

    async def collect(streams: Streams) -> bytes:
        return b"".join([data async for _, data in streams])

    with_host(test)


def test_who_leaves_input_unread_is_heard_to_the_end(with_host: WithHost) -> None:
    """Its shim goes while we write to it."""

    async def test(host: Host) -> None:
        for _ in range(10):
            container = await host.create(host.config("sh", "-c", "head -c 3; echo the end"), ContainerIO(stdin=True))
            streams = await container.attach()
            writing = asyncio.create_task(streams.write(b"abc" * 10_000_000))
            await container.start()
            assert (await container.wait()).exit_code == 0
            await writing
            assert b"".join([data async for _, data in streams]) == b"abcthe end\n"
            await streams.close()

    with_host(test)


def test_stdin_once_ends_with_its_peer(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("cat"), ContainerIO(stdin=True, stdin_once=True))
        await container.start()
        onlooker = await container.attach()
        streams = await container.attach()
        await streams.write(b"hello\n")
        assert await onlooker.read() == ("stdout", b"hello\n")
        await streams.close()
        assert (await container.wait()).exit_code == 0

    with_host(test)


def test_stdin_stays_open_over_detach(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("cat"), ContainerIO(stdin=True))
        await container.start()
        for text in (b"one\n", b"two\n"):
            streams = await container.attach()
            await streams.write(text)
            assert await streams.read() == ("stdout", text)
            await streams.close()
        await container.kill(9)

    with_host(test)


def test_without_stdin_it_reads_nothing(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        status, output = await host.sh("cat; echo end")
        assert (status.exit_code, output) == (0, "end\n")

    with_host(test)


def test_many_peers_see_the_same(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("sh", "-c", "seq 1 20000"))
        peers = [await container.attach() for _ in range(5)]
        await container.start()

        async def read_all(streams: Streams) -> bytes:
            return b"".join([data async for _, data in streams])

        seen = await asyncio.gather(*(read_all(peer) for peer in peers))
        assert set(seen) == {b"".join(b"%d\n" % number for number in range(1, 20001))}

    with_host(test)


def test_a_slow_peer_loses_no_log(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        script = "dd if=/dev/zero bs=1000 count=4000 2>/dev/null | tr '\\0' x | fold -w 1000; echo; echo done"
        bundle = host.bundles.write(host.config("sh", "-c", script))
        container = await host.runtime.create("slow", bundle, ContainerIO(log_path=bundle / "log.json"))
        host.made.append(container)
        slow = await container.attach()  # reads nothing: after a megabyte of buffers the container has to wait
        await container.start()
        fast = await container.attach()
        waiting = asyncio.create_task(container.wait())
        assert await fast.read() is not None
        assert not waiting.done()
        await slow.close()  # with it goes what the container waited for
        async for _ in fast:
            continue
        assert (await waiting).exit_code == 0
        assert log_of(bundle)[-1]["log"] == "done\n"
        assert sum(len(entry["log"].rstrip("\n")) for entry in log_of(bundle)) == 4_000_000 + len("done")

    with_host(test)


def test_terminal(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        config = host.config("sh", "-c", "tty; stty size; read line; stty size; echo got $line", terminal=True)
        config["process"]["consoleSize"] = {"height": 30, "width": 100}
        container = await host.create(config, ContainerIO(terminal=True, stdin=True))
        streams = await container.attach()
        await container.start()
        first = await read_until(streams, b"30 100\r\n")
        assert b"/dev/console" in first or b"/dev/pts/0" in first
        await container.resize(40, 120)
        await streams.write(b"hi\n")
        rest = await read_until(streams, b"got hi\r\n")
        assert b"40 120\r\n" in rest
        assert (await container.wait()).exit_code == 0
        assert await streams.read() is None

    with_host(test)


def test_resize_without_a_terminal(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        container = await host.create(host.config("sleep", "100"))
        await container.start()
        with pytest.raises(RuntimeFailure, match="has no terminal"):
            await container.resize(1, 1)

    with_host(test)


def test_output_can_be_opened_by_path_as_a_user(with_host: WithHost) -> None:
    async def test(host: Host) -> None:
        script = "id -u; echo a > /dev/stdout; echo b > /proc/self/fd/2"
        status, output = await host.sh(script, user={"uid": 1000, "gid": 1000})
        assert (status.exit_code, sorted(output.split())) == (0, ["1000", "a", "b"])

    with_host(test)


class Minutes(Loop):
    """A loop whose timers the test runs."""

    def __init__(self) -> None:
        super().__init__()
        self.due: list[Callable[[], object]] = []

    def after(self, delay_s: float, callback: Callable[[], object]) -> None:
        self.due.append(callback)


@pytest.mark.parametrize("patient", [False, True])
def test_a_peer_that_takes_nothing_is_dropped_unless_it_is_waited_for(patient: bool) -> None:
    loop = Minutes()
    ours, theirs = socket.socketpair()
    peer = Peer(loop, ours, lambda kind, data: None, lambda: None)
    peer.droppable = not patient
    while not peer.full:
        peer.send(b"x" * 65536)
    for check in loop.due:
        check()
    assert peer.closed is not patient
    peer.close()
    theirs.close()
    loop.close()


def test_a_writer_that_outlives_the_process_does_not_keep_the_shim(with_host: WithHost) -> None:
    """What the process wrote is delivered; one that it left behind may write on for ever and is not listened to."""

    async def test(host: Host) -> None:
        container = await host.create(host.config("sleep", "1000"))
        await container.start()
        process = await container.exec(ExecProcess(["sh", "-c", "echo first; yes & exit 3"], env=["PATH=/bin"]))
        output = b"".join([data async for _, data in process.streams()])
        assert b"first\n" in output
        assert await process.wait() == 3
        assert await container.stats()

    with_host(test)
