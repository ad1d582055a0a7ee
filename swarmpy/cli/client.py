"""HTTP to the daemon: the Engine API over its unix socket, or over TCP with client certificates.

Owns    where the daemon is (`--host`, DOCKER_HOST), one request at a time, and what an error answer says.
Source  Docker Engine API; DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH as the docker client reads them.
Only the standard library: a heavier HTTP library would be most of a command's start-up time.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode, urlsplit

from swarmpy.cli.failures import ApiError, Unreachable
from swarmpy.cli.terminal import Hijacked

__all__ = ["API_VERSION", "Client", "default_host"]

API_VERSION = "v1.50"
DEFAULT_HOST = "unix:///run/swarmpy.sock"

Query = Mapping[str, object]


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
        """The headers of the answer."""
        connection = self._connect()
        try:
            return dict(self._request(connection, "HEAD", path, query, None, {}).getheaders())
        finally:
            connection.close()

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: IO[bytes] | Iterator[bytes] | None = None,
        auth: str = "",
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer as it comes; `body` is sent as a tar stream."""
        connection = self._connect()
        try:
            headers = {"Content-Type": "application/x-tar"} if body is not None else {}
            if auth:
                headers["X-Registry-Auth"] = auth
            yield self._request(connection, method, path, query, body, headers)
        finally:
            connection.close()

    def messages(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: IO[bytes] | Iterator[bytes] | None = None,
        auth: str = "",
    ) -> Iterator[dict[str, Any]]:
        """The JSON objects of a stream, one per line."""
        with self.stream(method, path, query, body, auth) as response:
            for line in response:
                if line.strip():
                    yield json.loads(line)

    def hijack(self, path: str, query: Query | None = None, body: object = None) -> Hijacked:
        """Turn the connection into the container's streams (101, Upgrade: tcp). The caller closes it."""
        connection = self._connect()
        headers = {"Connection": "Upgrade", "Upgrade": "tcp", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body is not None else b""
        response = self._request(connection, "POST", path, query, data, headers)
        if response.status != 101:
            raise ApiError(response.status, "the daemon did not open a stream")
        taken = connection.sock
        connection.sock = None  # the socket is the caller's now; http.client must not close it
        taken.setblocking(False)  # a quick process has written by now, and its output may have come with the head
        try:
            early = response.fp.peek()
        except ssl.SSLWantReadError:  # TLS says in this way that nothing has come
            early = b""
        taken.setblocking(True)
        return Hijacked(taken, early)

    def _json(self, method: str, path: str, query: Query | None, body: object = None, auth: str = "") -> Any:
        headers = {}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        if auth:
            headers["X-Registry-Auth"] = auth
        connection = self._connect()
        try:
            text = self._request(connection, method, path, query, data, headers).read()
        finally:
            connection.close()
        return json.loads(text) if text.strip() else None

    def _request(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        query: Query | None,
        body: bytes | IO[bytes] | Iterator[bytes] | None,
        headers: dict[str, str],
    ) -> http.client.HTTPResponse:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"/{API_VERSION}{path}" + (f"?{urlencode(given)}" if given else "")
        try:
            connection.request(method, target, body=body, headers=headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"Cannot connect to the swarmpy daemon at {self.host}. Is swarmpyd running? ({error})"
            ) from error
        if response.status >= 400:
            raise ApiError(response.status, message_of(response.read(), response.reason))
        return response

    def _connect(self) -> http.client.HTTPConnection:
        if self._address.scheme == "unix":
            return UnixConnection(self._address.path)
        host, port = self._address.hostname or "localhost", self._address.port
        if self._address.scheme == "https" or os.environ.get("DOCKER_TLS_VERIFY"):
            return http.client.HTTPSConnection(host, port or 2376, context=client_certificates())
        return http.client.HTTPConnection(host, port or 2375)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


def client_certificates() -> ssl.SSLContext:
    """ca.pem, cert.pem and key.pem of DOCKER_CERT_PATH."""
    folder = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def message_of(body: bytes, reason: str) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip() or reason
