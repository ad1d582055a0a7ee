"""The way into the kernel: one thread for each owner, with its netlink and nftables handles.

pyroute2 runs an event loop of its own inside every synchronous handle, and a libnftables context is not for sharing.
Both therefore live on one thread, in the network namespace that the process was in when it started; the daemon's event
loop only waits. A container's namespace is entered by a thread made for that and ended after it, so no thread ever
has to find its way back.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import IPRoute

from swarmpy.errors import Conflict, Internal
from swarmpy.network.netlink import NetlinkError
from swarmpy.network.nft_netlink import NftNetlink
from swarmpy.network.nftables import Nftables
from swarmpy.network.rtnetlink import RtNetlink

__all__ = [
    "IP_FORWARD",
    "Handles",
    "KernelThread",
    "NetlinkError",
    "in_namespace",
    "open_namespace",
    "read_sysctl",
    "write_sysctl",
]

T = TypeVar("T")

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
IP_FORWARD = "net/ipv4/ip_forward"


class Handles:
    """What work on the thread is given. `links` is a pyroute2 `IPRoute`; `quick` does what is done for every container;
    `rules` answers quick questions."""

    def __init__(self) -> None:
        self.links: Any = IPRoute()
        self.quick = RtNetlink()
        self.nftables = Nftables()
        self.rules = NftNetlink()

    @staticmethod
    def index_of(name: str) -> int | None:
        """The index of the link `name`, or None. Waits for no lock of the kernel, as a question by netlink would."""
        try:
            return socket.if_nametoindex(name)
        except OSError:
            return None

    def own_table(self, name: str) -> list[dict[str, Any]] | None:
        """Everything in a table of ours (family ip), or None when there is no such table.

        One that somebody gave flags, such as dormant, is deleted and counts as none: ours have no flags, and
        libnftables 1.0.6 writes garbage where it lists some.
        """
        table = {"table": {"family": "ip", "name": name}}
        flags = self.rules.tables().get(name)
        if flags:
            self.nftables.run([{"delete": table}])
        return self.nftables.run([{"list": table}]) if flags == 0 else None

    def close(self) -> None:
        self.links.close()
        self.quick.close()
        self.nftables.close()
        self.rules.close()


class KernelThread:
    """Runs functions of `Handles`, one after another, off the event loop."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._handles: Handles | None = None

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """`work(handles, *arguments)`. A refusal of netlink becomes Internal unless `work` handled it.

        The work is always carried out to its end: a cancelled caller leaves nothing half done.
        """
        future = self._executor.submit(self._call, work, arguments)
        return await asyncio.shield(asyncio.wrap_future(future))

    async def close(self) -> None:
        """The thread has ended and its handles are closed. `run` may not be called any more."""
        await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        self._executor.submit(self._drop).result()
        self._executor.shutdown()

    def _drop(self) -> None:
        if self._handles is not None:
            self._handles.close()
            self._handles = None

    def _call(self, work: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        if self._handles is None:
            self._handles = Handles()
        try:
            return work(self._handles, *arguments)
        except NetlinkError as error:
            raise Internal(f"the kernel refused a network change: {error}") from error


def open_namespace(netns: int | Path, container_id: str) -> int:
    """A descriptor of the network namespace of process `netns`, or at path `netns`; the caller closes it.

    Raises Conflict when the process or path is gone.
    """
    path = Path(f"/proc/{netns}/ns/net") if isinstance(netns, int) else netns
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Conflict(f"container {container_id[:12]} has no network namespace at {path}: it has ended") from error


def in_namespace(netns_fd: int, work: Callable[[], T]) -> T:
    """Run `work` on a thread of its own inside the namespace `netns_fd`. Blocks; setns(2)."""
    result: Future[T] = Future()

    def enter() -> None:
        if LIBC.setns(netns_fd, CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            result.set_exception(OSError(code, f"setns(CLONE_NEWNET): {os.strerror(code)}"))
            return
        try:
            result.set_result(work())
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whose error it is
            result.set_exception(error)

    thread = threading.Thread(target=enter, name="netns", daemon=True)
    thread.start()
    thread.join()
    return result.result()


def read_sysctl(path: str) -> str:
    """What /proc/sys/`path` of the calling thread's network namespace says."""
    return (Path("/proc/sys") / path).read_text().strip()


def write_sysctl(path: str, value: str) -> None:
    """Set /proc/sys/`path` of the calling thread's network namespace. Internal when the kernel refuses."""
    target = Path("/proc/sys") / path
    try:
        if target.read_text().strip() != value:
            target.write_text(value)
    except OSError as error:
        raise Internal(f"cannot set {target} to {value}: {error.strerror}") from error
