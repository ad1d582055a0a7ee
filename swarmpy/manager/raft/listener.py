"""Where the wires of other managers arrive: a port of its own, and tickets that say to whose stream a wire belongs.

Laws    A wire has no standing of its own. It is let in with the ticket of a gRPC stream that was admitted on the
        swarm's port, and only from the node that opened that stream; the ticket ends with the stream.
        Who has not come in yet may take no more than a bounded number of places for a bounded time, and one host only
        some of them: others still get in. Without a port, or while all places are taken, messages go over gRPC.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable

from cryptography import x509

from swarmpy.errors import Forbidden
from swarmpy.identity import NodeIdentity
from swarmpy.identity.peer import authenticate
from swarmpy.manager.raft.handshake import TICKET_BYTES, Refused, welcome
from swarmpy.manager.raft.wire import Incoming

__all__ = ["WireListener"]

_log = logging.getLogger(__name__)

_HANDSHAKES = 64            # at a time; who comes beyond that waits in the kernel's queue
_HANDSHAKES_OF_A_HOST = 8   # at a time; who comes beyond that is refused. A member needs one
_PAUSE_S = 0.5              # after the kernel could not accept, for want of descriptors or memory


class WireListener:
    def __init__(
        self, identity: NodeIdentity, objection: Callable[[int], str | None], arrived: Callable[[Incoming], None]
    ) -> None:
        """`objection` says why a member with a ticket may not come in all the same, or None. `arrived` is called for
        each wire that was let in, and owns it from then on."""
        self._identity = identity
        self._objection = objection
        self._arrived = arrived
        self._tickets: dict[bytes, tuple[int, str]] = {}    # ticket -> member, and the id of its node
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._arriving: set[asyncio.Task[None]] = set()
        self._hosts: Counter[str] = Counter()               # of those, by address
        self._crowds: set[str] = set()                      # hosts that had too many, and still have one: said once

    @property
    def port(self) -> int:
        """0 when it does not listen."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else 0

    def open(self, host: str, port: int) -> None:
        """Listen on `port`, or on any that is free where another member of this host has it; on none if need be."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        for wanted in (port, 0):
            try:
                self._socket = socket.create_server((host, wanted), family=family)
            except OSError as error:
                _log.info("no wires of other managers on port %d of %s: %s", wanted, host, error)
                continue
            self._socket.setblocking(False)
            self._accepting = asyncio.create_task(self._accept(self._socket), name="raft-wires")
            return
        _log.warning("no port on %s can be opened for wires of other managers; raft goes over gRPC", host)

    async def close(self) -> None:
        tasks = [*self._arriving, *([self._accepting] if self._accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def issue(self, member: int, node_id: str) -> bytes:
        """A ticket for wires of `member`, which is `node_id`'s; good until it is revoked."""
        ticket = secrets.token_bytes(TICKET_BYTES)
        self._tickets[ticket] = member, node_id
        return ticket

    def revoke(self, ticket: bytes) -> None:
        self._tickets.pop(ticket, None)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        free = asyncio.Semaphore(_HANDSHAKES)
        while True:
            await free.acquire()
            try:
                plain, addr = await loop.sock_accept(listening)
            except OSError as error:
                _log.warning("a connection to the raft port could not be accepted: %s", error)
                free.release()
                await asyncio.sleep(_PAUSE_S)
                continue
            host = str(addr[0])
            if self._hosts[host] >= _HANDSHAKES_OF_A_HOST:
                if host not in self._crowds:
                    _log.info("connections to the raft port are refused: %s has %d there", host, self._hosts[host])
                self._crowds.add(host)
                plain.close()
                free.release()
                continue
            self._hosts[host] += 1
            task = loop.create_task(self._welcome(plain, host), name="raft-wire")
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)
            task.add_done_callback(lambda _: free.release())

    async def _welcome(self, plain: socket.socket, host: str) -> None:
        try:
            wire, member = await welcome(plain, self._identity.server_tls(), self._admit)
        except (OSError, TimeoutError, Refused, Forbidden) as refusal:
            _log.info("a connection to the raft port from %s was refused: %s", host, refusal or "it took too long")
        else:
            self._arrived(Incoming(member, wire))
        finally:
            self._hosts -= Counter([host])    # which forgets those at zero
            if host not in self._hosts:
                self._crowds.discard(host)

    def _admit(self, wire: ssl.SSLSocket, ticket: bytes) -> int:
        """The member whose ticket this is. Raises Refused; Forbidden for a certificate that is no manager's."""
        certificate = wire.getpeercert(binary_form=True)
        if certificate is None:
            raise Refused("it came without a certificate")
        leaf = x509.load_der_x509_certificate(certificate)
        peer = authenticate(leaf, self._identity.roots, None, time.time_ns()).require_manager()
        member, node_id = self._tickets.get(ticket, (0, ""))
        if not node_id or node_id != peer.node_id:
            raise Refused(f"node {peer.node_id} has no ticket for it")
        if (objection := self._objection(member)) is not None:
            raise Refused(objection)
        return member
