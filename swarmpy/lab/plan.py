"""What a lab consists of, as values: names, addresses, directories. Pure.

A lab has a number from 1 to 254 and owns 10.77.<number>.0/24: the machine is .1, managers begin at .11, workers at
.101.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from swarmpy.errors import InvalidArgument, NotFound, Unavailable

__all__ = ["DAEMON", "DATA_DIR", "DEFAULT_NAME", "RUN_DIR", "HostPlan", "LabPlan", "checked_name", "choose_number"]

DEFAULT_NAME = "lab"
RUN_DIR = Path("/run/swarmpy-lab")
DATA_DIR = Path("/var/lib/swarmpy-lab")
CGROUP_PARENT = "/swarmpy-lab"
MACHINE_LINK_PREFIX = "swlab"
DAEMON = (sys.executable, "-m", "swarmpy.daemon.main")
SWARM_PORT = 2377
MOST_MANAGERS, MOST_WORKERS = 90, 150


def checked_name(name: str) -> str:
    """A name that fits into socket paths (unix(7): 107 bytes) and cgroup names."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,19}", name):
        raise InvalidArgument(f"lab name {name!r} must be 1 to 20 letters (a-z), digits and dashes, a letter first")
    return name


def choose_number(taken: Iterable[int]) -> int:
    """The lowest lab number nobody has. Unavailable when there is none."""
    held = set(taken)
    for number in range(1, 255):
        if number not in held:
            return number
    raise Unavailable("all 254 lab networks 10.77.1.0/24 to 10.77.254.0/24 are in use; take a lab down")


@dataclass(frozen=True, slots=True)
class HostPlan:
    """One host: `role` is "manager" or "worker", as it joins."""

    name: str
    role: str
    address: str

    @property
    def swarm_address(self) -> str:
        return f"{self.address}:{SWARM_PORT}"


@dataclass(frozen=True, slots=True)
class LabPlan:
    """A whole lab. `daemon` is the command that each host runs, before its options: swarmpyd, of whatever version."""

    name: str
    number: int
    hosts: tuple[HostPlan, ...]
    run_root: Path = RUN_DIR
    data_root: Path = DATA_DIR
    daemon: tuple[str, ...] = DAEMON

    @classmethod
    def make(
        cls,
        name: str,
        number: int,
        managers: int,
        workers: int,
        run_root: Path = RUN_DIR,
        data_root: Path = DATA_DIR,
        daemon: tuple[str, ...] = DAEMON,
    ) -> LabPlan:
        """Raises InvalidArgument when there are too few or too many hosts."""
        if not 1 <= managers <= MOST_MANAGERS:
            raise InvalidArgument(f"a lab has 1 to {MOST_MANAGERS} managers, not {managers}")
        if not 0 <= workers <= MOST_WORKERS:
            raise InvalidArgument(f"a lab has 0 to {MOST_WORKERS} workers, not {workers}")
        subnet = IPv4Network(f"10.77.{number}.0/24")
        hosts = [HostPlan(f"manager{n}", "manager", str(subnet[10 + n])) for n in range(1, managers + 1)]
        hosts += [HostPlan(f"worker{n}", "worker", str(subnet[100 + n])) for n in range(1, workers + 1)]
        return cls(checked_name(name), number, tuple(hosts), run_root, data_root, daemon)

    @property
    def subnet(self) -> IPv4Network:
        return IPv4Network(f"10.77.{self.number}.0/24")

    @property
    def machine_address(self) -> IPv4Address:
        """Where hosts reach the machine the lab runs on."""
        return self.subnet[1]

    @property
    def machine_link(self) -> str:
        """The one link a lab has in the machine's own network namespace."""
        return f"{MACHINE_LINK_PREFIX}{self.number}"

    @property
    def run_dir(self) -> Path:
        return self.run_root / self.name

    @property
    def data_dir(self) -> Path:
        return self.data_root / self.name

    @property
    def cgroup(self) -> str:
        return f"{CGROUP_PARENT}/{self.name}"

    def host(self, name: str) -> HostPlan:
        """Raises NotFound, listing the names there are."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise NotFound(f"lab {self.name} has no host {name!r}; it has {', '.join(host.name for host in self.hosts)}")

    def group(self, names: str) -> tuple[HostPlan, ...]:
        """The hosts of a comma-separated list. NotFound for an unknown name, InvalidArgument for none at all."""
        found = tuple(self.host(name.strip()) for name in names.split(",") if name.strip())
        if not found:
            raise InvalidArgument(f"group {names!r} names no host; separate host names by commas")
        return found

    def to_json(self) -> str:
        fields = asdict(self) | {"run_root": str(self.run_root), "data_root": str(self.data_root)}
        return json.dumps(fields, indent=1)

    @classmethod
    def from_json(cls, text: str) -> LabPlan:
        fields = json.loads(text)
        return cls(
            name=fields["name"],
            number=fields["number"],
            hosts=tuple(HostPlan(**host) for host in fields["hosts"]),
            run_root=Path(fields["run_root"]),
            data_root=Path(fields["data_root"]),
            daemon=tuple(fields["daemon"]),
        )
