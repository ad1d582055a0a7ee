"""Clients of the Engine API on all managers, at work while things go wrong. What they saw is judged afterwards.

Source  Docker Engine API: GET and POST /services/{id}, `Version.Index`.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from swarmpy.lab.engine_api import UnixConnection
from tests.chaos.history import Operation, Outcome

__all__ = ["REGISTERS", "Api", "Load", "create_registers"]

REGISTERS = ("r1", "r2", "r3")
LABEL = "value"
TIMEOUT_S = 5.0
PAUSE_S = 0.02


class Api:
    """One daemon through its socket; a connection for each request, as the docker command makes it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and decoded answer. OSError when there is none."""
        connection = UnixConnection(self._path, TIMEOUT_S)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        except http.client.HTTPException as failure:
            raise OSError(f"no answer: {failure!r}") from failure
        finally:
            connection.close()
        return response.status, json.loads(content) if content else None


def create_registers(api: Api) -> None:
    for name in REGISTERS:
        spec = {
            "Name": name,
            "Labels": {LABEL: ""},
            "TaskTemplate": {"ContainerSpec": {"Image": "web:1"}},
            "Mode": {"Replicated": {"Replicas": 0}},
        }
        status, said = api.ask("POST", "/services/create", spec)
        assert status in (200, 201), said


class Load:
    """`clients` compare-and-set the registers, each on a manager of its own; another client changes a service."""

    def __init__(self, sockets: Sequence[Path], seed: int) -> None:
        self._apis = [Api(path) for path in sockets]
        self._seed = seed
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self.registers: dict[str, list[Operation]] = {name: [] for name in REGISTERS}
        self.changes = 0                # of the service that an operator changes all the while
        self.replicas = 0               # as last asked for, whether or not it was heard

    @contextmanager
    def going(self, service: str) -> Iterator[None]:
        work = [partial(self._compare_and_set, api, number) for number, api in enumerate(self._apis)]
        work.append(partial(self._operate, service))
        threads = [threading.Thread(target=self._guarded, args=(one,), daemon=True) for one in work]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(4 * TIMEOUT_S)
        assert not any(thread.is_alive() for thread in threads), "a client hangs"
        if self._failures:
            raise self._failures[0]

    @property
    def operations(self) -> list[Operation]:
        return [operation for done in self.registers.values() for operation in done]

    def count(self, outcome: Outcome) -> int:
        return sum(operation.outcome is outcome for operation in self.operations)

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except Exception as failure:        # noqa: BLE001 - raised where the load ends
            self._failures.append(failure)

    # ------------------------------------------------------------------------------------------ registers

    def _compare_and_set(self, api: Api, number: int) -> None:
        rng = random.Random(f"{self._seed}/{number}")
        client = f"client {number}"
        for count in itertools.count():
            if self._stop.wait(PAUSE_S * rng.uniform(0.5, 2)):
                return
            name = rng.choice(REGISTERS)
            read = self._read(api, name, client)
            if read is not None and rng.random() < 0.5:
                self._write(api, name, client, *read, f"{number}.{count}")

    def _read(self, api: Api, name: str, client: str) -> tuple[int, dict[str, Any]] | None:
        began = time.monotonic()
        try:
            status, said = api.ask("GET", f"/services/{name}")
        except OSError:
            return None
        if status == 503:
            return None
        assert status == 200, f"{client}: GET /services/{name}: {status} {said}"
        version, spec = said["Version"]["Index"], said["Spec"]
        seen = Operation(Outcome.SAW, version, spec["Labels"][LABEL], began, time.monotonic(), client)
        self.registers[name].append(seen)
        return version, spec

    def _write(self, api: Api, name: str, client: str, version: int, spec: dict[str, Any], value: str) -> None:
        changed = {**spec, "Labels": {LABEL: value}}
        began = time.monotonic()
        outcome = Outcome.UNKNOWN
        try:
            status, said = api.ask("POST", f"/services/{name}/update?version={version}", changed)
        except OSError:
            status, said = 0, None
        if status == 200:
            outcome = Outcome.WROTE
        elif status and status != 503:
            assert "out of sequence" in str(said), f"{client}: update of {name}: {status} {said}"
            outcome = Outcome.REFUSED
        self.registers[name].append(Operation(outcome, version, value, began, time.monotonic(), client))

    # ------------------------------------------------------------------------------------------ a service

    def _operate(self, service: str) -> None:
        """Scale it and roll out versions of it, at whatever manager hears."""
        rng = random.Random(f"{self._seed}/operator")
        while not self._stop.wait(rng.uniform(0.5, 4)):
            api = rng.choice(self._apis)
            try:
                status, said = api.ask("GET", f"/services/{service}")
                if status != 200:
                    continue
                spec = said["Spec"]
                if rng.random() < 0.6:
                    spec["Mode"]["Replicated"]["Replicas"] = rng.randint(2, 8)
                else:
                    spec["TaskTemplate"]["ContainerSpec"]["Env"] = [f"ROLL={rng.random()}"]
                status, _ = api.ask("POST", f"/services/{service}/update?version={said['Version']['Index']}", spec)
                self.changes += status == 200
            except OSError:
                continue
