"""A lab, driven as people do: the docker client, docker-py, the swarmpy command and web clients.

Nothing here knows how swarmpy is made; everything goes through its public doors.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import docker
from docker.errors import APIError

from swarmpy.lab import Lab
from swarmpy.lab.cluster import SERVICE, labs
from swarmpy.lab.web_image import CHANGES, web_root
from tests.leftovers import left_of_lab

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
POLL_S = 0.02
PATIENCE_S = 30.0
HTTP_TIMEOUT_S = 5.0
NAME_PREFIX = "t"
CRASH = ('CMD ["/bin/sh", "-c", "echo no such luck; exit 3"]',)


def until(condition: Callable[[], T | None], what: str, timeout_s: float = PATIENCE_S) -> T:
    """The first truthy answer of `condition`; the test fails, naming `what`, when there is none in time."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline_s:
            raise AssertionError(f"after {timeout_s:g} s still waiting for {what}")
        time.sleep(POLL_S)


def requests_in(log: str) -> int:
    """How many requests the web server tells of: as `url:/` in a busybox before 1.37, as `GET /` since."""
    return log.count("url:/") + log.count("GET /")


def docker_clients() -> list[Path]:
    """Every docker command of this machine, the one the shell would take first."""
    found: list[Path] = []
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        path = Path(directory) / "docker"
        if os.access(path, os.X_OK) and not any(path.samefile(other) for other in found):
            found.append(path)
    return found


@dataclass
class Outcome:
    """What a command said. Text of both streams is stripped."""

    command: str
    code: int
    out: str
    err: str

    def ok(self) -> str:
        assert self.code == 0, f"{self.command}: exit code {self.code}: {self.err or self.out}"
        return self.out

    def refused(self, *words: str) -> str:
        """The error's text, which must contain all of `words`."""
        assert self.code != 0, f"{self.command} was accepted: {self.out}"
        for word in words:
            assert word in self.err, f"{self.command}: {word!r} is not in: {self.err}"
        return self.err


class Swarm:
    """One lab and the ways to speak to it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.hosts = [host.name for host in lab.plan.hosts]
        self.managers = [host.name for host in lab.plan.hosts if host.role == "manager"]
        self.workers = [host.name for host in lab.plan.hosts if host.role == "worker"]
        self._clients: dict[str, Any] = {}

    # ------------------------------------------------------------------------------------------- commands

    def docker(
        self, *words: str, on: str = "", client: Path | None = None, timeout_s: float = 90, stdin: str | None = None
    ) -> Outcome:
        """`docker WORDS` with DOCKER_HOST of host `on`, by default the first manager."""
        program = str(client or docker_clients()[0])
        return self._run([program, *words], on, timeout_s, stdin)

    def swarmpy(self, *words: str, on: str = "", timeout_s: float = 90, stdin: str | None = None) -> Outcome:
        return self._run([sys.executable, "-m", "swarmpy.cli.main", *words], on, timeout_s, stdin)

    def inside(self, host: str, *argv: str, timeout_s: float = 30) -> Outcome:
        """A command of the machine, run inside a host."""
        done = self.lab.run(host, argv, capture_output=True, text=True, timeout=timeout_s)
        return Outcome(" ".join(argv), done.returncode, done.stdout.strip(), done.stderr.strip())

    def environment(self, on: str = "") -> dict[str, str]:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        return {**os.environ, "PYTHONPATH": path, "DOCKER_HOST": self.lab.docker_host(on or self.managers[0])}

    def _run(self, argv: Sequence[str], on: str, timeout_s: float, stdin: str | None) -> Outcome:
        done = subprocess.run(
            argv, env=self.environment(on), capture_output=True, text=True, timeout=timeout_s, input=stdin, check=False
        )
        command = " ".join([Path(argv[0]).name, *argv[1:]])
        return Outcome(command, done.returncode, done.stdout.strip(), done.stderr.strip())

    # ------------------------------------------------------------------------------------------------ the API

    def api(self, on: str = "") -> Any:
        """A docker-py client of a host."""
        name = on or self.managers[0]
        if name not in self._clients:
            self._clients[name] = docker.DockerClient(base_url=self.lab.docker_host(name), timeout=30)
        return self._clients[name]

    def tasks(self, service: str, on: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api(on).api.tasks(filters={"service": service})
        return found

    def running(self, service: str, on: str = "") -> dict[str, str]:
        """Task id to host name, of the tasks that should run and do."""
        names = self.names(on)
        return {
            task["ID"]: names[task["NodeID"]]
            for task in self.tasks(service, on)
            if task["DesiredState"] == "running" and task["Status"]["State"] == "running"
        }

    def names(self, on: str = "") -> dict[str, str]:
        """Node id to host name."""
        return {node["ID"]: node["Description"]["Hostname"] for node in self.api(on).api.nodes()}

    def node(self, name: str, on: str = "") -> dict[str, Any]:
        """The newest node of a host; one that has left is still listed."""
        found = [node for node in self.api(on).api.nodes() if node["Description"]["Hostname"] == name]
        newest: dict[str, Any] = max(found, key=lambda node: str(node["CreatedAt"]))
        return newest

    def ready(self, name: str, on: str = "") -> bool:
        return bool(self.node(name, on)["Status"]["State"] == "ready")

    def leader(self, among: Collection[str] = ()) -> str:
        """The leader's host, asked of the managers until one of them knows."""

        def ask() -> str | None:
            for name in among or self.managers:
                try:
                    nodes = self.api(name).api.nodes()
                except (APIError, OSError):
                    continue
                for node in nodes:
                    if node.get("ManagerStatus", {}).get("Leader"):
                        return str(node["Description"]["Hostname"])
            return None

        return until(ask, "a leader")

    def converged(self, service: str, replicas: int, *, timeout_s: float = PATIENCE_S, on: str = "") -> dict[str, str]:
        """The running tasks, once there are exactly as many as wished."""
        last: dict[str, str] = {}

        def as_wished() -> dict[str, str] | None:
            nonlocal last
            last = self.running(service, on)
            return last if len(last) == replicas else None

        try:
            return until(as_wished, f"{replicas} running tasks of {service}", timeout_s)
        except AssertionError as failure:
            states = [
                (task["Slot"], task["DesiredState"], task["Status"]["State"], task["Status"].get("Err", ""))
                for task in self.tasks(service, on)
            ]
            raise AssertionError(f"{failure}: {states}") from None

    def remove_services(self) -> None:
        """No service is left, nor a container of one."""
        manager = self.leader()
        for service in self.api(manager).api.services():
            self.api(manager).api.remove_service(service["ID"])
        until(lambda: not self.api(manager).api.tasks(), "the tasks of removed services to go", 60)

    # ------------------------------------------------------------------------------------------------ images

    def import_image(self, reference: str, archive: bytes, changes: Sequence[str], hosts: Sequence[str] = ()) -> None:
        """Every host has the image."""
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda host: self._import(host, reference, archive, changes), hosts or self.hosts))

    def _import(self, host: str, reference: str, archive: bytes, changes: Sequence[str]) -> None:
        repository, _, tag = reference.partition(":")
        said = self.api(host).api.import_image_from_data(archive, repository, tag, changes=list(changes))
        assert "error" not in said, said
        self.api(host).images.get(reference)

    # ----------------------------------------------------------------------------------------------- clients

    def address(self, host: str) -> str:
        return self.lab.plan.host(host).address

    def seen(self, host: str, port: int, count: int, timeout_s: float = PATIENCE_S) -> set[str]:
        """The answers of `count` different replicas at one node's address, once all of them listen."""
        answers: set[str] = set()

        def ask() -> bool:
            with contextlib.suppress(OSError):
                answers.add(get(self.address(host), port))
            return len(answers) >= count

        until(ask, f"{count} replicas to answer at {host}:{port}, seen {answers}", timeout_s)
        return answers

    @contextmanager
    def watched(self, port: int, hosts: Sequence[str] = ()) -> Iterator[Prober]:
        """Every node is asked on new connections all the while. The caller judges."""
        prober = Prober([self.address(host) for host in hosts or self.hosts], port)
        with prober.going():
            yield prober

    # ------------------------------------------------------------------------------------------------ faults

    def mend(self) -> None:
        """All hosts are up, the wire is whole, every node is ready and active, the planned managers manage."""
        self.lab.heal()
        for host in self.hosts:
            state = self.lab.state(host)
            if state == "paused":
                self.lab.resume(host)
            elif state != "running":
                self.lab.start(host)
        manager = self.leader()
        try:
            until(lambda: all(self.ready(host, manager) for host in self.hosts), "all nodes to be ready", 60)
        except AssertionError as failure:
            missing = [host for host in self.hosts if not self.ready(host, manager)]
            said = {host: (self.node(host, manager)["Status"], self.stacks(host)[-1500:]) for host in missing}
            raise AssertionError(f"{failure}, as {manager} sees it: {said}") from None

    def stacks(self, host: str) -> str:
        """What a host's daemon does at the moment and the end of its log before, for the report of a failed test."""
        before = self.lab.log(host).read_text()
        self.lab.host(host).signal(SERVICE, signal.SIGUSR1)
        with contextlib.suppress(AssertionError):
            until(lambda: "Stack for <Task" in self.lab.log(host).read_text()[len(before) :], "its tasks", 2)
        return self.lab.log(host).read_text()[len(before) - 1000 :]

    def container_pids(self, service: str) -> dict[str, tuple[str, int]]:
        """Container id to its host and its pid there, of the running containers of a service on all hosts."""
        found = {}
        for host in self.hosts:
            if self.lab.state(host) != "running":
                continue
            api = self.api(host).api
            for row in api.containers(filters={"label": f"com.docker.swarm.service.name={service}"}):
                found[row["Id"]] = (host, api.inspect_container(row["Id"])["State"]["Pid"])
        return found


@dataclass
class Prober:
    """Asks each address in turn, on a new connection each time, until told to stop."""

    addresses: Sequence[str]
    port: int
    answers: int = 0
    replicas: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def going(self) -> Iterator[None]:
        """It asks, on a thread of its own."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(2 * HTTP_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stop.wait(POLL_S / 2):
            for address in self.addresses:
                began_s = time.monotonic()
                try:
                    self.replicas.add(self._ask(address))
                    self.answers += 1
                except OSError as failure:
                    self.failures.append(f"{time.strftime('%X')} {address}:{self.port}: {failure!r}")
                self.longest_s = max(self.longest_s, time.monotonic() - began_s)

    def _ask(self, address: str) -> str:
        return get(address, self.port)

    def assert_unbroken(self, at_least: int = 1) -> None:
        assert not self.failures, f"{len(self.failures)} of {self.answers + len(self.failures)}: {self.failures[:8]}"
        assert self.answers >= at_least


@dataclass
class KeepAlive(Prober):
    """Keeps one connection to each address and asks on it again, as browsers and pools of clients do.

    A kept connection that is closed instead of an answer is no failure (RFC 9110, section 9.2.2: a GET may be sent
    again): it is asked on a new one, once. `reused` counts answers on kept connections.
    """

    reused: int = 0
    _kept: dict[str, http.client.HTTPConnection] = field(default_factory=dict)

    def _ask(self, address: str) -> str:
        kept = self._kept.pop(address, None)
        if kept is not None:
            with contextlib.suppress(http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                text = self._ask_on(kept, address)
                self.reused += 1
                return text
        return self._ask_on(http.client.HTTPConnection(address, self.port, timeout=HTTP_TIMEOUT_S), address)

    def _ask_on(self, connection: http.client.HTTPConnection, address: str) -> str:
        try:
            text = read(connection)
        except BaseException:
            connection.close()
            raise
        self._kept[address] = connection
        return text


def get(address: str, port: int) -> str:
    """The text of a 200 answer on a new connection; OSError for everything else."""
    connection = http.client.HTTPConnection(address, port, timeout=HTTP_TIMEOUT_S)
    try:
        return read(connection)
    finally:
        connection.close()


def read(connection: http.client.HTTPConnection) -> str:
    """Ask, and read the text of the answer. OSError unless it is a 200."""
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        text = response.read().decode().strip()
    except http.client.HTTPException as failure:
        if isinstance(failure, OSError):
            raise
        raise OSError(f"{type(failure).__name__}: {failure}") from failure
    if response.status != 200 or not text:
        raise OSError(f"HTTP {response.status}: {text!r}")
    return text


def rows(text: str) -> list[dict[str, Any]]:
    """Of `--format '{{json .}}'`."""
    return [json.loads(line) for line in text.splitlines()]


def column(found: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return [str(row[key]) for row in found]


@contextmanager
def lab_of(purpose: str, managers: int, workers: int) -> Iterator[Swarm]:
    """A lab that is gone afterwards, however the test ends; labs of test runs that were killed go first."""
    remove_stale()
    lab = Lab.up(f"{NAME_PREFIX}{os.getpid()}-{purpose}", managers, workers)
    try:
        yield Swarm(lab)
    finally:
        keep_logs(lab)
        lab.down()
    until(lambda: not left_of_lab(lab.plan.name, lab.plan.machine_link), "nothing of the lab to be left", 10)


def keep_logs(lab: Lab) -> None:
    """Daemons' logs outlive the lab in the directory that SWARMPY_TEST_LOGS names, if it does."""
    target = os.environ.get("SWARMPY_TEST_LOGS")
    if target:
        for host in lab.plan.hosts:
            if lab.log(host.name).exists():
                folder = Path(target) / lab.plan.name
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(lab.log(host.name), folder / f"{host.name}.log")


def remove_stale() -> None:
    for lab in labs():
        owner, dash, _ = lab.plan.name.removeprefix(NAME_PREFIX).partition("-")
        if dash and owner.isdigit() and not Path(f"/proc/{owner}").exists():
            lab.down()


def web_images(swarm: Swarm) -> None:
    """web:1 and web:2 tell themselves apart in what they answer; web:bad ends as soon as it starts."""
    first = web_root()
    swarm.import_image("web:1", first, CHANGES)
    swarm.import_image("web:2", web_root("second"), CHANGES)
    swarm.import_image("web:bad", first, CRASH)
