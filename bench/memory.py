"""Memory of an idle node, and what each container adds to it, beside the container's own.

Proportional set size: pages that processes share are divided among them. Ours is the daemon and its shims; dockerd's
are dockerd, containerd and its shims. Both are the only manager of a swarm, and have an image, a container behind them
and one client.
"""

from __future__ import annotations

from contextlib import suppress

from bench.engines import IMAGE, Engine, dockerd, missing, swarmpyd
from bench.harness import Row, compare
from bench.processes import listener, pss_bytes, same_namespace

__all__ = ["measure"]

CONTAINERS = 50
IDLE_GOAL, CONTAINER_GOAL = 1 / 0.6, 1.0


def measure(repeats: int) -> list[Row]:
    """One swarm of each side, whatever `repeats` is: what is measured is the state of a daemon."""
    del repeats
    with swarmpyd() as ours, dockerd() as peer:
        name = peer.name if peer else f"no {', '.join(missing())} on this machine"
        idle, each = _mib(ours)
        peer_idle, peer_each = _mib(peer) if peer else (None, None)
        return [
            compare("memory of an idle node", "MiB", "less", [idle], _some(peer_idle), name, IDLE_GOAL),
            compare(f"memory for each of {CONTAINERS} containers", "MiB", "less", [each], _some(peer_each), name,
                    CONTAINER_GOAL),
        ]  # fmt: skip


def _some(figure: float | None) -> list[float]:
    return [] if figure is None else [figure]


def _mib(engine: Engine) -> tuple[float, float]:
    """Of the idle node, and of each container that runs."""
    _remove(engine, [_start(engine)])
    idle = _whole(engine)
    paths = [_start(engine) for _ in range(CONTAINERS)]
    each = (_whole(engine) - idle) / CONTAINERS
    _remove(engine, paths)
    return idle / (1 << 20), each / (1 << 20)


def _start(engine: Engine) -> str:
    body = {"Image": IMAGE, "Cmd": ["/bin/sleep", "100000"]}
    path = f"/containers/{engine.call('POST', '/containers/create', body)['Id']}"
    engine.call("POST", f"{path}/start")
    return path


def _remove(engine: Engine, paths: list[str]) -> None:
    for path in paths:
        engine.call("DELETE", path, query={"force": 1})


def _whole(engine: Engine) -> int:
    """Bytes of all that is neither a container nor the first process of the engine's namespace, which we made."""
    whole = 0
    for pid in same_namespace(listener(engine.socket)):
        with suppress(ProcessLookupError, FileNotFoundError):       # it ended meanwhile
            whole += pss_bytes(pid)
    return whole
