"""What this process holds so that others keep off: host ports, and the names of its links and tables.

A host port is claimed by a socket that is bound and nothing else. Whoever else asks for the port is told "address in
use" by the kernel, and so are we when somebody was first. Traffic never reaches the socket, it is translated before;
where the rules are missing for a moment a connection is refused, as nobody listens.

Source  socket(7) SO_REUSEADDR; proc(5), /proc/net/tcp and udp.
"""

from __future__ import annotations

import errno
import logging
import resource
import socket
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

from swarmpy.errors import Conflict, Internal, InvalidArgument

__all__ = ["NameClaim", "PortClaim", "PortClaims"]

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_TCP_LISTEN, _UDP_UNCONNECTED = "0A", "07"  # include/net/tcp_states.h
_SERVING = {"tcp": _TCP_LISTEN, "udp": _UDP_UNCONNECTED}
ANY = IPv4Address(0)

log = logging.getLogger(__name__)


class PortClaim:
    """A host port that is ours until `release`.

    It may be ours and yet not `held`: when connections of this host that are older still have the port at their end.
    They go on, as the kernel knows them; only a process that wants to serve on the port is not kept from it.
    """

    def __init__(self, protocol: str, host_ip: str, port: int) -> None:
        """Claim `port`, or any free one for 0. Conflict when a process serves on it or has claimed it, InvalidArgument
        when the host has no such address, Internal when this process may open no more sockets."""
        where = f"{host_ip}:{port}/{protocol}"
        self.port = port
        self._socket: socket.socket | None = _socket(_KINDS[protocol], where)
        try:
            # Without SO_REUSEADDR: with it, a process that sets it too could take the port, as nobody listens.
            self._socket.bind((host_ip, port))
            self.port = self._socket.getsockname()[1]
        except OSError as error:
            self.release()
            if error.errno == errno.EADDRNOTAVAIL:
                raise InvalidArgument(f"this host has no address {host_ip} to publish port {port} on") from error
            if error.errno != errno.EADDRINUSE:
                raise Internal(f"cannot claim port {where}: {error.strerror}") from error
            if port == 0 or not _only_connections(protocol, IPv4Address(host_ip), port):
                raise Conflict(f"port {where} is already in use on this host; choose another port") from error

    @property
    def held(self) -> bool:
        """Whether the kernel keeps others from the port."""
        return self._socket is not None

    def release(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class PortClaims:
    """Ports claimed on all addresses of this host, but those that a process of the host had first: they are `blocked`,
    with the reason."""

    def __init__(self) -> None:
        self._claims: dict[tuple[str, int], PortClaim] = {}
        self.blocked: dict[tuple[str, int], str] = {}

    def hold(self, ports: Iterable[tuple[str, int]]) -> None:
        """Claim these (protocol, port), also those that could not be before. A port that this process has no socket
        left for is served unclaimed."""
        for key in ports:
            claim = self._claims.get(key)
            if claim is not None and claim.held:
                continue
            try:
                self._claims[key] = PortClaim(key[0], str(ANY), key[1])
            except Conflict as refusal:
                self._claims.pop(key, None)
                if key not in self.blocked:
                    log.warning("this node does not answer on port %d/%s: %s", key[1], key[0], refusal)
                self.blocked[key] = str(refusal)
            except Internal as failure:
                log.error("other processes are not kept from a published port: %s", failure)
            else:
                self.blocked.pop(key, None)

    def release(self, ports: Iterable[tuple[str, int]]) -> None:
        """Let these go; of those not claimed nothing remains to be said."""
        for key in ports:
            self.blocked.pop(key, None)
            claim = self._claims.pop(key, None)
            if claim is not None:
                claim.release()

    def wanting(self) -> list[tuple[str, int]]:
        """Ports that are blocked, or not held against others: they are worth another try."""
        return [*self.blocked, *(key for key, claim in self._claims.items() if not claim.held)]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Every port claimed or blocked."""
        return iter({**self._claims, **self.blocked})


def _socket(kind: socket.SocketKind, where: str) -> socket.socket:
    """One more socket. Thousands of published ports need more descriptors than a process begins with."""
    try:
        return socket.socket(socket.AF_INET, kind)
    except OSError as error:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if error.errno != errno.EMFILE or soft == hard:
            raise Internal(f"cannot claim port {where}: {error.strerror}") from error
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return _socket(kind, where)


def _only_connections(protocol: str, host_ip: IPv4Address, port: int) -> bool:
    """Whether what is in the way at `host_ip` are sockets with a peer: older connections, their last minute included.

    The table does not list a TCP socket that is only bound, as a claim is: then nothing is found.
    """
    states = {
        state
        for address, number, state in _sockets(protocol)
        if number == port and (address == ANY or host_ip in (ANY, address))
    }
    return bool(states) and _SERVING[protocol] not in states


def _sockets(protocol: str) -> Iterator[tuple[IPv4Address, int, str]]:
    """Local address, local port and state of each socket, also of those of IPv6 that take IPv4 traffic."""
    for table in (protocol, f"{protocol}6"):
        path = Path("/proc/thread-self/net") / table
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            _, local, _, state, *_ = line.split()
            address, _, number = local.partition(":")
            if len(address) == 8 or address[:24] in ("0" * 24, "0000000000000000FFFF0000"):
                yield IPv4Address(int.from_bytes(bytes.fromhex(address[-8:]), "little")), int(number, 16), state


class NameClaim:
    """A name that one process per network namespace may hold. The kernel frees it when the process ends.

    Source  unix(7), abstract sockets: their names belong to a network namespace.
    """

    def __init__(self, name: str, clash: str) -> None:
        """Hold `name`; Conflict with the text `clash` when another process does."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.bind(f"\0swarmpy-network/{name}")
        except OSError as error:
            self._socket.close()
            if error.errno == errno.EADDRINUSE:
                raise Conflict(clash) from error
            raise

    def release(self) -> None:
        self._socket.close()
