"""What somebody can do who only reaches the ports, or holds a token, or speaks the protocols wrongly."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import re
import resource
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest

from swarmpy.daemon.descriptors import API_PLACES, places
from swarmpy.errors import Forbidden, InvalidArgument
from swarmpy.identity import JoinToken, NodeIdentity, new_key
from swarmpy.identity.certificates import key_pem
from swarmpy.identity.join_credential import joiner_credential
from swarmpy.identity.node_identity import MESSAGE_LIMIT_BYTES
from swarmpy.rpc.control_pb2 import UpdateClusterRequest
from swarmpy.rpc.types_pb2 import NodeRole
from tests.attacks.target import API_PORT, MIB, SWARM_PORT, Target, answer, until
from tests.attacks.wire import METHODS, reckless, refusal
from tests.daemon.swarm import Host, hosts
from tests.vm.door import Keys

pytestmark = [pytest.mark.root, pytest.mark.cluster]

CROWD = 10_000
CROWD_BYTES = 400 * MIB             # what the daemon may take for it: 40 KiB for each
BEGINNINGS = (b"", b"\x16\x03\x01\x02\x00\x01")     # nothing, and a TLS record that never comes to its end


def crowd(port: int) -> list[socket.socket]:
    made = []
    for number in range(CROWD):
        connection = socket.create_connection(("127.0.0.1", port), 60)
        with contextlib.suppress(ConnectionError):      # some are told at once that there is no room
            connection.sendall(BEGINNINGS[number % len(BEGINNINGS)])
        made.append(connection)
    return made


@contextlib.contextmanager
def crowded(target: Target, port: int) -> Iterator[None]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    made = target.within(lambda: crowd(port))
    try:
        yield
    finally:
        for connection in made:
            connection.close()


@pytest.mark.parametrize("port", [API_PORT, SWARM_PORT], ids=["api", "swarm"])
def test_ten_thousand_silent_connections(target: Target, port: int) -> None:
    before = target.memory()
    with crowded(target, port):
        assert target.memory() - before < CROWD_BYTES
        assert "Leader" in target.docker("node", "ls", "--format", "{{.ManagerStatus}}")
        target.docker("run", "--rm", "busybox", "busybox", "true", tls=True)
        until(lambda: speaks(target), "a host with a token is heard", 20)


def test_a_crowd_that_is_let_in_leaves_room_for_the_rest(target: Target) -> None:
    """Clients that hold connections open: one more is told so, and what is under way goes on."""
    most = places_of_daemon()
    with contextlib.ExitStack() as open_ones:
        for _ in range(most):
            open_ones.enter_context(target.local())
        status, body = until(lambda: refused if (refused := target.ask("GET", "/_ping"))[0] == 503 else None, "a 503")
        assert "too many connections" in body["message"]
        assert status == 503 and target.log().count("more are refused until some are closed") == 1
    until(lambda: target.ask("GET", "/_ping") == (200, "OK"), "the place of those that went")


def places_of_daemon() -> int:
    """How many connections its API takes; it has raised its own limit to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return places(*API_PLACES)


def speaks(target: Target) -> bool:
    """Whether a manager's port answers one who has a token."""
    try:
        with joiner(target) as connection:
            return connection.recv(9)[3:4] == b"\x04"       # the SETTINGS that HTTP/2 begins with (RFC 9113, 3.4)
    except OSError:
        return False


def joiner(target: Target) -> ssl.SSLSocket:
    """TLS to the swarm's port, as a host that holds the token of workers."""
    token = target.docker("swarm", "join-token", "-q", "worker")
    credential = joiner_credential(JoinToken.parse(token))
    file = target.root / "joiner.pem"
    file.write_bytes(credential.key + credential.certificate)
    context = anybody(file)
    context.set_alpn_protocols(["h2"])
    return target.over_tls(context, SWARM_PORT)


# ------------------------------------------------------------------------------------------------------ the API


def test_requests_that_never_end_keep_nobody_waiting(target: Target) -> None:
    body = b"POST /containers/create HTTP/1.1\r\nContent-Length: 99\r\n\r\n{"
    halves = (b"G", b"GET /_ping HTTP/1.1\r\nHost: x\r\nX-", body)
    context = target.client_tls()
    with contextlib.ExitStack() as open_ones:
        for number in range(90):
            connection = open_ones.enter_context(target.over_tls(context) if number % 3 else target.local())
            connection.sendall(halves[number % len(halves)])
        assert target.ask("GET", "/_ping") == (200, "OK")
        assert target.docker("version", "--format", "{{.Server.Version}}", tls=True)


DEEP = b"[" * 100_000
ENDLESS = b"a" * (17 * MIB)
CHUNKED = b"POST /containers/create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status", "word"),
    [
        (b"GET /_ping HTTP/1.1\r\nX-Long: " + b"a" * MIB + b"\r\n\r\n", 400, ""),
        (b"GET /_ping HTTP/1.1\r\n" + b"X-Many: a\r\n" * 50_000 + b"\r\n", 400, ""),
        (b"GET /" + b"a" * MIB + b" HTTP/1.1\r\n\r\n", 400, ""),
        (b"GET /_ping HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, ""),
        (b"GET /_ping HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 400, ""),
        (b"\x00\xff\x16\x03 nonsense\r\n\r\n", 400, ""),
        (b"POST /containers/create HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + DEEP, 400, "nests"),
        (b'POST /containers/create HTTP/1.1\r\nContent-Length: 4506\r\n\r\n{"A":' + b'{"a":' * 900 + b"1", 400, ""),
        (b"POST /containers/create HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(ENDLESS) + ENDLESS, 413, "too large"),
        (CHUNKED + b"%x\r\n" % len(ENDLESS) + ENDLESS, 413, ""),
        (b"GET /containers/json?filters=" + b"%5B" * 2000 + b" HTTP/1.1\r\n\r\n", 400, ""),
        (b"GET /images/json HTTP/1.1\r\nX-Registry-Auth: W1tb\r\n\r\n", 200, ""),
        (b"GET /containers/json?limit=" + b"9" * 5000 + b" HTTP/1.1\r\n\r\n", 400, "limit"),
        (b"GET /containers/" + b"%2e%2e%2f" * 20 + b"etc%2fpasswd/json HTTP/1.1\r\n\r\n", 404, ""),
    ],
    ids=[
        "long header", "many headers", "long path", "negative length", "two lengths", "no HTTP", "deep JSON",
        "JSON that does not end", "large body", "large chunk", "deep filters", "no credentials", "large number", "path",
    ],
)  # fmt: skip
def test_malformed_and_huge_requests_are_refused(target: Target, request_bytes: bytes, status: int, word: str) -> None:
    before = target.memory()
    with target.local() as connection:
        with contextlib.suppress(ConnectionError):      # it has been answered before it was through
            connection.sendall(request_bytes.replace(b"\r\n", b"\r\nHost: x\r\n", 1))
        said, body = answer(connection)
    assert said == status and word in str(body), body
    assert target.memory() - before < 64 * MIB
    assert target.ask("GET", "/_ping") == (200, "OK")


def test_a_client_that_reads_nothing_is_made_to_wait(target: Target) -> None:
    """What it sends to a program that answers goes no further than the buffers on the way."""
    box = target.docker("create", "-i", "busybox", "cat")
    before = target.memory()
    with target.local() as connection:
        connection.sendall(
            f"POST /containers/{box}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode()
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 101")
        assert target.ask("POST", f"/containers/{box}/start")[0] == 204
        sent = sent_until_blocked(connection)
        assert 64 << 10 < sent < 16 * MIB
        assert target.memory() - before < 32 * MIB
    target.docker("rm", "-f", box)


def sent_until_blocked(connection: socket.socket) -> int:
    """How many bytes go until none goes for a second."""
    connection.settimeout(1.0)
    sent, piece = 0, bytes(1 << 16)
    while sent < 256 * MIB:
        try:
            sent += connection.send(piece)
        except TimeoutError:
            break
    return sent


def test_who_follows_and_reads_nothing_costs_little(target: Target) -> None:
    before = target.memory()
    with contextlib.ExitStack() as open_ones:
        for _ in range(50):
            connection = open_ones.enter_context(target.local())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            connection.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        for number in range(100):
            status, _ = target.ask("POST", f"/images/busybox/tag?repo=tag{number % 2}")
            assert status == 201
        assert target.memory() - before < 32 * MIB
    for number in range(2):
        target.ask("DELETE", f"/images/tag{number}")


# ------------------------------------------------------------------------------------------------- certificates


@pytest.fixture(scope="module")
def bad_certificates(target: Target) -> dict[str, tuple[Path, str]]:
    """Of clients that are to be kept out: key and certificate in a file, and the word that says why."""
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(1)
    ours, theirs = target.authority, Keys(["127.0.0.1"])
    made = {}
    for name, authority, start, end, why in (
        ("stranger", theirs, now - day, now + day, "unknown ca|decrypt error"),
        ("expired", ours, now - 2 * day, now - day, "expired"),
        ("early", ours, now + day, now + 2 * day, "bad certificate|unknown|expired"),
    ):
        key = new_key()
        certificate = authority.sign(name, key.public_key(), start, end)
        file = target.root / f"{name}.pem"
        file.write_bytes(key_pem(key) + certificate)
        made[name] = file, why
    return made


@pytest.mark.parametrize("port", [API_PORT, SWARM_PORT], ids=["api", "swarm"])
@pytest.mark.parametrize("name", ["stranger", "expired", "early"])
def test_certificates_that_do_not_hold(
    target: Target, bad_certificates: dict[str, tuple[Path, str]], name: str, port: int
) -> None:
    file, why = bad_certificates[name]
    with pytest.raises((ssl.SSLError, ConnectionError)) as refused, target.over_tls(anybody(file), port) as connection:
        connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        if connection.recv(1) == b"":
            raise ConnectionResetError("closed without a word")
    if port == API_PORT:
        assert isinstance(refused.value, ssl.SSLError) and re.search(why, str(refused.value).lower()), refused.value


@pytest.mark.parametrize("port", [API_PORT, SWARM_PORT], ids=["api", "swarm"])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_of_tls(target: Target, version: ssl.TLSVersion, port: int) -> None:
    context = anybody(None)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with pytest.raises(ssl.SSLError, match=r"(?i)version" if port == API_PORT else "EOF"):     # gRPC just closes
        target.over_tls(context, port)


@pytest.mark.parametrize("port", [API_PORT, SWARM_PORT], ids=["api", "swarm"])
def test_plain_text_on_a_port_of_tls(target: Target, port: int) -> None:
    for words in (b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n", PREFACE):
        with target.connect(port) as connection:
            connection.sendall(words)
            said = b""
            with contextlib.suppress(ConnectionError):
                while piece := connection.recv(4096):
                    said += piece
            assert b"200" not in said and said[:1] in (b"", b"\x15")      # an alert (RFC 8446, 6)


def anybody(file: Path | None) -> ssl.SSLContext:
    """A client that believes every server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if file is not None:
        context.load_cert_chain(file)
    return context


# -------------------------------------------------------------------------------------------------------- HTTP/2

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 1, 3, 4, 6, 9       # RFC 9113, 6


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


BEGIN = PREFACE + frame(SETTINGS, 0, 0)
GET = b"\x82\x86\x84"                    # :method GET, :scheme http, :path / (RFC 7541, appendix A)


@pytest.mark.parametrize(
    "words",
    [
        bytes(range(256)) * 64,
        BEGIN + frame(HEADERS, 4, 1, length=(1 << 24) - 1) + bytes(1 << 16),
        BEGIN + frame(HEADERS, 0, 1, GET) + frame(CONTINUATION, 0, 1, b"\x00\x01a\x7f\x80\x7d" + b"a" * 16250) * 500,
        BEGIN + b"".join(frame(HEADERS, 5, s, GET) + frame(RST_STREAM, 0, s, b"\0\0\0\x08") for s in range(1, 9999, 2)),
        BEGIN + frame(PING, 0, 0, bytes(8)) * 20_000,
        BEGIN + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)) * 20_000,
        BEGIN + frame(77, 255, 0x7FFFFFFF, b"?" * 100) * 1000,
    ],
    ids=["noise", "frame too long", "endless headers", "rapid reset", "pings", "settings", "unknown frames"],
)  # fmt: skip
def test_malformed_http2_ends_its_own_connection(target: Target, words: bytes) -> None:
    before = target.memory()
    with joiner(target) as connection:
        connection.settimeout(1.0)
        with contextlib.suppress(OSError):      # it hangs up, or has nothing to say
            connection.sendall(words)
            while connection.recv(1 << 16):
                continue
        assert target.memory() - before < 64 * MIB
    assert speaks(target)


def test_malformed_and_huge_messages_are_refused_by_every_method(tmp_path: Path) -> None:
    """With a manager's certificate, so that they are read at all."""

    async def story() -> None:
        async with hosts(tmp_path, 2, 78) as (leader, other):
            await leader.init()
            await other.join(leader, NodeRole.MANAGER)
            identity = NodeIdentity.load(other.directory / "certificates")
            async with reckless(identity, leader.addr) as channel:
                for method in METHODS:
                    code, why = await refusal(channel, method, b"\xff\xff\xff")
                    assert code is grpc.StatusCode.INVALID_ARGUMENT, f"{method}: {code} {why}"
                for method in ("/swarmpy.v1.CA/Issue", "/swarmpy.v1.Dispatcher/Session"):      # of one request, of many
                    code, why = await refusal(channel, method, bytes(MESSAGE_LIMIT_BYTES + 1))
                    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED, f"{method}: {code} {why}"
            assert leader.active

    asyncio.run(story())


# -------------------------------------------------------------------------------------------------------- tokens


def test_tokens_that_do_not_hold(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 4, 79) as (leader, stranger, guest, late):
            await leader.init()
            await stranger.init()
            old = leader.token(NodeRole.WORKER)
            for token, kind, word in (
                ("SWMTKN-1-nonsense", InvalidArgument, "SWMTKN-1-<digest>-<secret>"),
                (old[:-1], InvalidArgument, "secret in the join token is damaged"),
                (old[:-3] + ("000" if old[-3:] != "000" else "111"), Forbidden, "rotated or mistyped"),
                (stranger.token(NodeRole.WORKER), Forbidden, "another swarm"),
            ):
                with pytest.raises(kind, match=word) as refused:
                    await guest.join(leader, token=token)
                assert old[-25:] not in str(refused.value) and token[-25:] not in str(refused.value)
            await guest.join(leader, token=old)
            assert leader.manager.store.nodes[guest.id].role == NodeRole.WORKER
            await rotate(leader)
            with pytest.raises(Forbidden, match="rotated or mistyped"):
                await late.join(leader, token=old)
            await late.join(leader, token=leader.token(NodeRole.WORKER))

    asyncio.run(story())


async def rotate(leader: Host) -> None:
    cluster = leader.manager.store.cluster
    assert cluster is not None
    request = UpdateClusterRequest(version=cluster.meta.version, spec=cluster.spec, rotate_worker_token=True)
    await leader.manager.control.update_cluster(request)
