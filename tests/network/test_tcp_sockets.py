"""What the kernel tells of a container's TCP sockets, with real ones."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from swarmpy.errors import Conflict
from swarmpy.network import TcpSocket, tcp_sockets
from tests.network.topology import Namespace, shell

pytestmark = pytest.mark.root

PORT = 80


@pytest.fixture
def container() -> Iterator[Namespace]:
    namespace = Namespace()
    shell(namespace, "ip link set lo up")
    yield namespace
    namespace.close()


def listener(container: Namespace, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    made = container.run(lambda: socket.socket(family, socket.SOCK_STREAM))
    made.bind(("", PORT))
    made.listen()
    return made


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_listener_is_seen(container: Namespace, family: socket.AddressFamily) -> None:
    def seen() -> list[TcpSocket]:
        return asyncio.run(tcp_sockets(container.path, {PORT}))

    assert seen() == []
    with listener(container, family):
        assert seen() == [TcpSocket(PORT, listening=True)]
    assert seen() == []
    with pytest.raises(Conflict):
        asyncio.run(tcp_sockets(1 << 22, {PORT}))


def test_who_waits_for_an_answer(container: Namespace) -> None:
    asyncio.run(conversation(container))


async def conversation(container: Namespace) -> None:
    async def owing() -> bool:
        (connection,) = (item for item in await tcp_sockets(container.path, {PORT}) if not item.listening)
        return connection.owing

    async def nothing_owed() -> None:
        """The kernel counts in ticks of some milliseconds, and acknowledges late."""
        async with asyncio.timeout(10):
            while await owing():
                await asyncio.sleep(0.01)

    with listener(container) as server, container.socket(socket.SOCK_STREAM) as client:
        client.connect(("127.0.0.1", PORT))
        assert await owing(), "nobody accepted it yet"
        with server.accept()[0] as accepted:
            assert await owing(), "it has not even asked"
            client.send(b"ask")
            assert accepted.recv(3) == b"ask"
            assert await owing(), "the question was read and is being worked on"
            accepted.send(b"answer")
            assert client.recv(6) == b"answer"
            await nothing_owed()
            client.send(b"ask again")
            assert await owing(), "the next question is not even read"
            accepted.recv(9)
            accepted.send(b"answer")
            client.recv(6)
            await nothing_owed()
            accepted.setblocking(False)
            with pytest.raises(BlockingIOError):
                while accepted.send(bytes(1 << 20)):
                    pass
            assert await owing(), "the answer is longer than what the client has taken"
