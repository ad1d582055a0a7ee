"""What this process holds so that others keep off: host ports, and the names of its links and tables.

A host port is claimed by a socket that listens and is never read: whoever else asks for the port is told "address in
use" by the kernel, and so are we when somebody was first. Traffic never reaches the socket, it is translated before.
"""

from __future__ import annotations

import errno
import socket

from swarmpy.errors import Conflict, Internal, InvalidArgument

__all__ = ["NameClaim", "PortClaim"]

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class PortClaim:
    """A host port that is ours until `release`."""

    def __init__(self, protocol: str, host_ip: str, port: int) -> None:
        """Claim `port`, or any free one for 0. Conflict when it is in use, InvalidArgument when the host has no such
        address."""
        where = f"{host_ip}:{port}/{protocol}"
        self._socket = socket.socket(socket.AF_INET, _KINDS[protocol])
        try:
            if protocol == "tcp":
                # Connections in TIME_WAIT of a server that has gone must not count as one that is there.
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host_ip, port))
            if protocol == "tcp":
                self._socket.listen(0)
        except OSError as error:
            self._socket.close()
            if error.errno == errno.EADDRINUSE:
                raise Conflict(f"port {where} is already in use on this host; choose another port") from error
            if error.errno == errno.EADDRNOTAVAIL:
                raise InvalidArgument(f"this host has no address {host_ip} to publish port {port} on") from error
            raise Internal(f"cannot claim port {where}: {error.strerror}") from error
        self.port: int = self._socket.getsockname()[1]

    def release(self) -> None:
        self._socket.close()


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
