"""`make demo`: three managers, three workers and a web service on this machine, and what happens when the leader dies.

Everything is done as a person would: with the `swarmpy` command and a web client.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from swarmpy.lab.web_image import CHANGES, web_root

LAB = "demo"
IMAGE = "web:demo"
PORT = 8080
REPLICAS = 3
PATIENCE_S = 60.0
ROUNDS_AFTERWARDS = 100


@dataclass
class Host:
    name: str
    role: str
    address: str
    docker_host: str


@dataclass
class Watcher:
    """Asks every node in turn, on new connections, until told to stop."""

    addresses: list[str]
    answers: int = 0
    failures: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(0.02):
            for address in self.addresses:
                try:
                    ask(address)
                    self.answers += 1
                except OSError as error:
                    self.failures.append(f"{address}: {error}")
                now = time.monotonic()
                self.longest_s, last = max(self.longest_s, now - last), now

    def wait_for(self, count: int) -> None:
        """Until there were `count` more answers or failures."""
        begun, deadline = self._asked, time.monotonic() + PATIENCE_S
        while self._asked < begun + count and time.monotonic() < deadline:
            self._stop.wait(0.02)

    def stop(self) -> None:
        self._stop.set()

    @property
    def _asked(self) -> int:
        return self.answers + len(self.failures)


def main() -> int:
    """Exits with 0 when every node answered from all replicas, before and after the leader's death."""
    if os.geteuid() != 0:
        say("the demo makes network namespaces, mounts and links: run it as root, for example with sudo")
        return 1
    began = time.monotonic()
    if lab_hosts():
        say("Removing the lab of an earlier demo.")
        captured("lab", "down", "--name", LAB)
    swarmpy("lab", "up", "--name", LAB, "--managers", "3", "--workers", "3")
    hosts = lab_hosts()
    load_image(hosts)
    first = hosts[0].docker_host
    swarmpy(
        "service", "create", "--name", "web", "--replicas", str(REPLICAS), "--publish", f"{PORT}:80", IMAGE, on=first
    )
    swarmpy("service", "ps", "web", on=first)
    swarmpy("node", "ls", on=first)
    for host in hosts:
        say(f"$ curl http://{host.address}:{PORT}/    ({host.name})    -> {', '.join(sorted(replicas_seen(host)))}")
    survivor, failures = kill_leader(hosts)
    installed = os.path.relpath(Path(sys.executable).with_name("swarmpy"))
    say(f"\nThe demo took {time.monotonic() - began:.0f} s. Look around:")
    say(f"    export DOCKER_HOST={survivor.docker_host}")
    say(f"    {installed} node ls             # or, where docker is installed: docker node ls")
    say(f"    {installed} service ps web")
    say(f"    {installed} service scale web=10")
    say(f"    curl http://{survivor.address}:{PORT}/")
    say(f"    {installed} lab ls")
    say(f"Remove it:\n    {installed} lab down --name {LAB}")
    return 1 if failures else 0


def lab_hosts() -> list[Host]:
    """The demo's hosts; none when there is no such lab."""
    rows = [json.loads(line) for line in captured("lab", "ls", "--format", "json").splitlines()]
    return [Host(row["Name"], row["Role"], row["Address"], row["DockerHost"]) for row in rows if row["Lab"] == LAB]


def load_image(hosts: Iterable[Host]) -> None:
    """Give every host the image; a swarm with a registry would pull it."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "web.tar"
        archive.write_bytes(web_root())
        changes = [word for change in CHANGES for word in ("--change", change)]
        say(f"$ swarmpy import web.tar {IMAGE}    (on every host)")
        for host in hosts:
            captured("import", *changes, str(archive), IMAGE, on=host.docker_host)


def replicas_seen(host: Host) -> set[str]:
    """Ask one node until all replicas have answered."""
    seen: set[str] = set()
    deadline = time.monotonic() + PATIENCE_S
    while len(seen) < REPLICAS:
        seen.add(ask(host.address))
        if time.monotonic() > deadline:
            raise SystemExit(f"{host.name}: after {PATIENCE_S:.0f} s only {len(seen)} replicas have answered")
    return seen


def kill_leader(hosts: list[Host]) -> tuple[Host, int]:
    """Kill the leader's daemon with -9, asking every node all the while; the next leader, and the failures."""
    dead = leader(hosts)
    watcher = Watcher([host.address for host in hosts])
    thread = threading.Thread(target=watcher.run)
    thread.start()
    try:
        say(f"\nNow the leader, {dead.name}, is killed with -9, while every node is asked all the time.")
        swarmpy("lab", "kill", dead.name, "--name", LAB)
        killed = time.monotonic()
        rest = [host for host in hosts if host is not dead]
        while (found := leader(rest)).name == dead.name:
            if time.monotonic() - killed > PATIENCE_S:
                raise SystemExit("no new leader was elected")
        say(f"{found.name} leads after {time.monotonic() - killed:.1f} s")
        watcher.wait_for(ROUNDS_AFTERWARDS * len(hosts))
    finally:
        watcher.stop()
        thread.join()
    say(
        f"{watcher.answers} answers, {len(watcher.failures)} failures, "
        f"longest wait for an answer {watcher.longest_s * 1000:.0f} ms"
    )
    for failure in watcher.failures[:5]:
        say(f"    {failure}")
    return found, len(watcher.failures)


def leader(hosts: Iterable[Host]) -> Host:
    """Who leads, asked of the managers until one of them knows."""
    known = {host.name: host for host in hosts}
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for host in known.values():
            if host.role != "manager":
                continue
            result = command("node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}", on=host.docker_host)
            if result.returncode:
                continue
            for line in result.stdout.splitlines():
                name, _, status = line.partition(" ")
                if status == "Leader" and name in known:
                    return known[name]
    raise SystemExit("the swarm has no leader")


def ask(address: str) -> str:
    """GET / on a node's published port; the replica's name."""
    connection = http.client.HTTPConnection(address, PORT, timeout=5)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        text = response.read().decode().strip()
        if response.status != 200:
            raise OSError(f"HTTP {response.status}: {text}")
        return text
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()


def swarmpy(*arguments: str, on: str = "") -> None:
    """Show a command, run it on this terminal; the demo ends when it fails."""
    say(f"\n$ swarmpy {shlex.join(arguments)}")
    result = subprocess.run(invocation(arguments), env=environment(on), check=False)
    if result.returncode:
        raise SystemExit(result.returncode)


def captured(*arguments: str, on: str = "") -> str:
    result = command(*arguments, on=on)
    if result.returncode:
        raise SystemExit(f"swarmpy {shlex.join(arguments)}: {result.stderr}")
    return result.stdout


def command(*arguments: str, on: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        invocation(arguments), env=environment(on), text=True, capture_output=True, check=False
    )


def invocation(arguments: Iterable[str]) -> list[str]:
    return [sys.executable, "-m", "swarmpy.cli.main", *arguments]


def environment(docker_host: str) -> dict[str, str]:
    return os.environ | ({"DOCKER_HOST": docker_host} if docker_host else {})


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
