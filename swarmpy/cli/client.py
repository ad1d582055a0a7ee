"""HTTP to the daemon: the Engine API over its unix socket, or over TCP with client certificates.

Owns    where the daemon is (`--host`, DOCKER_HOST), one request at a time, and what an error answer says.
Source  Docker Engine API; DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH as the docker client reads them.
Imports little, and `ssl` only for a daemon that is asked over TLS: a command's start-up is most of its time.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from httptools import HttpParserError

from swarmpy.cli.exchange import Answer, Body, send
from swarmpy.cli.failures import ApiError, Unreachable

if TYPE_CHECKING:
    import io
    import ssl

__all__ = ["API_VERSION", "Client", "Hijacked", "default_host"]

API_VERSION = "v1.50"
DEFAULT_HOST = "unix:///run/swarmpy.sock"

SENT_AS_TYPED = "/%?=&:@+,;~!$'()*#[]{}|^`\\\"<>"  # all that RFC 9112 lets stand in a line; what it does not is escaped

Query = Mapping[str, object]


class Hijacked(NamedTuple):
    """A connection that carries a process's streams. `early` came with the head of the answer."""

    connection: socket.socket
    early: bytes


def default_host() -> str:
    return os.environ.get("SWARMPY_HOST") or os.environ.get("DOCKER_HOST") or DEFAULT_HOST


class Client:
    """One daemon. Every method raises ApiError for an answer of 400 or more, and Unreachable."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._address = urlsplit(host)
        if self._address.scheme not in ("unix", "tcp", "http", "https"):
            raise Unreachable(f"{host!r} is not an address of a daemon: use unix:///path/to/socket or tcp://host:port")

    def get(self, path: str, query: Query | None = None) -> Any:
        return self._json("GET", path, query)

    def post(self, path: str, query: Query | None = None, body: object = None, auth: str = "") -> Any:
        return self._json("POST", path, query, body, auth)

    def delete(self, path: str, query: Query | None = None) -> Any:
        return self._json("DELETE", path, query)

    def head(self, path: str, query: Query | None = None) -> dict[str, str]:
        """The headers of the answer; their names in lower case."""
        with self._connect() as connection:
            return self._request(connection, "HEAD", path, query, None, {}).headers

    @contextmanager
    def stream(
        self, method: str, path: str, query: Query | None = None, body: Body | None = None, auth: str = ""
    ) -> Iterator[io.BufferedReader]:
        """The body of the answer as it comes; `body` is sent as a tar stream."""
        headers = {"Content-Type": "application/x-tar"} if body is not None else {}
        if auth:
            headers["X-Registry-Auth"] = auth
        with self._connect() as connection:
            yield self._request(connection, method, path, query, body, headers).body

    def messages(
        self, method: str, path: str, query: Query | None = None, body: Body | None = None, auth: str = ""
    ) -> Iterator[dict[str, Any]]:
        """The JSON objects of a stream, one per line."""
        with self.stream(method, path, query, body, auth) as lines:
            for line in lines:
                if line.strip():
                    yield json.loads(line)

    def hijack(self, path: str, query: Query | None = None, body: object = None) -> Hijacked:
        """Turn the connection into the container's streams (101, Upgrade: tcp). The caller closes it."""
        connection = self._connect()
        headers = {"Connection": "Upgrade", "Upgrade": "tcp", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body is not None else b""
        try:
            answer = self._request(connection, "POST", path, query, data, headers)
            if answer.status != 101:
                raise ApiError(answer.status, "the daemon did not open a stream")
        except BaseException:
            connection.close()
            raise
        return Hijacked(connection, answer.early)

    def _json(self, method: str, path: str, query: Query | None, body: object = None, auth: str = "") -> Any:
        headers = {}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        if auth:
            headers["X-Registry-Auth"] = auth
        with self._connect() as connection:
            text = self._request(connection, method, path, query, data, headers).body.read()
        return json.loads(text) if text.strip() else None

    def _request(
        self,
        connection: socket.socket,
        method: str,
        path: str,
        query: Query | None,
        body: Body | None,
        headers: Mapping[str, str],
    ) -> Answer:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"/{API_VERSION}{quote(path, SENT_AS_TYPED)}" + (f"?{urlencode(given)}" if given else "")
        try:
            with suppress(BrokenPipeError, ConnectionResetError):   # it may refuse before it has heard everything
                send(connection, method, target, headers, body)
            answer = Answer(connection)
        except (OSError, HttpParserError) as error:
            raise self._silent(error) from error
        if answer.status >= 400:
            raise ApiError(answer.status, message_of(b"" if method == "HEAD" else answer.body.read(), answer.reason))
        return answer

    def _connect(self) -> socket.socket:
        """A connection of its own for one request."""
        try:
            if self._address.scheme == "unix":
                return connected(self._address.path)
            tls = self._address.scheme == "https" or bool(os.environ.get("DOCKER_TLS_VERIFY"))
            host, port = self._address.hostname or "localhost", self._address.port or (2376 if tls else 2375)
            connection = socket.create_connection((host, port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not tls:
                return connection
            from swarmpy.cli.tls import connect_tls  # and with it ssl

            return connect_tls(connection, client_certificates(), host)
        except OSError as error:
            raise self._silent(error) from error

    def _silent(self, error: Exception) -> Unreachable:
        return Unreachable(f"Cannot connect to the swarmpy daemon at {self.host}. Is swarmpyd running? ({error})")


def connected(path: str) -> socket.socket:
    """A connection to a unix socket. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def client_certificates() -> ssl.SSLContext:
    """ca.pem, cert.pem and key.pem of DOCKER_CERT_PATH."""
    import ssl

    folder = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT     # Python 3.13 asks for key identifiers; docker does not
    return context


def message_of(body: bytes, reason: str) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip() or reason
