"""Answers have the shapes, statuses and words of the Engine API."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.shapes import (
    CONTAINER,
    CONTAINER_SUMMARY,
    EVENT,
    IMAGE,
    IMAGE_SUMMARY,
    INFO,
    NETWORK,
    STATS,
    VERSION,
    VOLUME,
    complaints,
)
from tests.engine.host import DEADLINE_S, Host, until

pytestmark = [pytest.mark.root, pytest.mark.cluster]


@pytest.fixture
def container(host: Host) -> Iterator[str]:
    """The id of a running container."""
    host_config = {"Binds": ["conform:/data"], "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1"}]}}
    body = {"Image": "busybox", "Cmd": ["sleep", "99"], "ExposedPorts": {"80/tcp": {}}, "Labels": {"a": "b"},
            "HostConfig": host_config}  # fmt: skip
    status, made = host.request("POST", "/v1.47/containers/create?name=conform", body)
    assert status == 201, made
    assert host.request("POST", f"/containers/{made['Id']}/start")[0] == 204
    yield made["Id"]
    host.request("DELETE", f"/containers/{made['Id']}?force=1&v=1")
    host.request("DELETE", "/volumes/conform")


def test_shapes(host: Host, container: str) -> None:
    cases: list[tuple[str, Any]] = [
        ("/version", VERSION),
        ("/info", INFO),
        ("/containers/json?all=1", [CONTAINER_SUMMARY]),
        (f"/containers/{container}/json", CONTAINER),
        (f"/containers/{container}/stats?stream=0&one-shot=1", STATS),
        (f"/containers/{container}/top", {"Titles": [str], "Processes": [[str]]}),
        ("/images/json", [IMAGE_SUMMARY]),
        ("/images/busybox/json", IMAGE),
        ("/images/busybox/history", [{"Id": str, "Created": int, "CreatedBy": str, "Size": int, "Comment": str}]),
        ("/networks", [NETWORK]),
        ("/networks/bridge", NETWORK),
        ("/volumes", {"Volumes": [VOLUME]}),
        ("/volumes/conform", VOLUME),
        ("/system/df", {"LayersSize": int, "Images": [IMAGE_SUMMARY], "Containers": [CONTAINER_SUMMARY],
                        "Volumes": [VOLUME], "BuildCache": list}),
    ]  # fmt: skip
    for path, shape in cases:
        for version in ("", "/v1.24", "/v1.50"):
            status, answer = host.request("GET", version + path)
            assert status == 200, (path, answer)
            assert complaints(shape, answer) == [], path
    _, events = host.request("GET", "/events?since=1&until=" + str(host.request("GET", "/info")[1]["SystemTime"]))
    lines = [json.loads(line) for line in events.splitlines()] if isinstance(events, str) else [events]
    assert lines and [text for line in lines for text in complaints(EVENT, line)] == []


def test_statuses(host: Host, container: str) -> None:
    cases: list[tuple[str, str, object, int, str]] = [
        ("GET", "/nonsense", None, 404, "page not found"),
        ("DELETE", "/info", None, 405, "not allowed"),
        ("GET", "/v1.23/info", None, 400, "too old"),
        ("GET", "/v1.99/info", None, 400, "too new"),
        ("GET", "/containers/none/json", None, 404, "No such container: none"),
        ("POST", f"/containers/{container}/start", None, 304, ""),
        ("POST", "/containers/create", {"Image": "nope"}, 404, "nope"),
        ("POST", "/containers/create", {"Image": "busybox", "Cmd": "sh"}, 400, "Cmd"),
        ("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Memory": "1"}}, 400, "HostConfig.Memory"),
        ("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Links": ["a"]}}, 501, "HostConfig.Links"),
        ("POST", "/containers/create?name=conform", {"Image": "busybox"}, 409, "already in use"),
        ("POST", "/containers/create?name=-", {"Image": "busybox"}, 400, "Invalid container name"),
        ("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"VolumesFrom": ["odd"]}}, 400, "odd"),
        ("DELETE", f"/containers/{container}", None, 409, "force remove"),
        ("POST", f"/containers/{container}/kill?signal=NOPE", None, 400, "invalid signal"),
        ("POST", f"/containers/{container}/wait?condition=odd", None, 400, "condition"),
        ("GET", f"/containers/{container}/logs", None, 400, "at least one stream"),
        ("GET", f"/containers/{container}/logs?stdout=1&tail=x", None, 400, "tail"),
        ("GET", "/containers/json?filters={", None, 400, "JSON"),
        ("GET", '/containers/json?filters={"odd":["x"]}', None, 400, "odd"),
        ("POST", f"/containers/{container}/exec", {"Cmd": []}, 400, "Cmd"),
        ("POST", "/exec/none/start", {}, 404, "No such exec"),
        ("POST", "/build", None, 501, "docker build"),
        ("POST", "/commit", None, 501, "docker commit"),
        ("GET", "/plugins", None, 501, "plugins"),
        ("GET", "/secrets", None, 501, "secrets"),
        ("POST", "/networks/create", {"Name": "n"}, 501, "networks"),
        ("DELETE", "/networks/bridge", None, 403, "pre-defined"),
        ("POST", "/volumes/create", {"Driver": "nfs"}, 501, "nfs"),
        ("DELETE", "/volumes/conform", None, 409, "in use"),
        ("GET", "/images/nope/json", None, 404, "nope"),
        ("POST", "/images/create?fromSrc=http://x", None, 501, "fromSrc"),
        ("GET", "/services", None, 503, "swarm"),
    ]
    for method, path, body, status, words in cases:
        found, answer = host.request(method, path, body)
        assert found == status, (path, answer)
        if status != 304:
            assert set(answer) == {"message"} and words in answer["message"], (path, answer)


def test_a_body_that_is_not_json(host: Host) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_S)
        client.connect(str(host.root / "api.sock"))
        head = b"POST /containers/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n"
        client.sendall(head + b"{")
        answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"not valid JSON" in answer


def test_every_answer_names_the_api(host: Host) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_S)
        client.connect(str(host.root / "api.sock"))
        client.sendall(b"HEAD /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head = b"".join(iter(lambda: client.recv(1 << 16), b"")).decode()
    for wanted in ("200 OK", "Api-Version: 1.50", "Ostype: linux", "Docker-Experimental: false", "Swarm: inactive"):
        assert wanted in head
    assert head.endswith("\r\n\r\n")


class Raw:
    """A hijacked connection."""

    def __init__(self, host: Host, path: str, body: object = None, *, upgrade: bool = True) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        ask = "Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else ""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE_S)
        self.socket.connect(str(host.root / "api.sock"))
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{ask}Content-Length: {len(data)}\r\n\r\n"
        self.socket.sendall(head.encode() + data)
        self.file = self.socket.makefile("rb")
        self.status = self.file.readline().decode()
        self.headers = b"".join(iter(self.file.readline, b"\r\n")).decode()

    def frames(self) -> list[tuple[int, bytes]]:
        """All frames to the end of the stream."""
        out = []
        while header := self.file.read(8):
            out.append((header[0], self.file.read(int.from_bytes(header[4:], "big"))))
        return out

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()


def exec_id(host: Host, container: str, **config: object) -> str:
    body = {"AttachStdout": True, "AttachStderr": True, **config}
    status, made = host.request("POST", f"/containers/{container}/exec", body)
    assert status == 201, made
    return str(made["Id"])


def test_a_hijacked_stream_ends_half_by_half(host: Host, container: str) -> None:
    made = exec_id(host, container, Cmd=["sh", "-c", "cat; echo end >&2"], AttachStdin=True)
    with Raw(host, f"/exec/{made}/start", {"Detach": False, "Tty": False}) as raw:
        assert raw.status == "HTTP/1.1 101 UPGRADED\r\n"
        assert "application/vnd.docker.multiplexed-stream" in raw.headers
        raw.socket.sendall(b"early ")
        raw.socket.sendall(b"late")
        raw.socket.shutdown(socket.SHUT_WR)
        frames = raw.frames()
    assert b"".join(data for kind, data in frames if kind == 1) == b"early late"
    assert b"".join(data for kind, data in frames if kind == 2) == b"end\n"
    status, shown = host.request("GET", f"/exec/{made}/json")
    assert (status, shown["ExitCode"], shown["Running"]) == (200, 0, False)
    assert host.request("POST", f"/exec/{made}/start", {})[0] == 409


def test_keys_let_a_client_go_and_the_process_go_on(host: Host) -> None:
    """Clients that watch for no keys themselves, as docker-py and browsers, leave it to the daemon."""
    host.docker("run", "-dit", "--name", "prompt", "busybox", "sh")
    since = str(host.request("GET", "/info")[1]["SystemTime"])
    with Raw(host, "/containers/prompt/attach?stream=1&stdin=1&stdout=1", None) as raw:
        raw.socket.sendall(b"echo $((6*7))\n")
        seen = b""
        while b"42" not in seen:
            seen += raw.file.read1(4096)
        raw.socket.sendall(b"ignored\x10")
        raw.socket.sendall(b"\x11lost")
        assert b"lost" not in raw.file.read()
    with Raw(host, "/containers/prompt/attach?stream=1&stdin=1&detachKeys=ctrl-a,q", None) as raw:
        raw.socket.sendall(b"\x10\x11\x01q")
        raw.file.read()
    made = exec_id(host, "prompt", Cmd=["sh"], AttachStdin=True, Tty=True, DetachKeys="x")
    with Raw(host, f"/exec/{made}/start", {"Tty": True}) as raw:
        raw.socket.sendall(b"x")
        raw.file.read()
    assert host.request("GET", f"/exec/{made}/json")[1]["Running"]
    assert host.request("POST", "/containers/prompt/attach?detachKeys=odd")[0] == 400
    assert host.request("POST", "/containers/prompt/exec", {"Cmd": ["sh"], "DetachKeys": "odd"})[0] == 400
    now = str(host.request("GET", "/info")[1]["SystemTime"])
    filters = ("--filter", "container=prompt", "--format", "{{.Action}}")
    told = host.out("events", "--since", since, "--until", now, *filters).split()
    assert (told.count("detach"), told.count("exec_detach")) == (2, 1)
    host.docker("rm", "-f", "prompt")


def test_without_an_upgrade_the_stream_is_raw_too(host: Host, container: str) -> None:
    with Raw(host, f"/v1.41/exec/{exec_id(host, container, Cmd=['echo', 'x'])}/start", {}, upgrade=False) as raw:
        assert raw.status == "HTTP/1.1 200 OK\r\n"
        assert "application/vnd.docker.raw-stream" in raw.headers
        assert raw.frames() == [(1, b"x\n")]


def test_an_exec_that_cannot_be_executed_says_why(host: Host, container: str) -> None:
    made = exec_id(host, container, Cmd=["nope"])
    with Raw(host, f"/exec/{made}/start", {}) as raw:
        ((kind, data),) = raw.frames()
    assert kind == 1 and b"not found" in data
    assert host.request("GET", f"/exec/{made}/json")[1]["ExitCode"] == 127


def test_who_follows_for_nobody_is_let_go(host: Host, container: str) -> None:
    before = host.request("GET", "/info")[1]["NEventsListener"]
    for path in ("/events", f"/containers/{container}/logs?stdout=1&follow=1"):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(host.root / "api.sock"))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        client.close()
    until("nobody listens", lambda: host.request("GET", "/info")[1]["NEventsListener"] == before)


def test_a_client_that_goes_away_leaves_the_process_alone(host: Host, container: str) -> None:
    made = exec_id(host, container, Cmd=["sh", "-c", "read x; exit 4"], AttachStdin=True)
    with Raw(host, f"/exec/{made}/start", {}) as raw:
        assert "101" in raw.status
    assert host.request("GET", f"/containers/{container}/json")[1]["State"]["Running"]
    assert host.request("GET", "/_ping") == (200, "OK")
