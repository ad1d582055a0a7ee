"""This node's certificate: on disk, in use, and replaced while in use.

Owns    `<data>/swarm/certificates/node.pem` (0600): private key, leaf and root in one file, so that after a crash in
        the middle of a renewal they still belong together; the key is sealed (node_file.py). `data.keys` beside it.
Gives   TLS for this node as a server and as a client. Servers take a renewal up at the next handshake; a channel keeps
        what it was opened with, so whoever holds a long-lived one reopens it on `on_change`.
"""

from __future__ import annotations

import asyncio
import os
import resource
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from cryptography import x509

from swarmpy.errors import Internal, InvalidArgument, NotFound
from swarmpy.identity.certificates import (
    MANAGER_NAME,
    KeyPair,
    expires_ns,
    load_certificate,
    load_certificates,
    load_key,
    node_id_of,
    pem,
    role_of,
    signer,
    starts_ns,
)
from swarmpy.identity.data_keys import NO_LOCK, DataKeys, Lock
from swarmpy.identity.durable_file import write_durably
from swarmpy.identity.node_file import has_plain_key, is_sealed_with, open_key, seal_key, split
from swarmpy.identity.unlock_key import UnlockKey
from swarmpy.rpc.types_pb2 import NodeRole

__all__ = [
    "SERVER_OPTIONS",
    "SESSION_HANDSHAKE_S",
    "Issued",
    "NodeIdentity",
    "client_tls",
    "open_channel",
    "server_options",
    "server_tls",
    "stored_node_id",
]

SealAnew = Callable[[tuple[bytes, ...]], Awaitable[None]]

FILE_NAME = "node.pem"
MESSAGE_LIMIT_BYTES = 64 << 20
CONNECTIONS = 10_000                # to one server at most; a node has one or two
_LIMITS = (
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
)
_FLOW = (
    # gRPC would find out each connection's bandwidth with pings, one for nearly every heartbeat that comes. In place of
    # what it would find a window that does for 80 Mbit/s over 100 ms.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
)
_KEEPALIVE = (
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
)
CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    *_LIMITS,
    *_FLOW,
    *_KEEPALIVE,
    # gRPC makes of it its TCP_USER_TIMEOUT as well (tcp(7)): what was written, a heartbeat say, may stay unacknowledged
    # for so long. See `open_channel` for when a manager is asked for a sign of life.
    ("grpc.keepalive_timeout_ms", 1_500),
    ("grpc.http2.ping_timeout_ms", 1_500),      # what a sign of life is waited for is this, and a minute without it
    ("grpc.ssl_target_name_override", MANAGER_NAME),
    ("grpc.use_local_subchannel_pool", 1),      # a new channel really is a new connection, with the present certificate
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
HANDSHAKE_S = 0.5                   # connecting by TCP and TLS; after that it is tried anew
ASK_AFTER_S = 2.0                   # a node finds another leader no sooner than it notices that this one is gone
SESSION_HANDSHAKE_S = 1.5           # two fit into the time that a session is given to connect (see worker.session)
SERVER_OPTIONS: tuple[tuple[str, int | str], ...] = (
    *_LIMITS,
    *_FLOW,
    *_KEEPALIVE,
    ("grpc.keepalive_time_ms", 20_000),         # nodes that lost power are noticed by their heartbeats long before this
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_500),    # of clients' keepalives
    ("grpc.so_reuseport", 0),                   # a second daemon on the address is an error, not a coin toss
    # Whoever reaches the port may connect, but without a certificate only for so long. A node that somebody took over
    # has no more calls open on one connection than this; an agent has its session, and one for each log it sends.
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_concurrent_streams", 256),
    ("grpc.max_connection_idle_ms", 300_000),   # without a call; a channel comes back by itself
)


@dataclass(frozen=True, slots=True)
class Issued:
    """What the CA gave: a leaf for `key`, and the roots to trust, one of which signed it. All PEM.

    `lock` says what a manager's data keys are to be wrapped with.
    """

    key: bytes = field(repr=False)
    certificate: bytes
    root_ca: bytes
    lock: Lock = NO_LOCK

    def __post_init__(self) -> None:
        leaf = load_certificate(self.certificate)
        if leaf.public_key() != load_key(self.key).public_key():
            raise InvalidArgument("the certificate does not belong to this node's key")
        signer(leaf, load_certificates(self.root_ca))
        node_id_of(leaf), role_of(leaf)


class NodeIdentity:
    """The node's name in the swarm. Made by `load` or `create`; changed by `install` and `reload` only."""

    def __init__(self, directory: Path, issued: Issued, keys: DataKeys) -> None:
        self._path = directory / FILE_NAME
        self._keys = keys
        self._writing = asyncio.Lock()          # of the two files
        self._changes: set[asyncio.Task[None]] = set()
        self._sealed = _is_sealed(self._path, keys)
        self._callbacks: list[Callable[[], None]] = []
        self._roots_as_of = 0                   # of what was heard since the start
        self._use(issued)

    @classmethod
    def load(cls, directory: Path, unlock_key: UnlockKey | None = None) -> NodeIdentity:
        """What is on the disk. Blocks.

        Raises NotFound when there is nothing, Internal when it is damaged; Locked when an unlock key is needed and none
        was given, InvalidArgument when it is another one.
        """
        path = directory / FILE_NAME
        keys = _keys(directory, path, unlock_key)
        return cls(directory, _read(path, keys), keys)

    @classmethod
    def create(cls, directory: Path, issued: Issued) -> NodeIdentity:
        """Put `issued` on the disk, with a new data key, and use it. Blocks for two fsyncs."""
        manages = role_of(load_certificate(issued.certificate)) == NodeRole.MANAGER
        keys = DataKeys.create(directory, issued.lock if manages else NO_LOCK)
        _write(directory / FILE_NAME, issued, keys)
        return cls(directory, issued, keys)

    async def install(self, issued: Issued) -> None:
        """Replace the certificate, on the disk first. Raises InvalidArgument when it names another node, Internal when
        the disk does not take it.

        Who becomes a manager by it takes the unlock key that came with it before anything of the swarm is written;
        later the swarm's state tells of changes, and `lock` follows them.
        """
        leaf = load_certificate(issued.certificate)
        if node_id_of(leaf) != self.node_id:
            raise InvalidArgument("the new certificate names another node")
        if role_of(leaf) == NodeRole.MANAGER != self.role:
            await self.lock(issued.lock)
        await self._to_its_end(self._install(issued))

    async def _install(self, issued: Issued) -> None:
        async with self._writing:
            if issued.lock.as_of < self._roots_as_of:       # it was long on its way
                issued = replace(issued, root_ca=self._issued.root_ca)
            await self._replace(issued, issued.lock.as_of)

    async def trust(self, root_ca: bytes, as_of: int) -> None:
        """Trust these roots (PEM, the issuing one first) and no other from now on, on the disk first.

        An older word than the last (`as_of`: version of the cluster object) changes nothing. Raises InvalidArgument
        when none of them signed this node's certificate, Internal when the disk does not take it.
        """
        await self._to_its_end(self._trust(root_ca, as_of))

    async def _trust(self, root_ca: bytes, as_of: int) -> None:
        async with self._writing:
            if as_of < self._roots_as_of or root_ca == self._issued.root_ca:
                return
            await self._replace(replace(self._issued, root_ca=root_ca), as_of)

    async def _replace(self, issued: Issued, as_of: int) -> None:
        try:
            await asyncio.to_thread(_write, self._path, issued, self._keys)
        except OSError as failure:
            raise Internal(f"the new certificate or roots of this node could not be stored: {failure}") from failure
        self._sealed = True
        self._use(issued)
        self._roots_as_of = max(as_of, self._roots_as_of)
        for callback in tuple(self._callbacks):
            callback()

    async def reload(self) -> None:
        """Use what is on the disk now (SIGHUP). Raises as `load` does, and then nothing has changed."""
        await self._to_its_end(self._reload())

    async def _reload(self) -> None:
        async with self._writing:
            issued = await asyncio.to_thread(_read, self._path, self._keys)
            self._sealed = await asyncio.to_thread(_is_sealed, self._path, self._keys)
            if issued == self._issued:
                return
            self._use(issued)
        for callback in tuple(self._callbacks):
            callback()

    async def lock(self, lock: Lock, seal_anew: SealAnew | None = None) -> None:
        """What this node keeps on its disk opens with the unlock key of `lock` alone from now on, if there is one.

        An older word than the last changes nothing. Where that takes another data key, `seal_anew` has to seal with the
        first of the keys it is given whatever else was sealed with the others, which are forgotten then. Without it,
        that is left to the next time: until then the others are kept, and no key lies in the open that did not before.
        Raises Internal when the disk does not take it, and what `seal_anew` raises: ask again.
        """
        await self._to_its_end(self._lock(lock, seal_anew))

    async def _lock(self, lock: Lock, seal_anew: SealAnew | None) -> None:
        async with self._writing:
            if self._keys.outdated(lock):
                lock = self._keys.locked_by
            with _refusing_keys():
                if await asyncio.to_thread(self._keys.change, lock):
                    self._sealed = False
                if not self._sealed:            # also when this failed the last time, or found a plain file
                    await asyncio.to_thread(_write, self._path, self._issued, self._keys)
                    self._sealed = True
            if seal_anew is not None and not self._keys.is_settled(lock):
                await seal_anew(self._keys.all)
                with _refusing_keys():
                    await asyncio.to_thread(self._keys.settle, lock)

    async def _to_its_end(self, change: Coroutine[Any, Any, None]) -> None:
        """Wait for a change of the files, which goes on when nobody waits any more: a thread cannot be called back, and
        a second one must not begin before the first has written and its keys are in use."""
        task = asyncio.ensure_future(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def settled(self) -> None:
        """Wait until no change is under way."""
        while self._changes:
            await asyncio.wait(self._changes)

    async def forget_words(self) -> None:
        """Any word is newer from now on than those before: the swarm goes on from what an older one told."""
        await self._to_its_end(self._forget_words())

    async def _forget_words(self) -> None:
        async with self._writing:
            self._roots_as_of = 0
            self._keys.forget_word()

    async def release(self) -> None:
        """What this node keeps opens without an unlock key from now on, until `lock` says otherwise.

        For who keeps nothing of the swarm's any more but a certificate.
        """
        await self.lock(Lock(None, self._keys.locked_by.as_of), _nothing_else)

    @property
    def locks(self) -> bool:
        """Whether this node will need the unlock key when it starts."""
        return self._keys.locked_by.unlock_key is not None

    @property
    def data_keys(self) -> tuple[bytes, ...]:
        """The keys (256 bits each) that seal what this node keeps: the first one now, the others, if any, before."""
        return self._keys.all

    def _use(self, issued: Issued) -> None:
        self.certificate: x509.Certificate = load_certificate(issued.certificate)
        self.roots: tuple[x509.Certificate, ...] = load_certificates(issued.root_ca)
        self.issuer: x509.Certificate = signer(self.certificate, self.roots)
        self.node_id: str = node_id_of(self.certificate)
        self.role: NodeRole = role_of(self.certificate)
        self._issued = issued                   # last: the one thing that gRPC's threads read

    @property
    def root_ca(self) -> x509.Certificate:
        """The root that issues certificates now."""
        return self.roots[0]

    @property
    def root_ca_pem(self) -> bytes:
        """All roots that this node trusts, the issuing one first."""
        return self._issued.root_ca

    @property
    def present(self) -> object:
        """Another object after each change of certificate or roots."""
        return self._issued

    @property
    def valid_ns(self) -> tuple[int, int]:
        """From when until when the certificate holds (Unix ns)."""
        return starts_ns(self.certificate), expires_ns(self.certificate)

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called on the loop's thread after each change of certificate, role or root, until what this
        returns is called."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    @contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """The same for as long as the block lasts."""
        end = self.on_change(callback)
        try:
            yield
        finally:
            end()

    @contextmanager
    def changes(self) -> Iterator[asyncio.Event]:
        """An event that is set at each change, for as long as the block lasts."""
        event = asyncio.Event()
        with self.calling(event.set):
            yield event

    def server_credentials(
        self, join_roots: Callable[[], bytes], cross: Callable[[], bytes] = bytes
    ) -> grpc.ServerCredentials:
        """Mutual TLS for this manager.

        `join_roots` (PEM) is asked at each handshake, on a thread of gRPC's; and `cross`, which vouches for a coming
        root by the one that join tokens pin.
        """
        given: list[tuple[Issued, bytes, bytes]] = []

        def configuration() -> grpc.ServerCertificateConfiguration:
            issued, roots, voucher = self._issued, join_roots(), cross()
            given[:] = [(issued, roots, voucher)]
            chain = issued.certificate + issued.root_ca + voucher   # with the roots, for joiners to compare
            return grpc.ssl_server_certificate_configuration([(issued.key, chain)], issued.root_ca + roots)

        def changed() -> Any:                   # None keeps the one before, which the stubs do not know
            return None if given == [(self._issued, join_roots(), cross())] else configuration()

        return grpc.dynamic_ssl_server_credentials(configuration(), changed, require_client_authentication=True)

    def server_tls(self) -> ssl.SSLContext:
        """Mutual TLS outside gRPC, for this manager as the server: whoever connects needs a certificate of the swarm's
        root (no join token will do). Of the present certificate: ask for each connection."""
        return server_tls(self._issued)

    def client_tls(self) -> ssl.SSLContext:
        """The same for the client, which asks for MANAGER_NAME as the server's name."""
        return client_tls(self._issued)

    def credential(self) -> KeyPair:
        """The present certificate and its key, for TLS clients."""
        return KeyPair(self._issued.certificate, self._issued.key)

    def channel(self, addr: str) -> grpc.aio.Channel:
        """A channel to the manager at `addr` (host:port) with the present certificate. Connects when it is used."""
        return open_channel(addr, self.credential(), self._issued.root_ca)

    def session_channel(self, addr: str, ask_after_s: float) -> grpc.aio.Channel:
        """As `channel`, for a node that may be too busy to shake hands in half a second: it is given three halves."""
        return open_channel(addr, self.credential(), self._issued.root_ca, SESSION_HANDSHAKE_S, ask_after_s)


def server_options() -> tuple[tuple[str, int | str], ...]:
    """SERVER_OPTIONS, and how many connections a server takes: half of the descriptors are left to everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = CONNECTIONS if soft == resource.RLIM_INFINITY else min(CONNECTIONS, soft // 2)
    return (*SERVER_OPTIONS, ("grpc.max_allowed_incoming_connections", most))


def open_channel(
    addr: str, credential: KeyPair, root_ca: bytes, handshake_s: float = HANDSHAKE_S, ask_after_s: float = ASK_AFTER_S
) -> grpc.aio.Channel:
    """A channel that speaks only to a manager of the swarm with this root, with so long for each attempt to connect.

    While a call lasts, a manager that has said nothing for `ask_after_s` is asked for a sign of life (HTTP/2 PING, RFC
    9113 section 6.7). One that stands still is found by that alone, as its kernel goes on to acknowledge what comes.
    """
    credentials = grpc.ssl_channel_credentials(root_ca, credential.key, credential.certificate)
    options = (
        *CHANNEL_OPTIONS,
        ("grpc.min_reconnect_backoff_ms", int(handshake_s * 1000)),        # of one attempt, too
        ("grpc.keepalive_time_ms", int(ask_after_s * 1000)),
    )
    return grpc.aio.secure_channel(addr, credentials, options=options)


def server_tls(issued: Issued) -> ssl.SSLContext:
    """See `NodeIdentity.server_tls`."""
    context = _tls(ssl.PROTOCOL_TLS_SERVER, issued)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0                     # nobody resumes, and the client need never read
    return context


def client_tls(issued: Issued) -> ssl.SSLContext:
    """See `NodeIdentity.client_tls`."""
    return _tls(ssl.PROTOCOL_TLS_CLIENT, issued)


def _tls(protocol: int, issued: Issued) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=issued.root_ca.decode())
    # The module reads keys from files alone, and the one on the disk may be newer than what is in use.
    with os.fdopen(os.memfd_create("certificate"), "wb") as file:
        file.write(issued.key + issued.certificate)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return context


def stored_node_id(directory: Path) -> str:
    """The node that the certificate on the disk names, which is no secret: also of a node that is locked. Blocks.

    Raises as `NodeIdentity.load` does.
    """
    path = directory / FILE_NAME
    with _damage(path):
        return node_id_of(split(_bytes_of(path))[1])


def _keys(directory: Path, path: Path, unlock_key: UnlockKey | None) -> DataKeys:
    """The data keys. The first ones of a node whose file was written before there were any."""
    try:
        return DataKeys.load(directory, unlock_key)
    except NotFound:
        with _damage(path):
            if not has_plain_key(split(_bytes_of(path))[0]):
                raise
        return DataKeys.create(directory)


async def _nothing_else(keys: tuple[bytes, ...]) -> None:
    """Nothing but the certificate is sealed with them."""


@contextmanager
def _refusing_keys() -> Iterator[None]:
    try:
        yield
    except OSError as failure:
        raise Internal(f"the unlock key was not changed on this node: {failure}") from failure


def _write(path: Path, issued: Issued, keys: DataKeys) -> None:
    sealed = seal_key(issued.key, issued.certificate, keys.all[0])
    write_durably(path, sealed + issued.certificate + issued.root_ca)


def _is_sealed(path: Path, keys: DataKeys) -> bool:
    """Whether the newest data key seals the file."""
    with _damage(path):
        text, leaf, _ = split(_bytes_of(path))
        return not has_plain_key(text) and is_sealed_with(text, pem(leaf), keys.all[0])


def _read(path: Path, keys: DataKeys) -> Issued:
    with _damage(path):
        text, leaf, roots = split(_bytes_of(path))
        return Issued(key=open_key(text, pem(leaf), keys.all), certificate=pem(leaf), root_ca=roots)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as failure:
        raise NotFound("this node has no certificate: it is not part of a swarm") from failure


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What cannot be understood in the block is damage of the file."""
    try:
        yield
    except (ValueError, InvalidArgument) as failure:
        raise Internal(f"{path} is damaged ({failure}): restore it, or leave the swarm and join again") from failure
