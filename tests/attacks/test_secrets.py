"""Tokens, keys and passwords are where they have to be, and nowhere else."""

from __future__ import annotations

import base64
import json
import os
import re
import resource
import signal
import tempfile
from pathlib import Path

import pytest

from tests.attacks.target import PATIENCE_S, Target
from tests.daemon.test_process import Daemon

pytestmark = [pytest.mark.root, pytest.mark.cluster]

KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s*([A-Za-z0-9+/=]{40})")
TOKEN = re.compile(rb"SWMTKN-1-[0-9a-z]{50}-([0-9a-z]{25})")
PASSWORD = "correct horse battery staple"


def secrets_of(target: Target) -> set[bytes]:
    """All that this daemon must keep to itself."""
    swarm = target.root / "data/swarm"
    key = KEY.search((swarm / "certificates/node.pem").read_bytes())
    assert key is not None
    sealing = [text.encode() for text in json.loads((swarm / "certificates/data.keys").read_bytes())["keys"]]
    found = {key[1], *sealing, *map(base64.b64decode, sealing)}
    for role in ("worker", "manager"):
        for command in (["join-token", "-q", role], ["join-token", "-q", "--rotate", role]):
            token = TOKEN.fullmatch(target.docker("swarm", *command).encode())
            assert token is not None
            found.add(token[1])
    return found | {PASSWORD.encode(), base64.urlsafe_b64encode(credentials()).rstrip(b"=")}


def credentials() -> bytes:
    return json.dumps({"username": "someone", "password": PASSWORD, "serveraddress": "127.0.0.1:1"}).encode()


def use_them(target: Target, secrets: set[bytes]) -> list[str]:
    """What clients are shown while all of them are in use, also wrongly."""
    said = []
    for secret in filter(bytes.isalnum, sorted(secrets)):
        token = f"SWMTKN-1-{'0' * 50}-{secret.decode()}"
        said += [target.run("swarm", "join", "--token", text, "127.0.0.1:1").stderr for text in (token, token + "x")]
    auth = base64.urlsafe_b64encode(credentials()).decode()
    head = f"Host: x\r\nX-Registry-Auth: {auth}\r\nConnection: close\r\n"
    spec = json.dumps({
        "Name": "kept", "TaskTemplate": {"ContainerSpec": {"Image": "127.0.0.1:1/none"}},
        "Mode": {"Replicated": {"Replicas": 1}},
    })  # fmt: skip
    for line, body in (
        ("POST /images/create?fromImage=127.0.0.1:1/none&tag=a", ""), ("GET /distribution/127.0.0.1:1/none/json", ""),
        ("POST /auth", credentials().decode()), ("POST /services/create", spec), ("POST /services/create", spec + "}"),
    ):  # fmt: skip
        with target.local() as connection:
            about = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(f"{line} HTTP/1.1\r\n{head}{about}{body}".encode())
            while piece := connection.recv(1 << 16):
                said.append(piece.decode())
    for path in ("info", "nodes", "services", "tasks", "containers/json?all=1", "events?since=1&until=2", "swarm"):
        said.append(json.dumps(target.ask("GET", f"/{path}")[1]))
    assert "JoinTokens" in said[-1]
    said[-1] = TOKEN.sub(b"", said[-1].encode()).decode()       # they are what it is asked for
    return said


def test_no_secret_is_told_logged_or_readable_by_others(target: Target) -> None:
    secrets = secrets_of(target)
    said = use_them(target, secrets)
    for secret in secrets:
        text = secret.decode("latin-1")
        assert not [line for line in said if text in line], "told to a client"
        assert text not in target.daemon.log.read_bytes().decode("latin-1"), "in the log"
    readable = [path for path in files(target) if not hidden(path, target.root)]
    assert readable
    for path in readable:
        data = path.read_bytes()
        assert not KEY.search(data) and not any(secret in data for secret in secrets), f"others can read {path}"
    target.docker("service", "rm", "kept")


def files(target: Target) -> list[Path]:
    """What the daemon keeps, without the images' own files."""
    roots = (target.root / "data", target.root / "exec1")
    return [path for root in roots for path in root.rglob("*") if path.is_file() and "layers" not in path.parts]


def hidden(path: Path, root: Path) -> bool:
    """Whether only root can read it: by its own mode, or by that of a directory above."""
    above = [parent for parent in path.parents if parent.is_relative_to(root) and parent != root]
    return not path.stat().st_mode & 0o044 or any(not parent.stat().st_mode & 0o011 for parent in above)


def test_the_daemon_dumps_no_core() -> None:
    with tempfile.TemporaryDirectory(prefix="swd") as root:
        daemon = Daemon(Path(root), 1)
        before = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
        try:
            process = daemon.start()
        finally:
            resource.setrlimit(resource.RLIMIT_CORE, before)
        daemon.wait_ready(PATIENCE_S)
        process.send_signal(signal.SIGABRT)
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        process.wait()
        assert ended is not None and ended.si_code == os.CLD_KILLED, "it dumped its memory"
