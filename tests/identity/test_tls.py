"""Mutual TLS between real servers and channels: who gets in, and as whom."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from swarmpy.errors import Forbidden, Unavailable
from swarmpy.identity import JoinToken, KeyPair, NodeIdentity, Peer, PeerGuard, new_key, peer_of
from swarmpy.identity.certificates import (
    MANAGER_NAME,
    key_pem,
    load_certificate,
    load_key,
    pem,
    signing_request,
    subject_name,
)
from swarmpy.identity.join_credential import join_root, joiner_credential
from swarmpy.identity.joining import join_swarm, renew
from swarmpy.identity.node_identity import ASK_AFTER_S, SERVER_OPTIONS, open_channel
from swarmpy.rpc.ca_pb2 import IssueRequest, IssueResponse
from swarmpy.rpc.ca_pb2_grpc import CAServicer, CAStub, add_CAServicer_to_server
from swarmpy.rpc.types_pb2 import NodeRole, NodeSpec
from tests.identity.swarm import DAY_NS, Swarm
from tests.tcp_way import way_to


class Recorder(CAServicer):
    """Issues to every node and joiner, and notes who asked."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm = swarm
        self.peers: list[Peer] = []
        self.leader: str | None = None

    async def Issue(self, request: IssueRequest, context: grpc.aio.ServicerContext[Any, Any]) -> IssueResponse:  # noqa: N802
        if self.leader:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not the leader", (("leader-addr", self.leader),))
        peer = peer_of(context)
        self.peers.append(peer)
        csr = x509.load_pem_x509_csr(request.csr)
        role = peer.role if peer.role is not None else peer.join_role
        assert role is not None
        leaf = self.swarm.root.issue(
            csr.public_key(),  # type: ignore[arg-type]  # the test's own requests are P-256
            node_id=peer.node_id or "fresh",
            role=role,
            swarm_id="swarm-1",
            now_ns=self.swarm.clock(),
            lifetime_ns=DAY_NS,
        )
        return IssueResponse(certificate=pem(leaf), root_ca=pem(self.swarm.root.certificate))


@asynccontextmanager
async def manager(
    swarm: Swarm, directory: Path, *, clock: Callable[[], int] = time.time_ns, role: NodeRole = NodeRole.MANAGER
) -> AsyncIterator[tuple[str, Recorder, NodeIdentity]]:
    identity, recorder = swarm.node(directory, f"m-{id(object())}", role), Recorder(swarm)
    server = grpc.aio.server(interceptors=[PeerGuard(identity, swarm.join_roots, clock)], options=SERVER_OPTIONS)
    add_CAServicer_to_server(recorder, server)
    port = server.add_secure_port("127.0.0.1:0", identity.server_credentials(lambda: swarm.join_roots().pem))
    await server.start()
    try:
        yield f"127.0.0.1:{port}", recorder, identity
    finally:
        await server.stop(None)


async def ask(addr: str, credential: KeyPair, swarm: Swarm) -> grpc.StatusCode:
    async with open_channel(addr, credential, pem(swarm.root.certificate)) as channel:
        try:
            await CAStub(channel).Issue(IssueRequest(csr=_csr()), timeout=5)
        except grpc.aio.AioRpcError as failure:
            return failure.code()
        return grpc.StatusCode.OK


def _csr() -> bytes:
    return signing_request(new_key())


def slow_way(addr: str, pause_s: float) -> AbstractAsyncContextManager[str]:
    """An address that leads to `addr`, where each piece from either side takes a while."""
    return way_to(addr, lambda: asyncio.sleep(pause_s))


def test_a_machine_whose_handshakes_take_seconds_joins_and_renews(tmp_path: Path) -> None:
    async def scenario() -> None:
        swarm = Swarm()
        async with manager(swarm, tmp_path) as (addr, _, _), slow_way(addr, 0.4) as slow:
            issued = await join_swarm(swarm.worker_token, [slow], NodeSpec.ACTIVE)
            identity = NodeIdentity.create(tmp_path / "joined", issued)
            await renew(identity, [slow])

    asyncio.run(scenario())


def test_a_session_of_a_busy_machine_has_time_to_shake_hands(tmp_path: Path) -> None:
    async def scenario() -> None:
        swarm = Swarm()
        async with manager(swarm, tmp_path) as (addr, recorder, _), slow_way(addr, 0.25) as slow:
            async with swarm.node(tmp_path, "w1", NodeRole.WORKER).session_channel(slow, ASK_AFTER_S) as channel:
                await CAStub(channel).Issue(IssueRequest(csr=_csr()), timeout=5)
            assert recorder.peers == [Peer("w1", NodeRole.WORKER)]

    asyncio.run(scenario())


def test_nodes_are_who_their_certificate_says(tmp_path: Path) -> None:
    async def scenario() -> None:
        swarm = Swarm()
        async with manager(swarm, tmp_path) as (addr, recorder, _):
            for name, role in (("w1", NodeRole.WORKER), ("m2", NodeRole.MANAGER)):
                async with swarm.node(tmp_path, name, role).channel(addr) as channel:
                    await CAStub(channel).Issue(IssueRequest(csr=_csr()), timeout=5)
            assert recorder.peers == [Peer("w1", NodeRole.WORKER), Peer("m2", NodeRole.MANAGER)]

    asyncio.run(scenario())


@pytest.mark.parametrize("role", [NodeRole.WORKER, NodeRole.MANAGER])
def test_a_token_joins_with_its_role(tmp_path: Path, role: NodeRole) -> None:
    async def scenario() -> None:
        swarm = Swarm()
        token = swarm.manager_token if role == NodeRole.MANAGER else swarm.worker_token
        async with manager(swarm, tmp_path) as (addr, recorder, _):
            issued = await join_swarm(token, ["127.0.0.1:1", addr], NodeSpec.ACTIVE)
            assert recorder.peers == [Peer("", None, role)]
            joined = NodeIdentity.create(tmp_path / "joined", issued)
            assert (joined.node_id, joined.role, joined.root_ca) == ("fresh", role, swarm.root.certificate)
            renewed = await renew(joined, [addr])
            assert recorder.peers[-1] == Peer("fresh", role)
            assert renewed.key != issued.key

    asyncio.run(scenario())


def test_a_joiner_follows_to_the_leader(tmp_path: Path) -> None:
    async def scenario() -> None:
        swarm = Swarm()
        async with manager(swarm, tmp_path) as (leader, recorder, _), manager(swarm, tmp_path) as (other, follower, _):
            follower.leader = leader
            await join_swarm(swarm.worker_token, [other], NodeSpec.ACTIVE)
            assert len(recorder.peers) == 1

    asyncio.run(scenario())


def test_wrong_tokens_are_told_apart_from_silence(tmp_path: Path) -> None:
    async def scenario() -> None:
        swarm, stranger = Swarm(), Swarm()
        async with manager(swarm, tmp_path) as (addr, _, _):
            with pytest.raises(Forbidden, match=f"{addr} belongs to another swarm"):
                await join_swarm(stranger.worker_token, [addr], NodeSpec.ACTIVE)
            old = swarm.worker_token
            swarm.rotate()
            with pytest.raises(Forbidden, match=f"{addr} refused this join token: it was rotated"):
                await join_swarm(old, [addr], NodeSpec.ACTIVE)
            await join_swarm(swarm.worker_token, [addr], NodeSpec.ACTIVE)
        with pytest.raises(Unavailable, match=r"no manager answers at 127\.0\.0\.1:1"):
            await join_swarm(swarm.worker_token, ["127.0.0.1:1"], NodeSpec.ACTIVE)

    asyncio.run(scenario())


def test_a_rotated_token_ends_on_connections_that_are_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        swarm = Swarm()
        async with manager(swarm, tmp_path) as (addr, _, _):
            credential = joiner_credential(swarm.worker_token)
            async with open_channel(addr, credential, pem(swarm.root.certificate)) as channel:
                await CAStub(channel).Issue(IssueRequest(csr=_csr()), timeout=5)
                swarm.rotate()
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await CAStub(channel).Issue(IssueRequest(csr=_csr()), timeout=5)
                assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(scenario())


def test_the_worker_token_cannot_forge_a_manager(tmp_path: Path) -> None:
    """Whoever holds the worker token can sign any certificate with the join root; none of it is believed."""

    async def scenario() -> None:
        swarm = Swarm()
        async with manager(swarm, tmp_path) as (addr, recorder, _):
            forged = swarm.issued("m1", NodeRole.MANAGER, issuer=join_root(swarm.worker_token))
            assert await ask(addr, KeyPair(forged.certificate, forged.key), swarm) == grpc.StatusCode.OK
            assert recorder.peers == [Peer("", None, NodeRole.WORKER)]

    asyncio.run(scenario())


def test_a_worker_cannot_pose_as_a_manager(tmp_path: Path) -> None:
    async def scenario() -> None:
        swarm = Swarm()
        async with manager(swarm, tmp_path, role=NodeRole.WORKER) as (addr, recorder, _):
            client = swarm.issued("w1", NodeRole.WORKER)
            assert await ask(addr, KeyPair(client.certificate, client.key), swarm) == grpc.StatusCode.UNAVAILABLE
            assert not recorder.peers

    asyncio.run(scenario())


def test_certificates_of_others_do_not_get_in(tmp_path: Path) -> None:
    async def scenario() -> None:
        swarm, stranger = Swarm(), Swarm()
        worker_key, worker = new_key(), swarm.issued("w1", NodeRole.WORKER)
        by_worker = _sign_with_leaf(worker.certificate, worker.key, worker_key.public_key())
        async with manager(swarm, tmp_path) as (addr, recorder, _):
            manager_elsewhere = stranger.issued("m1", NodeRole.MANAGER)
            for credential in (
                KeyPair(manager_elsewhere.certificate, manager_elsewhere.key),
                joiner_credential(JoinToken(bytes(32), bytes(16))),
            ):
                assert await ask(addr, credential, swarm) == grpc.StatusCode.UNAVAILABLE
            chain = KeyPair(by_worker + worker.certificate, key_pem(worker_key))
            assert await ask(addr, chain, swarm) == grpc.StatusCode.UNAVAILABLE
            assert not recorder.peers

    asyncio.run(scenario())


def test_an_expired_certificate_ends_on_connections_that_are_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        now = time.time_ns()
        swarm = Swarm()
        late = [now]
        async with manager(swarm, tmp_path, clock=lambda: late[0]) as (addr, recorder, _):
            async with swarm.node(tmp_path, "w1").channel(addr) as channel:
                await CAStub(channel).Issue(IssueRequest(csr=_csr()), timeout=5)
                late[0] = now + 2 * DAY_NS
                with pytest.raises(grpc.aio.AioRpcError, match="expired"):
                    await CAStub(channel).Issue(IssueRequest(csr=_csr()), timeout=5)
            assert len(recorder.peers) == 1

    asyncio.run(scenario())


def test_a_renewed_manager_serves_with_its_new_certificate(tmp_path: Path) -> None:
    async def scenario() -> None:
        swarm = Swarm()
        async with manager(swarm, tmp_path) as (addr, _, identity):
            first = await asyncio.to_thread(_presented, addr)
            await identity.install(swarm.issued(identity.node_id, NodeRole.MANAGER))
            second = await asyncio.to_thread(_presented, addr)
            assert first != second == identity.certificate

    asyncio.run(scenario())


def test_peers_are_judged_by_admission(tmp_path: Path) -> None:
    async def scenario() -> None:
        swarm = Swarm()

        def admit(peer: Peer, method: str) -> Peer:
            assert method == "/swarmpy.v1.CA/Issue"
            raise Forbidden("node w1 was removed")

        identity, recorder = swarm.node(tmp_path, "m1", NodeRole.MANAGER), Recorder(swarm)
        server = grpc.aio.server(interceptors=[PeerGuard(identity, swarm.join_roots, time.time_ns, admit)])
        add_CAServicer_to_server(recorder, server)
        port = server.add_secure_port("127.0.0.1:0", identity.server_credentials(lambda: b""))
        await server.start()
        async with swarm.node(tmp_path, "w1").channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError, match="was removed") as caught:
                await CAStub(channel).Issue(IssueRequest(), timeout=5)
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
        await server.stop(None)

    asyncio.run(scenario())


def test_without_a_guard_nobody_is_believed(tmp_path: Path) -> None:
    async def scenario() -> None:
        swarm = Swarm()
        identity, refused = swarm.node(tmp_path, "m1", NodeRole.MANAGER), []

        class Open(CAServicer):
            async def Issue(self, request: IssueRequest, context: grpc.aio.ServicerContext[Any, Any]) -> IssueResponse:  # noqa: N802
                with pytest.raises(Forbidden):
                    peer_of(context)
                refused.append(1)
                return IssueResponse()

        server = grpc.aio.server()
        add_CAServicer_to_server(Open(), server)
        port = server.add_secure_port("127.0.0.1:0", identity.server_credentials(lambda: b""))
        await server.start()
        async with swarm.node(tmp_path, "w1").channel(f"127.0.0.1:{port}") as channel:
            await CAStub(channel).Issue(IssueRequest(), timeout=5)
        assert refused == [1]
        await server.stop(None)

    asyncio.run(scenario())


def _sign_with_leaf(certificate: bytes, key: bytes, public_key: Any) -> bytes:
    """A manager's certificate signed by a worker's key, which no one allowed it to sign."""
    now = datetime.datetime.now(datetime.UTC)
    return pem(
        x509.CertificateBuilder()
        .subject_name(subject_name("m1", "swarm-manager"))
        .issuer_name(load_certificate(certificate).subject)
        .public_key(public_key)
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(MANAGER_NAME)]), critical=False)
        .sign(load_key(key), hashes.SHA256())
    )


def _presented(addr: str) -> x509.Certificate:
    host, port = addr.split(":")
    return x509.load_pem_x509_certificate(ssl.get_server_certificate((host, int(port))).encode())
