"""Two hosts with an Engine API to measure: ours, and one of dockerd with SwarmKit; same disk, same image, same client.

Owns    the daemons, and all that is left of them when they are gone: nothing, also after a failure.
Ours is a host of a lab. dockerd gets its own network, mounts and processes: when the first process of these namespaces
is killed the kernel takes the rest, so that no order of shutting down has to be kept.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from swarmpy.lab import Lab
from swarmpy.lab.cgroups import remove_cgroups
from swarmpy.lab.engine_api import UnixConnection

__all__ = ["IMAGE", "Engine", "Refused", "dockerd", "swarmpyd", "until"]

IMAGE = "bench:latest"
ADDRESS = "10.99.0.1"  # of dockerd, in its own network namespace
DEADLINE_S = 120.0
POLL_S = 0.02
REQUEST_S = 60.0

# The first process of dockerd's namespaces: it has to reap what is orphaned in them.
DOCKERD = f'ip link set lo up && ip address add {ADDRESS}/32 dev lo && {{ dockerd "$@" & wait; }}'


class Refused(Exception):
    """The engine answered with an error, whose text this is."""


@dataclass
class Engine:
    """A daemon that answers. `name` carries its version; `swarm_failure` says why it is no manager, if it is none.

    A request that is not answered within `request_s` has failed. `pid_namespace` is that of all its processes, and none
    of its containers', as /proc/PID/ns/pid links to it.
    """

    socket: Path
    name: str = ""
    swarm_failure: str = ""
    request_s: float = REQUEST_S
    pid_namespace: str = ""

    def __post_init__(self) -> None:
        self._connection = UnixConnection(self.socket, self.request_s)
        self._asked = ""

    @property
    def docker_host(self) -> str:
        return f"unix://{self.socket}"

    def call(
        self, method: str, path: str, body: object = None, *, query: Mapping[str, object] | None = None
    ) -> Any:
        """The decoded answer; of a stream of JSON, nothing. One connection for all, as the clients keep theirs.

        Raises Refused, and OSError when nobody answers.
        """
        return self.read(self.ask(method, path, body, query=query))

    def ask(
        self, method: str, path: str, body: object = None, *, query: Mapping[str, object] | None = None
    ) -> HTTPResponse:
        """The head of an answer, whose end may take its time; `read` it before this engine is asked again."""
        target = path + ("?" + urlencode(query, doseq=True) if query else "")
        kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
        payload = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        self._asked = f"{method} {path}"
        try:
            self._connection.request(method, target, payload, {"Content-Type": kind})
            return self._connection.getresponse()
        except BaseException:
            self._connection.close()
            raise

    def read(self, response: HTTPResponse) -> Any:
        """The rest of an answer, decoded. Raises as `call` does."""
        try:
            content = response.read()
        except BaseException:
            self._connection.close()
            raise
        if response.status >= 400 or b'"errorDetail"' in content:
            raise Refused(f"{self._asked}: {content.decode(errors='replace').strip()[:300]}")
        try:
            return json.loads(content) if content else None
        except ValueError:
            return None

    def import_image(self) -> None:
        """IMAGE is there: busybox."""
        repository, _, tag = IMAGE.partition(":")
        self.call("POST", "/images/create", _busybox_tar(), query={"fromSrc": "-", "repo": repository, "tag": tag})

    def close(self) -> None:
        self._connection.close()


@contextmanager
def swarmpyd(nodes: int = 1) -> Iterator[Engine]:
    """One swarmpyd, the only manager of a swarm of `nodes`."""
    lab = Lab.up(f"bench{os.getpid()}", 1, nodes - 1)
    try:
        engine = Engine(lab.api_socket(lab.plan.hosts[0].name))
        engine.name = f"swarmpyd {engine.call('GET', '/version')['Version']}"
        engine.import_image()
        for host in lab.plan.hosts[1:]:
            other = Engine(lab.api_socket(host.name))
            other.import_image()
            other.close()
        yield engine
        engine.close()
    finally:
        lab.down()


def missing() -> list[str]:
    """Programs that dockerd needs here and that are not on this machine."""
    programs = ("dockerd", "containerd", "runc", "iptables", "ip", "unshare", "setpriv")
    return [name for name in programs if shutil.which(name) is None]


@contextmanager
def dockerd() -> Iterator[Engine | None]:
    """One dockerd, a manager if SwarmKit works here; None when it is not on this machine."""
    if missing():
        yield None
        return
    cgroup = f"/swarmpy-bench-{os.getpid()}"
    with ExitStack() as stack:
        run, data = (Path(tempfile.mkdtemp(prefix="swarmpy-bench-", dir=where)) for where in ("/run", "/var/lib"))
        stack.callback(shutil.rmtree, data)
        stack.callback(shutil.rmtree, run)
        stack.callback(remove_cgroups, cgroup)
        (run / "daemon.json").write_text("{}")
        engine = Engine(run / "docker.sock")
        process = stack.enter_context(_started(run, data, cgroup))
        until(lambda: _answers(engine, process, run / "log"), "dockerd to answer")
        engine.name = f"dockerd {engine.call('GET', '/version')['Version']}"
        engine.import_image()
        try:
            engine.call("POST", "/swarm/init", {"ListenAddr": f"{ADDRESS}:2377", "AdvertiseAddr": ADDRESS})
        except Refused as failure:
            engine.swarm_failure = f"{engine.name} has no swarm here: {failure}"
        yield engine
        engine.close()


@contextmanager
def _started(run: Path, data: Path, cgroup: str) -> Iterator[subprocess.Popen[bytes]]:
    argv = [
        "setpriv", "--pdeathsig", "KILL",
        "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc",
        "sh", "-c", DOCKERD, "sh",
        "--config-file", str(run / "daemon.json"), "--data-root", str(data), "--exec-root", str(run / "exec"),
        "--pidfile", str(run / "pid"), "-H", f"unix://{run}/docker.sock", "--cgroup-parent", cgroup,
    ]  # fmt: skip
    with open(run / "log", "wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _answers(engine: Engine, process: subprocess.Popen[bytes], log: Path) -> bool:
    if process.poll() is not None:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        raise RuntimeError(f"dockerd ended as it started:\n{end}")
    try:
        engine.call("GET", "/version")
    except OSError:
        return False
    return True


def until(condition: Callable[[], bool], what: str) -> None:
    """`condition` holds; it is asked again every 20 ms. RuntimeError when it does not within two minutes."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"waited {DEADLINE_S:g} s in vain for {what}")
        time.sleep(POLL_S)


def _busybox_tar() -> bytes:
    found = shutil.which("busybox")
    if found is None:
        raise RuntimeError("busybox is not on this machine; install the package busybox-static")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(os.path.realpath(found), "bin/busybox")
        for applet in ("sh", "sleep", "true"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return archive.getvalue()
