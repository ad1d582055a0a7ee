"""Where machines stand: a network namespace with one bridge.

`cat` on a pipe from the test holds it: when the test ends, however it does, cat ends, and the kernel takes the links.
The machines are killed with the test that started them (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any, TypeVar

from pyroute2 import IPRoute

from swarmpy.network.kernel import in_namespace

__all__ = ["NETWORK", "Site"]

T = TypeVar("T")

NETWORK = "10.78.0"
OURS = f"{NETWORK}.254"
BRIDGE = "site"


class Site:
    """See the module. The test itself is on the bridge, with address `OURS`."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo up; exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None and self._holder.stdout.readline() == "up\n"
        self._path = f"/proc/{self._holder.pid}/ns/net"
        self._namespace = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self.inside(_make_bridge)

    def inside(self, work: Callable[[], T]) -> T:
        """`work` on a thread that is on the machines' network."""
        return in_namespace(self._namespace, work)

    def command(self, *argv: str) -> list[str]:
        """`argv` as a process of the site, killed when the thread that starts it ends."""
        return ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={self._path}", "--", *argv]

    def plug(self, name: str) -> None:
        """A tap device `name` is on the bridge, for a machine to open. Idempotent."""
        self.inside(lambda: _add_tap(name))

    def close(self) -> None:
        """No process and no link of the site is left."""
        os.close(self._namespace)
        assert self._holder.stdin is not None and self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait()
        self._holder.stdout.close()


def _with_links(work: Callable[[Any], None]) -> None:
    links: Any = IPRoute()
    try:
        work(links)
    finally:
        links.close()


def _make_bridge() -> None:
    def make(links: Any) -> None:
        links.link("add", ifname=BRIDGE, kind="bridge", br_forward_delay=0)
        index = links.link_lookup(ifname=BRIDGE)[0]
        links.addr("add", index=index, address=OURS, prefixlen=24)
        for each in (links.link_lookup(ifname="lo")[0], index):
            links.link("set", index=each, state="up")

    _with_links(make)


def _add_tap(name: str) -> None:
    def add(links: Any) -> None:
        if links.link_lookup(ifname=name):
            return
        links.link("add", ifname=name, kind="tuntap", mode="tap")
        bridge = links.link_lookup(ifname=BRIDGE)[0]
        links.link("set", index=links.link_lookup(ifname=name)[0], master=bridge, state="up")

    _with_links(add)


