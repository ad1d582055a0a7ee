"""What daemons and labs could leave on a machine, and whether they did.

Processes of a test session carry its marker in their environment, so they are told from everyone else's. Links, mounts,
cgroups, nftables tables and directories have no owner: what appeared since the session began is its own, unless another
session runs on the machine at the end, which the lock file tells; then only processes are judged.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from pyroute2 import IPRoute

from swarmpy.lab.host import find_hosts
from swarmpy.network.nftables import Nftables

__all__ = ["Session", "left_of_lab", "leftovers", "machine"]

MARKER = "SWARMPY_TEST_SESSION"
LOCK = Path(tempfile.gettempdir()) / "swarmpy-tests.lock"
OURS = "swarmpy"
PLACES = (Path("/run"), Path("/var/lib"), Path("/run/swarmpy-lab"), Path("/var/lib/swarmpy-lab"), Path("/run/netns"))
PATIENCE_S = 10.0
POLL_S = 0.05


@dataclass(frozen=True)
class Session:
    """A test session, alone on the machine or beside others."""

    marker: str
    before: frozenset[str]
    lock: int

    @classmethod
    def begin(cls) -> Session:
        """Every process started from here on carries the session's marker."""
        lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_SH)
        marker = os.environ[MARKER] = uuid4().hex
        return cls(marker, frozenset(machine()), lock)

    def end(self) -> list[str]:
        """What is left of the session once the kernel had its time to take apart what was given up; sorted."""
        deadline_s = time.monotonic() + PATIENCE_S
        try:
            while (left := self._left()) and time.monotonic() < deadline_s:
                time.sleep(POLL_S)
            return left
        finally:
            os.close(self.lock)

    def _left(self) -> list[str]:
        found = set(processes(self.marker))
        if self._alone():
            found |= {line for line in leftovers(self.before) if not any(part in line for part in self._of_others())}
        return sorted(found)

    def _of_others(self) -> set[str]:
        """What the lines about labs contain that somebody else keeps up on this machine."""
        labs = {lab for pid, lab, _, _ in find_hosts() if not marked(Path(f"/proc/{pid}"), self.marker)}
        return {f"/swarmpy-lab/{lab}" for lab in labs} | ({"link swlab"} if labs else set())

    def _alone(self) -> bool:
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self.lock, fcntl.LOCK_SH)
            return False
        fcntl.flock(self.lock, fcntl.LOCK_SH)
        return True


def leftovers(before: frozenset[str]) -> set[str]:
    """What the machine has now and had not before."""
    return set(machine()) - before


def left_of_lab(name: str, link: str) -> list[str]:
    """What the machine still has of a lab: its hosts, its link, and whatever bears its name."""
    found = [f"host {host}" for _, lab, host, _ in find_hosts() if lab == name]
    return found + [line for line in machine() if f"/{name}/" in f"{line}/" or line == f"link {link}"]


def machine() -> Iterator[str]:
    """Everything of this machine that a daemon makes and must take away, a line each."""
    yield from links()
    yield from tables()
    yield from mounts()
    yield from cgroups()
    yield from directories()


def processes(marker: str) -> Iterator[str]:
    """Processes of a session besides this one. What a container runs has an environment of its own, but its shim, its
    cgroup and its mounts are found."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and marked(entry, marker):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            yield f"process {entry.name}: {command[:160]}"


def marked(process: Path, marker: str) -> bool:
    try:
        return f"{MARKER}={marker}".encode() in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False  # it has ended, or is a zombie


def links() -> Iterator[str]:
    handle: Any = IPRoute()
    try:
        for link in handle.get_links():
            yield f"link {link.get_attr('IFLA_IFNAME')}"
    finally:
        handle.close()


def tables() -> Iterator[str]:
    nftables = Nftables()
    try:
        listed: Any = nftables.run([{"list": {"tables": None}}])
    finally:
        nftables.close()
    for item in listed:
        if "table" in item:
            yield f"nftables table {item['table']['family']} {item['table']['name']}"


def mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        yield f"mount {kind.split()[0]} at {fields.split()[4]}"


def cgroups() -> Iterator[str]:
    """Cgroups of daemons, whose parent has the project's name in it, in every hierarchy."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.split()[0] in ("cgroup", "cgroup2"):
            for top in Path(fields.split()[4]).iterdir():
                if OURS in top.name and top.is_dir():
                    yield from (f"cgroup {directory}" for directory, _, _ in os.walk(top))


def directories() -> Iterator[str]:
    """Of daemons and labs, in the places they use."""
    for place in PLACES:
        if place.is_dir():
            yield from (
                f"directory {path}"
                for path in place.iterdir()
                if OURS in path.name or OURS in place.name or place.name == "netns"
            )
