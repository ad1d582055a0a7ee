"""`python -m bench.failover [--leader N] [--worker N] [--leader-host N]`: so many failures of each kind.

What a failure costs: until writes are accepted again, and until replicas that are lost run on other hosts.

A lab of three managers and two workers at default settings, asked through the Engine API of the managers that are left.
Each sample is one failure of a whole swarm: the leader's daemon killed; a worker's host without power; the leader's
host without power. The other side of a connection to a host without power hears nothing of it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from bench.engines import IMAGE, Engine, Refused, until
from bench.harness import Row, Samples, compare, line, write
from swarmpy.lab import Lab

__all__ = ["measure"]

Sample = TypeVar("Sample")

MANAGERS, WORKERS = 3, 2
REPLICAS = 10                    # two on every host
WRITES_GOAL_S = 1.5
REPLICAS_GOAL_S = 8.0
LEADER_FAILURES, HOST_FAILURES = 50, 20    # for a 99th percentile that means something
ANSWER_S = 12.0                  # of one request, which may have to wait for an election
SERVICE = "bench"


def measure(repeats: int) -> list[Row]:
    """Every row; `repeats` failures of each kind."""
    return failures(repeats, repeats, repeats)


def failures(leaders: int, workers: int, leader_hosts: int) -> list[Row]:
    """The rows of each kind of failure that happens at all, the kinds in turn."""
    leader: list[float] = []
    worker: list[float] = []
    host_writes: list[float] = []
    host_replicas: list[float] = []
    with _cluster() as cluster:
        cluster.round(cluster.leader_killed)         # the first of everything is slower
        for number in range(max(leaders, workers, leader_hosts)):
            if number < leaders:
                leader.append(cluster.round(cluster.leader_killed))
            if number < workers:
                worker.append(cluster.round(cluster.worker_host_killed))
            if number < leader_hosts:
                writes_s, replicas_s = cluster.round(cluster.leader_host_killed)
                host_writes.append(writes_s)
                host_replicas.append(replicas_s)
    return [
        *_quantiles("leader killed: to a write accepted", leader, WRITES_GOAL_S),
        *_quantiles("worker's host killed: to replicas elsewhere", worker, REPLICAS_GOAL_S),
        *_quantiles("leader's host killed: to a write accepted", host_writes, WRITES_GOAL_S),
        *_quantiles("leader's host killed: to replicas elsewhere", host_replicas, REPLICAS_GOAL_S),
    ]


def _quantiles(name: str, samples: Samples, goal: float) -> list[Row]:
    """Rows of the middle, the 99th percentile (nearest rank) and the worst; the goal is of the second."""
    if not samples:
        return []
    ordered = sorted(samples)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    figures = {"p50": (samples, None), "p99": ([p99], goal), "max": ([ordered[-1]], None)}
    return [
        compare(f"{name}, {label}", "s", "less", figure, [], f"no peer, {len(samples)} failures", wish, "figure")
        for label, (figure, wish) in figures.items()
    ]


# ---------------------------------------------------------------------------------------------- the cluster


@contextmanager
def _cluster() -> Iterator[_Cluster]:
    lab = Lab.up(f"bench{os.getpid()}", MANAGERS, WORKERS)
    try:
        cluster = _Cluster(lab)
        for engine in cluster.engines.values():
            engine.import_image()
        yield cluster
    finally:
        lab.down()


class _Cluster:
    """A lab whose hosts all have the image, and the failures it goes through."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.managers = [host.name for host in lab.plan.hosts if host.role == "manager"]
        self.workers = [host.name for host in lab.plan.hosts if host.role == "worker"]
        self.engines = {host.name: Engine(lab.api_socket(host.name), request_s=ANSWER_S) for host in lab.plan.hosts}
        self._numbers = count()

    def round(self, failure: Callable[[], Sample]) -> Sample:
        """One failure of a swarm that is whole before, and again afterwards."""
        self._until_whole()
        leader = self.engines[self.leader()]
        path = "/services/" + leader.call("POST", "/services/create", _service(SERVICE, REPLICAS))["ID"]
        self._until_running(self.leader(), self.hosts)
        sample = failure()
        for host in self.hosts:
            if self.lab.state(host) != "running":
                self.engines[host].close()       # its connections ended with the daemon
                self.lab.start(host)
        self._until_whole()
        leader = self.engines[self.leader()]
        for service in leader.call("GET", "/services"):
            leader.call("DELETE", f"/services/{service['ID']}")
        until(lambda: not leader.call("GET", "/tasks"), f"the tasks of {path} to be gone")
        return sample

    # ------------------------------------------------------------------------------------------ failures

    def leader_killed(self) -> float:
        """Seconds until another manager accepts a write."""
        leader = self.leader()
        left = [name for name in self.managers if name != leader]
        with self._writers(left) as writers:
            return writers.gap_s(lambda: self.lab.kill(leader))

    def worker_host_killed(self) -> float:
        """Seconds until all replicas run on the other hosts."""
        leader, victim = self.leader(), self.workers[next(self._numbers) % len(self.workers)]
        begun_s = time.monotonic()
        self.lab.kill(victim, with_containers=True)
        self._until_running(leader, [host for host in self.hosts if host != victim])
        return time.monotonic() - begun_s

    def leader_host_killed(self) -> tuple[float, float]:
        """Seconds until another manager accepts a write, and until all replicas run on the other hosts."""
        leader = self.leader()
        left = [name for name in self.managers if name != leader]
        begun_s = time.monotonic()
        with self._writers(left) as writers:
            writes_s = writers.gap_s(lambda: self.lab.kill(leader, with_containers=True))
        self._until_running(left[0], [host for host in self.hosts if host != leader])
        return writes_s, time.monotonic() - begun_s

    # ------------------------------------------------------------------------------------------ what it sees

    @property
    def hosts(self) -> list[str]:
        return list(self.engines)

    def leader(self) -> str:
        """The leader's host, once a manager knows of one."""
        found = ""

        def named() -> bool:
            nonlocal found
            for manager in self.managers:
                for name, node in self._nodes(manager).items():
                    if node.get("ManagerStatus", {}).get("Leader"):
                        found = name
                        return True
            return False

        until(named, "a leader")
        return found

    def _until_whole(self) -> None:
        """All nodes are ready, and every manager has every other one in reach."""

        def whole(manager: str) -> bool:
            nodes = self._nodes(manager).values()
            reach = [node["ManagerStatus"].get("Reachability") for node in nodes if "ManagerStatus" in node]
            ready = [node["Status"]["State"] == "ready" for node in nodes]
            return len(ready) == len(self.hosts) and all(ready) and reach == ["reachable"] * MANAGERS

        until(lambda: all(whole(manager) for manager in self.managers), "all nodes to be ready and in reach")

    def _until_running(self, via: str, hosts: Sequence[str]) -> None:
        """All replicas run, and on these hosts alone."""
        filters = json.dumps({"service": [SERVICE], "desired-state": ["running"]})
        expected: set[str] = set()

        def running() -> bool:
            if not expected:
                expected.update(node["ID"] for name, node in self._nodes(via).items() if name in hosts)
            try:
                tasks = self.engines[via].call("GET", "/tasks", query={"filters": filters})
            except (Refused, OSError, HTTPException):
                return False             # no leader at the moment
            placed = [task["NodeID"] for task in tasks if task["Status"]["State"] == "running"]
            return len(placed) == REPLICAS and expected.issuperset(placed)

        until(running, f"{REPLICAS} replicas to run on {', '.join(hosts)}")

    def _nodes(self, via: str) -> dict[str, dict[str, Any]]:
        """By host name; none while this manager has no leader."""
        try:
            nodes = self.engines[via].call("GET", "/nodes")
        except (Refused, OSError, HTTPException):
            return {}
        return {node["Description"]["Hostname"]: node for node in nodes}

    @contextmanager
    def _writers(self, managers: Sequence[str]) -> Iterator[_Writers]:
        writers = _Writers([Engine(self.lab.api_socket(name), request_s=ANSWER_S) for name in managers])
        try:
            yield writers
        finally:
            writers.close()


class _Writers:
    """A client of each of these managers, which creates services without replicas one after the other."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._stop = threading.Event()
        self._accepted: list[tuple[float, float]] = []       # begun, accepted
        self._numbers = count()
        self._threads = [threading.Thread(target=self._write, args=(engine,), daemon=True) for engine in engines]
        for thread in self._threads:
            thread.start()
        until(lambda: len(self._accepted) >= len(engines), "writes before the failure")

    def gap_s(self, fail: Callable[[], None]) -> float:
        """Seconds from before `fail` until a write is accepted that began after it."""
        begun_s = time.monotonic()
        fail()
        failed_s = time.monotonic()
        until(lambda: any(since_s > failed_s for since_s, _ in self._accepted), "a write after the failure")
        return min(at_s for since_s, at_s in self._accepted if since_s > failed_s) - begun_s

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, engine: Engine) -> None:
        while not self._stop.is_set():
            begun_s = time.monotonic()
            try:
                engine.call("POST", "/services/create", _service(f"w{next(self._numbers)}", 0))
            except (Refused, OSError, HTTPException):
                self._stop.wait(0.02)
            else:
                self._accepted.append((begun_s, time.monotonic()))
                self._stop.wait(0.02)
        engine.close()


def _service(name: str, replicas: int) -> dict[str, object]:
    container = {"Image": IMAGE, "Command": ["/bin/sleep", "100000"], "StopSignal": "SIGKILL"}
    return {
        "Name": name,
        "TaskTemplate": {"ContainerSpec": container},
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.failover", description="Failures of a whole swarm, timed.")
    parser.add_argument("--leader", type=int, default=LEADER_FAILURES, help="leaders killed (default %(default)s)")
    parser.add_argument("--worker", type=int, default=HOST_FAILURES, help="workers' hosts killed (default %(default)s)")
    parser.add_argument("--leader-host", type=int, default=0, help="leaders' hosts killed (default %(default)s)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    rows = failures(arguments.leader, arguments.worker, arguments.leader_host)
    for row in rows:
        print(line(row), flush=True)
    write(rows, Path("build/bench.json"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
