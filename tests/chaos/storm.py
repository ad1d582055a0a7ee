"""Faults made to happen to a lab, at their time, and undone."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from swarmpy.lab import Lab
from tests.chaos.weather import ON_A_HOST, Fault, Trouble

__all__ = ["blow"]

WIRE = "the wire"
DELAY_S, JITTER_S = 0.15, 0.1
LOSS = 0.1
FILL = 'cat /dev/zero > "$1/ballast"; true'       # until there is no space left


def blow(lab: Lab, faults: Sequence[Fault], told: Callable[[str], None]) -> None:
    """All faults have happened and are over. Raises what making or undoing one raises.

    What happens to one host, and to the wire, happens in its order, however long a step takes: a host that is to stand
    still until a moment at which it is not yet up again stands still and goes on right after it is.
    """
    began_s = time.monotonic()
    locks = {host.name: threading.Lock() for host in lab.plan.hosts}

    def run(fault: Fault, step: Callable[[Lab, Fault], None], word: str) -> None:
        with ExitStack() as held:
            for host in sorted(fault.hosts):
                held.enter_context(locks[host])
            told(f"{time.monotonic() - began_s:6.1f} s  {word} {fault.trouble}: {', '.join(fault.hosts)}")
            step(lab, fault)

    due = [
        *((fault.began_s, fault, _begin, "begins:") for fault in faults),
        *((fault.ended_s, fault, _end, "ends:  ") for fault in faults),
    ]
    with ExitStack() as open_queues:
        queues = {name: open_queues.enter_context(ThreadPoolExecutor(1)) for name in (*locks, WIRE)}
        started: list[Future[None]] = []
        for at_s, fault, step, word in sorted(due, key=lambda step: step[0]):
            time.sleep(max(0.0, began_s + at_s - time.monotonic()))
            queue = queues[fault.hosts[0] if fault.trouble in ON_A_HOST else WIRE]
            started.append(queue.submit(run, fault, step, word))
            for done in [future for future in started if future.done()]:
                started.remove(done)
                done.result()
        for future in started:
            future.result()


def _begin(lab: Lab, fault: Fault) -> None:
    host = fault.hosts[0]
    match fault.trouble:
        case Trouble.DAEMON_KILLED:
            lab.kill(host)
        case Trouble.POWER_CUT:
            lab.kill(host, with_containers=True)
        case Trouble.HOST_STANDS_STILL:
            lab.pause(host)
        case Trouble.DAEMON_STANDS_STILL:
            lab.pause(host, daemon_only=True)
        case Trouble.RESTARTED:
            lab.stop(host)
            lab.start(host)
        case Trouble.DISK_FULL:
            lab.run(host, ["sh", "-c", FILL, "sh", _data_root(lab, host)], stderr=subprocess.DEVNULL)
        case Trouble.PARTITION | Trouble.ONE_WAY:
            lab.partition(",".join(fault.hosts), one_way=fault.trouble is Trouble.ONE_WAY)
        case Trouble.DELAY:
            for name in _with_a_link(lab, fault):
                lab.delay(name, DELAY_S, jitter_s=JITTER_S)
        case Trouble.LOSS:
            for name in _with_a_link(lab, fault):
                lab.delay(name, 0.0, loss=LOSS)


def _end(lab: Lab, fault: Fault) -> None:
    host = fault.hosts[0]
    match fault.trouble:
        case Trouble.DAEMON_KILLED | Trouble.POWER_CUT:
            lab.start(host)
        case Trouble.HOST_STANDS_STILL:
            lab.resume(host)
        case Trouble.DAEMON_STANDS_STILL:
            lab.resume(host, daemon_only=True)
        case Trouble.DISK_FULL:
            lab.run(host, ["rm", "-f", f"{_data_root(lab, host)}/ballast"])
            if lab.state(host) != "running":
                lab.start(host)         # a daemon may end for want of space; who frees some starts it again
        case Trouble.RESTARTED:
            return
        case Trouble.PARTITION | Trouble.ONE_WAY | Trouble.DELAY | Trouble.LOSS:
            lab.heal()


def _with_a_link(lab: Lab, fault: Fault) -> list[str]:
    return [name for name in fault.hosts if lab.state(name) != "down"]


def _data_root(lab: Lab, host: str) -> str:
    return str(lab.plan.data_dir / host)
