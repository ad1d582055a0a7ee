"""A swarm of real daemons under load while everything fails, and what must hold afterwards.

After the last fault the swarm is whole again within `WHOLE_AGAIN_S`; what the clients saw of every register could have
come from one copy of it, so no acknowledged write is lost; each replica runs once, and nothing is left of the lab.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from docker.errors import APIError
from requests.exceptions import RequestException

from swarmpy.lab import Lab
from swarmpy.lab.plan import DAEMON
from tests.chaos.history import Operation, Outcome, violation
from tests.chaos.load import Api, Load, create_registers
from tests.chaos.storm import blow
from tests.chaos.weather import forecast
from tests.cluster.swarm import NAME_PREFIX, Swarm, keep_logs, remove_stale, until, web_images
from tests.leftovers import left_of_lab

__all__ = ["chaos"]

WHOLE_AGAIN_S = 30.0
LAST_LINES = 15
SERVICE, PORT = "web", 8080
ON_OWN_DISK = Path(__file__).parent / "on_own_disk.sh"


def chaos(
    duration_s: float, seed: int, told: Callable[[str], None] = print, *, managers: int = 5, workers: int = 5
) -> None:
    """Raises AssertionError, with the seed, when something does not hold."""
    told(f"seed {seed}: {managers} managers and {workers} workers, {duration_s:g} s of faults")
    remove_stale()
    lab = Lab.up(f"{NAME_PREFIX}{os.getpid()}-chaos", managers, workers, daemon=("/bin/sh", str(ON_OWN_DISK), *DAEMON))
    try:
        _storm(Swarm(lab), duration_s, seed, told)
    except Exception as failure:
        raise AssertionError(f"seed {seed}: {failure}") from failure
    finally:
        keep_logs(lab)
        lab.down()
    until(lambda: not left_of_lab(lab.plan.name, lab.plan.machine_link), "nothing of the lab to be left", 10)


def _storm(swarm: Swarm, duration_s: float, seed: int, told: Callable[[str], None]) -> None:
    web_images(swarm)
    create_registers(Api(swarm.lab.api_socket(swarm.managers[0])))
    create = ("service", "create", "-d", "--name", SERVICE, "--replicas", "5", "-p", f"{PORT}:80", "web:1")
    swarm.docker(*create).ok()
    swarm.converged(SERVICE, 5)

    load = Load([swarm.lab.api_socket(name) for name in swarm.managers], seed)
    with load.going(SERVICE):
        blow(swarm.lab, forecast(Random(seed), swarm.hosts, duration_s), told)
        ended_s = time.monotonic()
    replicas = _whole(swarm)
    told(
        f"whole again after {time.monotonic() - ended_s:.1f} s: {len(load.operations)} operations, "
        f"{load.count(Outcome.WROTE)} writes acknowledged, {load.count(Outcome.UNKNOWN)} unknown; "
        f"{load.changes} changes of a service of now {replicas}"
    )
    for name, operations in load.registers.items():
        wrong = violation(operations)
        assert wrong is None, f"register {name}: {wrong}\n{_told_around(operations, wrong)}"
    assert load.count(Outcome.WROTE) >= duration_s / 2, "hardly a write was accepted"
    for host in swarm.hosts:
        swarm.seen(host, PORT, replicas)


def _told_around(operations: list[Operation], wrong: str) -> str:
    """What the clients did with the values that a violation names."""
    named = [operation for operation in operations if repr(operation.value) in wrong]
    return "\n".join(map(str, sorted(named, key=lambda operation: operation.began)))


def _whole(swarm: Swarm) -> int:
    """The number of replicas, once all nodes are ready and every replica runs once, where the tasks say so."""
    amiss = "nothing was asked yet"

    def replicas() -> int | None:
        nonlocal amiss
        try:
            found = _look(swarm)
        except (APIError, RequestException, OSError) as failure:
            amiss = repr(failure)
            return None
        amiss = found.amiss()
        return None if amiss else found.replicas

    try:
        return until(replicas, "the swarm to be whole again", WHOLE_AGAIN_S)
    except AssertionError as failure:
        raise AssertionError(f"{failure}: {amiss}\n{_last_words(swarm)}") from failure


@dataclass(frozen=True)
class Found:
    """What a manager and the hosts say."""

    replicas: int
    update: str
    tasks: list[dict[str, Any]]
    away: list[str]                 # hosts whose node is not ready
    containers: list[str]           # the tasks of the running ones

    def amiss(self) -> str:
        """What is not as it should be; nothing when the swarm is whole."""
        wanted = {task["ID"]: task["Slot"] for task in self.tasks if task["DesiredState"] == "running"}
        running = {task["ID"] for task in self.tasks if task["Status"]["State"] == "running"}
        slots = sorted(wanted.values())
        wrong = {
            f"not ready: {self.away}": bool(self.away),
            f"the update is {self.update}": self.update in ("updating", "rollback_started"),
            f"{self.replicas} replicas in the slots {slots}": not len(set(slots)) == len(slots) == self.replicas,
            f"tasks that should run: {sorted(wanted)}, that do: {sorted(running)}": running != set(wanted),
            f"tasks that should run: {sorted(wanted)}, containers: {self.containers}":
                sorted(self.containers) != sorted(wanted),
        }  # fmt: skip
        return "; ".join(words for words, is_wrong in wrong.items() if is_wrong)


def _look(swarm: Swarm) -> Found:
    manager = swarm.leader()
    service = swarm.api(manager).api.inspect_service(SERVICE)
    return Found(
        replicas=service["Spec"]["Mode"]["Replicated"]["Replicas"],
        update=service.get("UpdateStatus", {}).get("State", ""),
        tasks=swarm.tasks(SERVICE, manager),
        away=[host for host in swarm.hosts if not swarm.ready(host, manager)],
        containers=_containers(swarm),
    )


def _containers(swarm: Swarm) -> list[str]:
    """The task of each running container of the service, on all hosts."""
    filters = {"label": f"com.docker.swarm.service.name={SERVICE}"}
    return [
        row["Labels"]["com.docker.swarm.task.id"]
        for host in swarm.hosts
        for row in swarm.api(host).api.containers(filters=filters)
    ]


def _last_words(swarm: Swarm) -> str:
    """What the daemons said last."""
    logs = {host: swarm.lab.log(host) for host in swarm.hosts}
    tails = {host: log.read_text(errors="replace").splitlines()[-LAST_LINES:] for host, log in logs.items()}
    return "\n".join(f"{host}  {line}" for host, lines in tails.items() for line in lines)


def main() -> int:
    minutes, seed = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    chaos(minutes * 60, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
