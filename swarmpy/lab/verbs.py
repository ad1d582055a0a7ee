"""What a person does with a lab, one function a verb: `swarmpy lab VERB` calls these and prints what they return.

All raise errors of swarmpy.errors whose text is meant to be shown. All need root.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict

from swarmpy.errors import Forbidden
from swarmpy.lab.cluster import HostStatus, Lab, down_all, labs
from swarmpy.lab.plan import DEFAULT_NAME

__all__ = [
    "delay",
    "down",
    "execute",
    "heal",
    "kill",
    "ls",
    "ls_json",
    "partition",
    "pause",
    "resume",
    "start",
    "stop",
    "up",
]


def up(
    name: str = DEFAULT_NAME,
    managers: int = 3,
    workers: int = 3,
    *,
    swarm: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> list[HostStatus]:
    """`lab up [--name N] [--managers 3] [--workers 3] [--no-swarm]`: the hosts, all running."""
    _need_root()
    return Lab.up(name, managers, workers, swarm=swarm, progress=progress).status()


def ls(name: str | None = None) -> dict[str, list[HostStatus]]:
    """`lab ls [--name N]`: lab name to its hosts; all labs without a name."""
    _need_root()
    chosen = labs() if name is None else [Lab.open(name)]
    return {lab.plan.name: lab.status() for lab in chosen}


def ls_json(name: str | None = None) -> list[dict[str, str]]:
    """`lab ls --format json`: one object for each host, with its lab."""
    return [{"lab": lab, **asdict(host)} for lab, hosts in ls(name).items() for host in hosts]


def execute(host: str, argv: Sequence[str], name: str = DEFAULT_NAME) -> int:
    """`lab exec HOST -- CMD`: runs on this terminal, inside the host, DOCKER_HOST set; its exit status."""
    _need_root()
    return int(Lab.open(name).run(host, argv).returncode)


def kill(host: str, name: str = DEFAULT_NAME, *, with_containers: bool = False) -> None:
    """`lab kill HOST [--with-containers]`."""
    _need_root()
    Lab.open(name).kill(host, with_containers=with_containers)


def stop(host: str, name: str = DEFAULT_NAME) -> None:
    """`lab stop HOST`: its daemon ends in order, containers stay."""
    _need_root()
    Lab.open(name).stop(host)


def start(host: str, name: str = DEFAULT_NAME) -> None:
    """`lab start HOST`: boots what is down, and waits for the daemon."""
    _need_root()
    Lab.open(name).start(host)


def pause(host: str, name: str = DEFAULT_NAME, *, daemon_only: bool = False) -> None:
    """`lab pause HOST [--daemon-only]`."""
    _need_root()
    Lab.open(name).pause(host, daemon_only=daemon_only)


def resume(host: str, name: str = DEFAULT_NAME, *, daemon_only: bool = False) -> None:
    """`lab resume HOST [--daemon-only]`."""
    _need_root()
    Lab.open(name).resume(host, daemon_only=daemon_only)


def partition(groups: Sequence[str], name: str = DEFAULT_NAME, *, one_way: bool = False) -> None:
    """`lab partition A,B C,D [--one-way]`; one group alone is cut off from everybody else."""
    _need_root()
    Lab.open(name).partition(*groups, one_way=one_way)


def delay(
    hosts: str, delay_s: float, name: str = DEFAULT_NAME, *, jitter_s: float = 0.0, loss: float = 0.0
) -> None:
    """`lab delay HOSTS SECONDS [--jitter S] [--loss 0.1]`: each way, for each frame."""
    _need_root()
    Lab.open(name).delay(hosts, delay_s, jitter_s=jitter_s, loss=loss)


def heal(name: str = DEFAULT_NAME) -> None:
    """`lab heal`: no partition, delay or loss any more."""
    _need_root()
    Lab.open(name).heal()


def down(name: str = DEFAULT_NAME, *, everything: bool = False) -> list[str]:
    """`lab down [--name N] [--all]`: the names of the labs that are gone."""
    _need_root()
    if everything:
        return down_all()
    Lab.open(name).down()
    return [name]


def _need_root() -> None:
    if os.geteuid() != 0:
        raise Forbidden("a lab makes network namespaces, mounts and links: run this as root, for example with sudo")
