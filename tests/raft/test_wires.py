"""Wires: frames over real TLS, who may open one, and what happens where none can be opened."""

from __future__ import annotations

import asyncio
import functools
import itertools
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarmpy.errors import Conflict, InvalidArgument
from swarmpy.identity import Lock, NodeIdentity, create_root
from swarmpy.identity.certificates import pem
from swarmpy.identity.join_credential import join_root
from swarmpy.manager.raft.handshake import Refused, dial
from swarmpy.manager.raft.listener import WireListener
from swarmpy.manager.raft.options import MAX_ENTRY_BYTES
from swarmpy.manager.raft.peers import Peers
from swarmpy.manager.raft.service import Hello, RaftService, Ticket
from swarmpy.manager.raft.wire import FRAME_LIMIT_BYTES, Broken, Incoming, Outgoing
from swarmpy.manager.raft.wires import Wires
from swarmpy.rpc.raft_pb2 import RaftBatch, RaftDone
from swarmpy.rpc.raft_pb2_grpc import RaftStub
from swarmpy.rpc.types_pb2 import NodeRole
from tests.identity.swarm import Swarm
from tests.raft.cluster import FAST, Cluster, until

# Messages over gRPC wait for the event loop, which on a busy machine stands still for longer than FAST allows.
PATIENT = replace(FAST, election_ticks=50)


def run(scenario: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


@contextmanager
def pair(directory: Path) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """Two ends of a TLS connection between managers, both non-blocking: the dialler's and the listener's."""
    swarm = Swarm()
    one, other = (swarm.node(directory, name, NodeRole.MANAGER) for name in ("one", "other"))
    accepted: list[ssl.SSLSocket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(
            target=lambda: accepted.append(other.server_tls().wrap_socket(listening.accept()[0], server_side=True))
        )
        thread.start()
        plain = socket.create_connection(listening.getsockname())
        dialled = one.client_tls().wrap_socket(plain, server_hostname="swarmpy-manager")
        thread.join()
    for end in (dialled, accepted[0]):
        end.setblocking(False)
    with dialled, accepted[0]:
        yield dialled, accepted[0]


def received(wire: Incoming, count: int, meanwhile: Callable[[], None] = lambda: None) -> list[bytes]:
    """The next `count` messages, however they are cut up on the way."""
    messages: list[bytes] = []
    while len(messages) < count:
        meanwhile()
        messages += wire.receive()
        assert not wire.ended, wire.ended
    return messages


class TestFrames:
    def test_messages_of_all_sizes_arrive_whole_and_in_order(self, tmp_path: Path) -> None:
        sent = [bytes([size % 251]) * size for size in (0, 1, 3, 300, 16_384, 16_385, 70_000, 3_000_000, 5)]
        with pair(tmp_path) as (one, other):
            outgoing, incoming = Outgoing(2, one), Incoming(1, other)
            for message in sent:
                assert outgoing.send(message)
            assert received(incoming, len(sent), outgoing.flush) == sent
            assert not outgoing.waiting

    def test_what_a_peer_does_not_read_is_bounded_and_then_refused(self, tmp_path: Path) -> None:
        with pair(tmp_path) as (one, other):
            outgoing, incoming = Outgoing(2, one), Incoming(1, other)
            taken = 0
            while outgoing.send(bytes(1 << 20)):
                taken += 1
                assert taken < 100
            assert outgoing.waiting
            assert len(received(incoming, taken, outgoing.flush)) == taken
            assert outgoing.send(b"again")
            assert received(incoming, 1) == [b"again"]

    def test_messages_before_the_end_are_not_lost_with_it(self, tmp_path: Path) -> None:
        with pair(tmp_path) as (one, other):
            outgoing, incoming = Outgoing(2, one), Incoming(1, other)
            outgoing.send(b"last words")
            outgoing.close()
            messages: list[bytes] = []
            while not incoming.ended:
                messages += incoming.receive()
            assert messages == [b"last words"]

    def test_a_frame_beyond_all_measure_ends_the_wire_before_it_takes_memory(self, tmp_path: Path) -> None:
        with pair(tmp_path) as (one, other):
            incoming = Incoming(1, other)
            one.send((FRAME_LIMIT_BYTES + 1).to_bytes(4, "little"))
            while not incoming.ended:
                assert incoming.receive() == []
            assert "longer than any message" in incoming.ended

    def test_the_sender_notices_the_end(self, tmp_path: Path) -> None:
        with pair(tmp_path) as (one, other):
            outgoing = Outgoing(2, one)
            outgoing.check()
            other.close()
            with pytest.raises(Broken):
                while True:
                    outgoing.check()

    def test_the_bell_wakes_and_wires_tell_who_sent(self, tmp_path: Path) -> None:
        with pair(tmp_path) as (one, other):
            here, there = Wires(), Wires()
            here.add(Outgoing(7, one))
            there.add(Incoming(5, other))
            there.ring()
            assert there.wait(60) == []
            assert here.can_reach(7)
            assert here.send(7, b"x")
            assert there.wait(60) == [(5, [b"x"])]
            there.drop_all()
            while here.can_reach(7):
                here.wait(60)
            assert here.take_broken() == [7]
            for wires in (here, there):
                wires.drop_all()
                wires.close()


class Door:
    """A listener of the manager `me`, and what it let in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.swarm = Swarm()
        self.arrived: list[Incoming] = []
        self.objection: str | None = None
        self.listener = WireListener(self.node("me"), lambda member: self.objection, self.arrived.append)

    def node(self, name: str, role: NodeRole = NodeRole.MANAGER) -> NodeIdentity:
        return self.swarm.node(self.directory, name, role)

    async def __aenter__(self) -> Door:
        self.listener.open("127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        for wire in self.arrived:
            wire.close()
        await self.listener.close()

    async def dial(self, identity: NodeIdentity, ticket: bytes) -> ssl.SSLSocket:
        return await dial("127.0.0.1", self.listener.port, identity.client_tls(), ticket)

    async def refuses(self, identity: NodeIdentity, ticket: bytes) -> None:
        arrived = len(self.arrived)
        with pytest.raises((OSError, Refused)):
            await self.dial(identity, ticket)
        assert len(self.arrived) == arrived

    async def admits(self, identity: NodeIdentity, ticket: bytes, member: int) -> None:
        arrived = len(self.arrived)
        wire = await self.dial(identity, ticket)
        await until(lambda: len(self.arrived) == arrived + 1, "the wire")
        assert self.arrived[-1].member == member
        wire.close()

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        """A bare connection, blocking."""
        return socket.create_connection(("127.0.0.1", self.listener.port), 20, source_address=(source, 0))


async def closed_on(connection: socket.socket) -> None:
    """Return once the other end has closed it."""
    with suppress(ConnectionResetError):
        while await asyncio.to_thread(connection.recv, 4096):
            pass    # an alert


class TestAdmission:
    """A ticket, and the certificate of the manager it was given to."""

    def test_who_gets_in(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with Door(tmp_path) as door:
                ticket = door.listener.issue(7, "friend")
                friend, other = door.node("friend"), door.node("other")
                await door.admits(friend, ticket, 7)
                await door.refuses(friend, bytes(32))                                # no ticket
                await door.refuses(friend, ticket[:31])                              # a part of one
                await door.refuses(other, ticket)                                    # another manager's
                await door.refuses(door.node("worker", NodeRole.WORKER), door.listener.issue(8, "worker"))
                stranger = Swarm().node(tmp_path / "elsewhere", "friend", NodeRole.MANAGER)
                await door.refuses(stranger, ticket)                                 # of another swarm
                door.listener.revoke(ticket)
                await door.refuses(friend, ticket)                                   # its stream has ended

        run(scenario())

    def test_a_certificate_that_has_expired_opens_nothing(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with Door(tmp_path) as door:
                late = NodeIdentity.create(
                    tmp_path / "late", door.swarm.issued("late", NodeRole.MANAGER, lifetime_ns=-1)
                )
                await door.refuses(late, door.listener.issue(7, "late"))

        run(scenario())

    def test_a_certificate_signed_with_a_join_token_opens_nothing(self, tmp_path: Path) -> None:
        """It lets its holder ask for a certificate on the swarm's port; here it is nobody's."""

        async def scenario() -> None:
            async with Door(tmp_path) as door:
                root = join_root(door.swarm.manager_token)
                forged = door.swarm.issued("friend", NodeRole.MANAGER, issuer=root)
                (tmp_path / "forged").write_bytes(forged.key + forged.certificate)
                tls = door.node("friend").client_tls()
                tls.load_cert_chain(tmp_path / "forged")
                with pytest.raises((OSError, Refused)):
                    await dial("127.0.0.1", door.listener.port, tls, door.listener.issue(7, "friend"))
                assert door.arrived == []

        run(scenario())

    def test_who_has_no_certificate_or_an_old_tls_is_refused(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with Door(tmp_path) as door:
                friend = door.node("friend")
                ticket = door.listener.issue(7, "friend")
                nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                nobody.load_verify_locations(cadata=friend.root_ca_pem.decode())
                old = friend.client_tls()
                old.minimum_version = ssl.TLSVersion.TLSv1_2
                old.maximum_version = ssl.TLSVersion.TLSv1_2
                for tls in (nobody, old):
                    with pytest.raises((OSError, Refused)):
                        await dial("127.0.0.1", door.listener.port, tls, ticket)
                assert door.arrived == []

        run(scenario())

    def test_a_member_that_was_removed_is_refused_with_its_ticket(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with Door(tmp_path) as door:
                friend, ticket = door.node("friend"), door.listener.issue(7, "friend")
                door.objection = "raft member 7 was removed"
                await door.refuses(friend, ticket)

        run(scenario())

    @pytest.mark.parametrize("greeting", [b"", b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096])
    def test_who_does_not_shake_hands_is_put_out_in_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, greeting: bytes
    ) -> None:
        monkeypatch.setattr("swarmpy.manager.raft.handshake.PATIENCE_S", 0.3)

        async def scenario() -> None:
            async with Door(tmp_path) as door:
                with door.connect() as mute:
                    mute.sendall(greeting)
                    await closed_on(mute)
                monkeypatch.undo()
                await door.admits(door.node("friend"), door.listener.issue(7, "friend"), 7)

        run(scenario())

    def test_who_never_shows_a_ticket_is_put_out_in_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("swarmpy.manager.raft.handshake.PATIENCE_S", 1.0)

        async def scenario() -> None:
            async with Door(tmp_path) as door:
                tls = door.node("friend").client_tls()

                def wait_for_the_end() -> None:
                    with door.connect() as plain, tls.wrap_socket(plain, server_hostname="swarmpy-manager") as wire:
                        assert wire.recv(1) == b""

                with suppress(ssl.SSLError, ConnectionError):
                    await asyncio.to_thread(wait_for_the_end)
                assert door.arrived == []

        run(scenario())

    def test_one_host_cannot_take_all_the_places(self, tmp_path: Path) -> None:
        """Connections that say nothing; a member on another host, and then on the same, gets in."""

        async def scenario() -> None:
            async with Door(tmp_path) as door, AsyncExitStack() as stack:
                silent = [stack.enter_context(door.connect("127.0.0.9")) for _ in range(100)]
                await asyncio.gather(*(closed_on(one) for one in silent[8:]))
                await door.admits(door.node("friend"), door.listener.issue(7, "friend"), 7)
                await asyncio.gather(*(closed_on(one) for one in silent[:8]))    # their time is over
                with door.connect("127.0.0.9") as another:
                    tls = door.node("other").client_tls()
                    wrap = functools.partial(tls.wrap_socket, another, server_hostname="swarmpy-manager")
                    (await asyncio.to_thread(wrap)).close()

        run(scenario())

    def test_a_worker_cannot_pose_as_the_listener(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            swarm = Swarm()
            worker = swarm.node(tmp_path, "worker", NodeRole.WORKER)
            listener = WireListener(worker, lambda member: None, lambda wire: wire.close())
            listener.open("127.0.0.1", 0)
            manager = swarm.node(tmp_path, "manager", NodeRole.MANAGER)
            with pytest.raises(ssl.SSLCertVerificationError):
                await dial("127.0.0.1", listener.port, manager.client_tls(), listener.issue(1, "manager"))
            await listener.close()

        run(scenario())

    def test_a_port_that_is_taken_is_replaced_by_a_free_one(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            with socket.create_server(("127.0.0.1", 0)) as taken:
                port = int(taken.getsockname()[1])
                door = Door(tmp_path)
                door.listener.open("127.0.0.1", port)
                assert door.listener.port not in (0, port)
                await door.listener.close()

        run(scenario())

    def test_an_address_of_another_host_gives_no_port_and_no_failure(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            door = Door(tmp_path)
            door.listener.open("192.0.2.1", 7946)
            assert door.listener.port == 0
            await door.listener.close()

        run(scenario())


@pytest.mark.parametrize("port", ["", "x", "-1", "65536"])
def test_a_ticket_to_no_port_is_none(port: str) -> None:
    assert Ticket.of([("raft-wire-port", port), ("raft-wire-ticket", "00" * 32)]) is None
    assert Ticket.of([("raft-wire-port", "7946"), ("raft-wire-ticket", "00" * 32)]) == Ticket(7946, bytes(32))


class TestClusters:
    def test_messages_travel_by_wire(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario() -> None:
            async with Cluster(tmp_path) as cluster:
                leader = await cluster.grow(3)
                await leader.log.propose(b"by now there are wires")
                by_grpc: list[object] = []
                for member in cluster.members.values():
                    monkeypatch.setattr(member.log._peers, "received", lambda *came: by_grpc.append(came))
                await asyncio.gather(*(leader.log.propose(b"%d" % number) for number in range(100)))
                await cluster.members[3].log.read_barrier()
                assert by_grpc == []

        run(scenario())

    def test_where_no_wire_can_be_opened_all_goes_over_grpc(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As behind a firewall that lets only the swarm's port pass."""

        async def unreachable(*_: object) -> ssl.SSLSocket:
            raise TimeoutError("no answer")

        monkeypatch.setattr("swarmpy.manager.raft.link.dial", unreachable)

        async def scenario() -> None:
            async with Cluster(tmp_path, PATIENT) as cluster:
                leader = await cluster.grow(3)
                await asyncio.gather(*(leader.log.propose(b"%d" % number) for number in range(100)))
                await cluster.members[2].log.read_barrier()
                assert len(cluster.members[2].journal.entries) == 100
                await leader.stop()
                await (await cluster.leader()).log.propose(b"next")

        run(scenario())

    def test_a_member_from_before_there_were_wires_is_spoken_to_over_grpc(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It sends no ticket, and no other answer before its stream ends."""

        async def messages(self: RaftService, batches: AsyncIterator[RaftBatch], context: Any) -> RaftDone:
            receiver, hello, _ = await self._admit(context)
            receiver.connected(hello)
            await self._receive(receiver, hello, batches, context)
            receiver.disconnected(hello.sender)
            return RaftDone()

        monkeypatch.setattr(RaftService, "Messages", messages)

        async def scenario() -> None:
            async with Cluster(tmp_path, PATIENT) as cluster:
                leader = await cluster.grow(3)
                await asyncio.gather(*(leader.log.propose(b"%d" % number) for number in range(100)))
                await cluster.members[2].log.read_barrier()
                assert len(cluster.members[2].journal.entries) == 100

        run(scenario())

    def test_a_root_that_goes_takes_its_streams_along_and_nobody_takes_their_ends_for_deaths(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events: list[tuple[str, int, int]] = []

        def note(name: str) -> None:
            real = getattr(Peers, name)

            def noted(self: Peers, who: Any) -> None:
                events.append((name, self.me.raft_id, getattr(who, "sender", who)))
                real(self, who)

            monkeypatch.setattr(Peers, name, noted)

        for name in ("connected", "parted", "disconnected"):
            note(name)
        pairs = set(itertools.permutations((1, 2, 3), 2))

        def seen(name: str) -> set[tuple[int, int]]:
            return {(at, who) for what, at, who in events if what == name}

        async def scenario() -> None:
            async with Cluster(tmp_path, PATIENT) as cluster:
                leader = await cluster.grow(3)
                await until(lambda: seen("connected") == pairs, "all to have met")
                term, new = leader.log.leadership.term, create_root("swarm-2", time.time_ns())
                old_pem, new_pem = pem(cluster.swarm.root.certificate), pem(new.certificate)
                members = cluster.members.values()
                for number, trusted in enumerate((old_pem + new_pem, new_pem + old_pem), 1):
                    for member in members:
                        await member.identity.trust(trusted, number)
                for member in members:
                    issued = cluster.swarm.issued(member.node_id, NodeRole.MANAGER, issuer=new)
                    await member.identity.install(replace(issued, root_ca=new_pem + old_pem, lock=Lock(None, 2)))
                events.clear()
                for member in members:
                    await member.identity.trust(new_pem, 3)
                await until(lambda: seen("parted") == seen("connected") == pairs, "new streams in place of all")
                await leader.log.propose(b"more")
                assert not seen("disconnected")
                assert leader.log.leadership.term == term

        run(scenario())

    def test_a_wire_that_breaks_is_opened_again_and_nothing_is_lost(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with Cluster(tmp_path) as cluster:
                leader = await cluster.grow(3)
                for number in range(5):
                    for other in (2, 3):
                        leader.log._driver.drop_outgoing(other)
                        leader.log._peers.wires_broke([other])
                    await asyncio.gather(*(leader.log.propose(b"%d.%d" % (number, n)) for n in range(50)))
                await cluster.members[3].log.read_barrier()
                assert cluster.members[3].journal.entries == leader.journal.entries

        run(scenario())

    def test_a_manager_whose_certificate_was_renewed_connects_with_the_new_one(self, tmp_path: Path) -> None:
        """The one it began with has expired by the time that a peer comes back."""

        async def scenario() -> None:
            async with Cluster(tmp_path) as cluster:
                brief = cluster.new(1)
                issued = cluster.swarm.issued(brief.node_id, NodeRole.MANAGER, lifetime_ns=8 * 10**9)
                await brief.identity.install(issued)
                await brief.bootstrap()
                leader = await cluster.grow(2)
                await leader.log.propose(b"before")
                end = asyncio.get_running_loop().time() + 8.5
                await cluster.members[2].stop()
                await brief.identity.install(cluster.swarm.issued(brief.node_id, NodeRole.MANAGER))
                await until(lambda: asyncio.get_running_loop().time() > end, "the first certificate to expire", 20)
                await cluster.members[2].restart()
                await (await cluster.leader()).log.propose(b"after")

        run(scenario())

    def test_a_member_that_moved_is_followed_to_its_new_address(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with Cluster(tmp_path) as cluster:
                leader = await cluster.grow(3)
                mover = cluster.members[3]
                await mover.stop()
                old, mover.port = mover.port, 0
                await mover.restart()
                assert mover.port != old
                await leader.log.add_member(3, mover.node_id, mover.addr)
                await leader.log.propose(b"to the new address")
                await until(lambda: b"to the new address" in mover.journal.entries, "the entry")

        run(scenario())

    @pytest.mark.parametrize("noise", [b"\xff\xff\xff\xff", b"\x03\x00\x00\x00abc", b"\x20\x00\x00\x00" + bytes(32)])
    def test_a_member_that_sends_nonsense_disturbs_nobody(self, tmp_path: Path, noise: bytes) -> None:
        """A frame beyond all measure ends the wire, one that is no message is dropped: either way the log goes on."""

        async def scenario() -> None:
            async with Cluster(tmp_path) as cluster:
                leader = await cluster.grow(3)
                await leader.log.propose(b"by now there are wires")
                driver = leader.log._driver
                await driver.ask(lambda _: [wire.socket.send(noise) for wire in driver._wires._outgoing.values()])
                await asyncio.gather(*(leader.log.propose(b"%d" % number) for number in range(50)))
                await cluster.members[3].log.read_barrier()
                assert cluster.members[3].journal.entries == leader.journal.entries

        run(scenario())

    def test_a_removed_member_gets_news_over_its_stream_and_no_wire(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with Cluster(tmp_path) as cluster:
                leader = await cluster.grow(3)
                gone = cluster.members[3]
                await leader.log.remove_member(3)
                await asyncio.wait_for(gone.log.ended, 20)
                await gone.log.close()
                hello = Hello(leader.log.cluster_id, 3, 1, gone.addr)
                channel = gone.identity.channel(leader.addr)
                call = RaftStub(channel).Messages(metadata=hello.metadata())
                ticket = Ticket.of(await call.initial_metadata())
                assert ticket is not None
                with pytest.raises((OSError, Refused)):
                    await dial("127.0.0.1", ticket.port, gone.identity.client_tls(), ticket.secret)
                call.cancel()
                await channel.close(None)

        run(scenario())

    def test_an_entry_beyond_the_limit_is_refused_and_one_below_it_travels(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with Cluster(tmp_path, replace(FAST, election_ticks=50)) as cluster:
                leader = await cluster.grow(3)
                with pytest.raises(InvalidArgument, match="split it"):
                    await leader.log.propose(bytes(MAX_ENTRY_BYTES + 1))
                await leader.log.propose(b"\1" * MAX_ENTRY_BYTES)
                with pytest.raises(Conflict):
                    await leader.log.propose(b"no")
                await cluster.members[2].log.read_barrier()
                assert [len(entry) for entry in cluster.members[2].journal.entries] == [MAX_ENTRY_BYTES]

        run(scenario())
