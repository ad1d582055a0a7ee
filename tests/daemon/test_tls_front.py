"""TLS in front of a plain server, both versions of it: how connections end, one way at a time."""

from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest

from swarmpy.daemon.tls_front import TlsFront, server_context
from tests.vm.door import Keys

PATIENCE_S = 20.0
LARGE = 4 << 20                     # more than sockets and streams hold
CHUNK = 1 << 16
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)

T = TypeVar("T")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    made = Keys(["127.0.0.1"])
    made.write_client(directory)
    for name, data in made.machine.items():
        (directory / f"server-{name}").write_bytes(data)
    return directory


class Client:
    """TLS over a blocking socket, where each direction can be ended by itself, as crypto/tls of Go does."""

    def __init__(self, port: int, keys: Path, version: ssl.TLSVersion, certificate: bool = True) -> None:
        context = ssl.create_default_context(cafile=str(keys / "ca.pem"))
        context.minimum_version = context.maximum_version = version
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT     # the keys are made in the simplest way
        if certificate:
            context.load_cert_chain(keys / "cert.pem", keys / "key.pem")
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_hostname="127.0.0.1")
        self._until_done(self._tls.do_handshake)

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        self._flush()

    def end_input(self) -> None:
        """close_notify, and no FIN."""
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            self._flush()

    def read(self) -> bytes:
        """Some bytes; empty at the other side's close_notify. ConnectionResetError when TCP ends without it."""
        try:
            return self._until_done(lambda: self._tls.read(CHUNK))
        except ssl.SSLZeroReturnError:
            return b""

    def read_all(self) -> bytes:
        return b"".join(iter(self.read, b""))

    def close(self) -> None:
        self.socket.close()

    def _until_done(self, step: Callable[[], T]) -> T:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self.socket.recv(CHUNK)
                if not data:
                    raise ConnectionResetError("ended without close_notify") from None
                self._arrived.write(data)
            finally:
                self._flush()

    def _flush(self) -> None:
        if self._leaving.pending:
            self.socket.sendall(self._leaving.read())


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def streams(serve: Serve) -> Callable[[], asyncio.Protocol]:
    return lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(), serve)


@asynccontextmanager
async def standing(keys: Path, make_protocol: Callable[[], asyncio.Protocol]) -> AsyncIterator[tuple[TlsFront, int]]:
    context = server_context(keys / "server-ca.pem", keys / "server-cert.pem", keys / "server-key.pem")
    front = TlsFront(context, make_protocol)
    port = await front.listen("127.0.0.1", 0)
    try:
        yield front, port
    finally:
        await front.close()


def run(keys: Path, server: Serve | Callable[[], asyncio.Protocol], talk: Callable[[int], T]) -> T:
    """What `talk`, on a thread, makes of the port of a front before `server`."""

    async def both() -> T:
        make_protocol = streams(server) if inspect.iscoroutinefunction(server) else server
        async with standing(keys, make_protocol) as (_, port), asyncio.timeout(PATIENCE_S):  # type: ignore[arg-type]
            return await asyncio.to_thread(talk, port)

    return asyncio.run(both())


async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The input backwards, once it has ended."""
    writer.write((await reader.read())[::-1])
    writer.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_answer_comes_after_the_end_of_the_question(keys: Path, version: ssl.TLSVersion) -> None:
    def talk(port: int) -> bytes:
        client = Client(port, keys, version)
        client.send(b"ab" * LARGE)
        client.end_input()
        return client.read_all()

    assert run(keys, answer_all, talk) == b"ba" * LARGE


@pytest.mark.parametrize("version", VERSIONS)
def test_an_answer_before_the_end_of_the_question_arrives(keys: Path, version: ssl.TLSVersion) -> None:
    """As when an upload is refused, or a program reads no more of its input."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"no" * CHUNK)
        writer.write_eof()
        writer.close()

    def talk(port: int) -> bytes:
        client = Client(port, keys, version)
        for _ in range(LARGE // CHUNK):
            client.send(bytes(CHUNK))
        return client.read_all()

    assert run(keys, refuse, talk) == b"no" * CHUNK


def test_a_slow_reader_holds_the_server_back_and_nobody_else(keys: Path) -> None:
    piece, most = bytes(1 << 20), 256 << 20
    held = asyncio.Event()
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        if await reader.read(1) != b"f":
            writer.write(b"quick")
        else:
            while sent < most and not held.is_set():
                writer.write(piece)
                sent += len(piece)
                drained = asyncio.ensure_future(writer.drain())
                if not (await asyncio.wait((drained,), timeout=1.0))[0]:
                    held.set()
                await drained
        writer.close()

    async def test() -> None:
        async with standing(keys, streams(flood)) as (_, port), asyncio.timeout(PATIENCE_S):
            slow = await asyncio.to_thread(Client, port, keys, VERSIONS[1])
            slow.send(b"f")
            await held.wait()
            assert sent < most
            quick = await asyncio.to_thread(Client, port, keys, VERSIONS[1])
            quick.send(b"q")
            assert await asyncio.to_thread(quick.read_all) == b"quick"
            assert len(await asyncio.to_thread(slow.read_all)) == sent

    asyncio.run(test())


class Noted(asyncio.Protocol):
    """A server that says nothing, and notes that its connection is gone; as aiohttp, it closes on the client's end."""

    def __init__(self) -> None:
        self.begun, self.gone = asyncio.Event(), asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.begun.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()


def hang_up(client: Client) -> None:
    client.close()


def reset(client: Client) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def take_leave(client: Client) -> None:
    client.end_input()
    client.close()


@pytest.mark.parametrize("leave", [hang_up, reset, take_leave])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_server_learns_that_a_client_is_gone(
    keys: Path, version: ssl.TLSVersion, leave: Callable[[Client], None]
) -> None:
    """In the middle of a body, or of an answer that says nothing for long."""

    async def test() -> None:
        server = Noted()
        async with standing(keys, lambda: server) as (_, port), asyncio.timeout(PATIENCE_S):
            client = await asyncio.to_thread(Client, port, keys, version)
            client.send(b"half a reque")
            await server.begun.wait()
            leave(client)
            await server.gone.wait()

    asyncio.run(test())


def test_many_connections_at_once_leave_nothing(keys: Path) -> None:
    many = 100

    def talk(port: int) -> bytes:
        client = Client(port, keys, VERSIONS[1])
        client.send(b"ab" * CHUNK)
        client.end_input()
        said = client.read_all()
        client.close()
        return said

    async def test() -> None:
        async with standing(keys, streams(answer_all)) as (_, port), asyncio.timeout(2 * PATIENCE_S):
            before = descriptors()
            talks = (asyncio.to_thread(talk, port) for _ in range(many))
            assert await asyncio.gather(*talks) == [b"ba" * CHUNK] * many
            while descriptors() > before:
                await asyncio.sleep(0.01)

    asyncio.run(test())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_without_a_certificate_learns_why(keys: Path, version: ssl.TLSVersion) -> None:
    """With TLS 1.3 its handshake is over when it is refused: it has sent its request."""

    def talk(port: int) -> None:
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required|handshake.failure"):
            client = Client(port, keys, version, certificate=False)
            for _ in range(16):
                client.send(bytes(CHUNK))
            client.read()

    run(keys, answer_all, talk)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_server_said_last_arrives_when_the_front_closes(keys: Path, version: ssl.TLSVersion) -> None:
    async def test() -> bytes:
        asked, closing = asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            asked.set()
            await closing.wait()
            writer.write(b"last" * CHUNK)
            writer.close()

        async with standing(keys, streams(serve)) as (front, port), asyncio.timeout(PATIENCE_S):
            client = await asyncio.to_thread(Client, port, keys, version)
            client.send(b"?")
            await asked.wait()
            reading = asyncio.ensure_future(asyncio.to_thread(client.read_all))
            front.stop_listening()
            with suppress(ConnectionRefusedError):
                await asyncio.to_thread(Client, port, keys, version)
                pytest.fail("it still listens")
            closing.set()
            await front.close()
            return await reading

    assert asyncio.run(test()) == b"last" * CHUNK
