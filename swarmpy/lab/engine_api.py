"""The Engine API as far as a lab needs it: is the daemon there, and how a swarm is made.

Source  Docker Engine API: GET /_ping, GET /swarm, POST /swarm/init, POST /swarm/join.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from swarmpy.errors import Conflict, Internal, InvalidArgument, SwarmpyError, Unavailable

__all__ = ["EngineAPI", "UnixConnection"]


class UnixConnection(http.client.HTTPConnection):
    """HTTP through the unix socket at `path`."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class EngineAPI:
    """One daemon, through its unix socket."""

    def __init__(self, path: Path, *, timeout_s: float = 30.0) -> None:
        self._path = path
        self._timeout_s = timeout_s

    def ping(self) -> bool:
        """Whether the daemon answers."""
        try:
            return self._request("GET", "/_ping") is not None
        except SwarmpyError:
            return False

    def init_swarm(self, address: str) -> str:
        """The node is the first manager of a new swarm; returns its id."""
        return str(self._request("POST", "/swarm/init", {"ListenAddr": address, "AdvertiseAddr": address}))

    def join_tokens(self) -> dict[str, str]:
        """Role ("manager", "worker") to token."""
        tokens = self._request("GET", "/swarm")["JoinTokens"]
        return {"manager": tokens["Manager"], "worker": tokens["Worker"]}

    def join_swarm(self, address: str, managers: list[str], token: str) -> None:
        """The node is part of the swarm of `managers`, in the token's role."""
        body = {"ListenAddr": address, "AdvertiseAddr": address, "RemoteAddrs": managers, "JoinToken": token}
        self._request("POST", "/swarm/join", body)

    def nodes(self) -> list[dict[str, Any]]:
        """GET /nodes."""
        found: list[dict[str, Any]] = self._request("GET", "/nodes")
        return found

    def _request(self, method: str, path: str, body: object = None) -> Any:
        """The decoded answer. Unavailable when nobody answers or says 503, else the error's kind with its message."""
        connection = UnixConnection(self._path, self._timeout_s)
        try:
            payload = json.dumps(body).encode() if body is not None else None
            connection.request(method, path, payload, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content, status = response.read(), response.status
        except (OSError, http.client.HTTPException) as failure:
            raise Unavailable(f"the daemon at {self._path} does not answer {method} {path}: {failure}") from failure
        finally:
            connection.close()
        if status >= 400:
            raise _failure(status, f"{method} {path} of {self._path}: {_message(content)}")
        return json.loads(content) if content[:1] in (b"{", b"[", b'"') else content.decode()


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace")[:200]


def _failure(status: int, text: str) -> SwarmpyError:
    kinds: dict[int, type[SwarmpyError]] = {400: InvalidArgument, 409: Conflict, 503: Unavailable}
    return kinds.get(status, Internal)(text)
