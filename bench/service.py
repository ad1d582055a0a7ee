"""What a user of one host waits for: a service of 50 replicas, its end, a container's whole life, and the command line.

Both sides are one daemon that is the only manager of its swarm, asked through the Engine API by the same client over
the same kind of socket. Tasks have the default bridge network and publish no port.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.engines import IMAGE, Engine, dockerd, missing, swarmpyd, until
from bench.harness import Row, Samples, alternate, compare

__all__ = ["measure"]

REPLICAS = 50
CONTAINERS = 10     # in each sample
COMMANDS = 5        # in each sample
NODES = 3
LIFE_GOAL = 1 / 0.12
SERVICE_GOAL = 10.0
SPREAD_GOAL_S = 0.4
CLI_GOAL_MS = 150.0


def measure(repeats: int) -> list[Row]:
    """Every row; dockerd's services are missing where SwarmKit does not run on this kernel."""
    with swarmpyd() as ours, dockerd() as peer:
        absent = f"no {', '.join(missing())} on this machine"
        name = peer.name if peer else absent
        swarm_peer = peer if peer and not peer.swarm_failure else None
        swarm_name = peer.swarm_failure or peer.name if peer else absent

        ours_ms, peer_ms = _in_turn(repeats, _container_ms, ours, peer)
        ours_run, peer_run = _in_turn(repeats, _run_ms, ours, peer)
        (ours_up, peer_up), (ours_down, peer_down) = _services(repeats, ours, swarm_peer)
        docker = shutil.which("docker")
        cli_peer = swarm_peer if docker else None
        ours_cli, peer_cli = alternate(
            repeats,
            lambda: _command_ms(_swarmpy(), ours),
            (lambda: _command_ms([str(docker)], cli_peer)) if cli_peer else None,
        )
        rows = [
            compare("container's life through the API", "ms", "less", ours_ms, peer_ms, name),
            compare("run --rm through the API", "ms", "less", ours_run, peer_run, name, LIFE_GOAL),
            compare(
                f"service of {REPLICAS}: create to running", "s", "less", ours_up, peer_up, swarm_name, SERVICE_GOAL
            ),
            compare(f"service of {REPLICAS}: scale to 0", "s", "less", ours_down, peer_down, swarm_name, SERVICE_GOAL),
            compare(
                "command line: service ls", "ms", "less", ours_cli, peer_cli,
                _docker_version(docker) if cli_peer else "no docker on this machine", CLI_GOAL_MS, goal_of="figure",
            ),
        ]  # fmt: skip
    with swarmpyd(NODES) as ours:
        spread = [_service_s(ours, NODES)[0] for _ in range(repeats + 1)][1:]
    what = f"service of {NODES} on {NODES} nodes: create to running"
    rows.append(compare(what, "s", "less", spread, [], "no peer", SPREAD_GOAL_S, goal_of="figure"))
    return rows


def _in_turn(
    repeats: int, sample: Callable[[Engine], float], ours: Engine, peer: Engine | None
) -> tuple[list[float], list[float]]:
    """Samples of both, after one of each that does not count: the first of everything is slower."""
    for engine in (ours, peer):
        if engine is not None:
            sample(engine)
    return alternate(repeats, lambda: sample(ours), (lambda: sample(peer)) if peer else None)


# ---------------------------------------------------------------------------------------------- containers


def _container_ms(engine: Engine) -> float:
    """Milliseconds of create, start, wait and remove, one container after the other."""
    begun_s = time.perf_counter()
    for _ in range(CONTAINERS):
        path = "/containers/" + engine.call("POST", "/containers/create", {"Image": IMAGE, "Cmd": ["/bin/true"]})["Id"]
        engine.call("POST", f"{path}/start")
        code = engine.call("POST", f"{path}/wait")["StatusCode"]
        if code != 0:
            raise RuntimeError(f"{engine.name}: /bin/true ended with {code}")
        engine.call("DELETE", path)
    return (time.perf_counter() - begun_s) / CONTAINERS * 1000


def _run_ms(engine: Engine) -> float:
    """Milliseconds of what `docker run --rm` asks for: create, wait for its removal, start; one after the other."""
    waiting = Engine(engine.socket)
    begun_s = time.perf_counter()
    for _ in range(CONTAINERS):
        body = {"Image": IMAGE, "Cmd": ["/bin/true"], "HostConfig": {"AutoRemove": True}}
        path = "/containers/" + engine.call("POST", "/containers/create", body)["Id"]
        removed = waiting.ask("POST", f"{path}/wait", query={"condition": "removed"})
        engine.call("POST", f"{path}/start")
        code = waiting.read(removed)["StatusCode"]
        if code != 0:
            raise RuntimeError(f"{engine.name}: /bin/true ended with {code}")
    waiting.close()
    return (time.perf_counter() - begun_s) / CONTAINERS * 1000


# ---------------------------------------------------------------------------------------------- services


def _services(
    repeats: int, ours: Engine, peer: Engine | None
) -> tuple[tuple[Samples, Samples], tuple[Samples, Samples]]:
    """Ours and the peer's seconds until all tasks run; and until nothing is left of them."""
    down: dict[str, list[float]] = {engine.name: [] for engine in (ours, peer) if engine}

    def sample(engine: Engine) -> float:
        up_s, down_s = _service_s(engine)
        down[engine.name].append(down_s)
        return up_s

    ups = alternate(repeats, lambda: sample(ours), (lambda: sample(peer)) if peer else None)
    return ups, (down[ours.name], down[peer.name] if peer else [])


def _service_s(engine: Engine, replicas: int = REPLICAS) -> tuple[float, float]:
    """Seconds until all replicas of a new service run, and from scaling it to none until no container is left."""
    # Process 1 has no handler of SIGTERM and would not hear it: both sides would measure their grace period.
    container = {"Image": IMAGE, "Command": ["/bin/sleep", "100000"], "StopSignal": "SIGKILL"}
    spec = {
        "Name": "bench",
        "TaskTemplate": {"ContainerSpec": container},
        "Mode": {"Replicated": {"Replicas": replicas}},
    }
    begun_s = time.perf_counter()
    path = "/services/" + engine.call("POST", "/services/create", spec)["ID"]
    until(lambda: _states(engine).count("running") == replicas, f"{replicas} tasks of {engine.name} to run")
    up_s = time.perf_counter() - begun_s

    version = engine.call("GET", path)["Version"]["Index"]
    begun_s = time.perf_counter()
    none = spec | {"Mode": {"Replicated": {"Replicas": 0}}}
    engine.call("POST", f"{path}/update", none, query={"version": version})
    until(lambda: not _containers(engine) and not _states(engine), f"the tasks of {engine.name} to be gone")
    down_s = time.perf_counter() - begun_s
    engine.call("DELETE", path)
    return up_s, down_s


def _states(engine: Engine) -> list[str]:
    filters = json.dumps({"service": ["bench"]})
    return [task["Status"]["State"] for task in engine.call("GET", "/tasks", query={"filters": filters})]


def _containers(engine: Engine) -> int:
    return len(engine.call("GET", "/containers/json", query={"all": 1}))


# ---------------------------------------------------------------------------------------------- the command line


def _swarmpy() -> list[str]:
    """The installed command, else the module it is made of."""
    installed = Path(sys.executable).parent / "swarmpy"
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "swarmpy.cli.main"]


def _command_ms(command: list[str], engine: Engine) -> float:
    """Milliseconds of the whole `service ls`, from its start to its end."""
    env = os.environ | {"DOCKER_HOST": engine.docker_host}
    begun_s = time.perf_counter()
    for _ in range(COMMANDS):
        subprocess.run([*command, "service", "ls"], env=env, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - begun_s) / COMMANDS * 1000


def _docker_version(docker: str | None) -> str:
    text = subprocess.run([str(docker), "--version"], capture_output=True, text=True, check=True).stdout
    return f"docker {text.split()[2].rstrip(',')}"
