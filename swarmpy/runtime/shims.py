"""Where the daemon gets shims: the launcher process, and one shim that is ready ahead of need.

A shim comes as a socket. Its container's request goes there, and the same connection then is the container's first
controller. While a container is being created no other shim is: making one takes both processors of a small host, and
the container that somebody waits for comes first.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

from swarmpy.runtime.failure import RuntimeFailure, describe
from swarmpy.runtime.sealed import start_sealed

__all__ = ["Shims"]

ATTEMPTS = 3


class Shims:
    """Starts the launcher when it is needed, and again when it was killed."""

    def __init__(self, state_dir: Path, cgroup_parent: str, log: Callable[[str], None]) -> None:
        self._state = state_dir
        self._cgroup_parent = cgroup_parent
        self._log = log
        self._starting = asyncio.Lock()
        self._launcher: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._asked = 0  # shims that the launcher owes
        self._waiting: deque[asyncio.Future[socket.socket]] = deque()
        self._ready: deque[socket.socket] = deque()

    @property
    def launcher_pid(self) -> int | None:
        return None if self._launcher is None else self._launcher.pid

    async def start(self) -> None:
        """The launcher is up afterwards, and makes a first shim. Raises RuntimeFailure."""
        async with self._starting:
            if self._channel is not None:
                return
            await self._reap_launcher()
            self._channel = await asyncio.to_thread(self._start_launcher)
            asyncio.get_running_loop().add_reader(self._channel.fileno(), self._receive)
        self.ask_ahead()

    def _start_launcher(self) -> socket.socket:
        (self._state / "containers").mkdir(mode=0o700, parents=True, exist_ok=True)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log = os.open(self._state / "launcher.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            arguments = [str(theirs.fileno()), str(self._state.absolute()), self._cgroup_parent]
            self._launcher = start_sealed("swarmpy.runtime.launcher", arguments, [theirs.fileno()], log)
        except OSError as error:
            ours.close()
            raise RuntimeFailure(f"start launcher: {describe(error)}") from None
        finally:
            theirs.close()
            os.close(log)
        if ours.recv(16) != b"ready":
            ours.close()
            code = self._launcher.wait()
            raise RuntimeFailure(f"launcher ended at once with code {code}; see {self._state}/launcher.log")
        ours.setblocking(False)
        return ours

    async def take(self) -> socket.socket:
        """A shim that waits for its request. Raises RuntimeFailure."""
        for _ in range(ATTEMPTS):
            while self._ready:
                shim = self._ready.popleft()
                if _alive(shim):
                    return shim
                shim.close()
            await self.start()
            future: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            try:
                while self._asked < len(self._waiting) and not self._ask():
                    await self._writable()
                return await future
            except ConnectionError:
                self._log("launcher was gone; starting it again")
            finally:
                if future in self._waiting:
                    self._waiting.remove(future)
        raise RuntimeFailure(f"launcher ends as soon as it is started; see {self._state}/launcher.log")

    def ask_ahead(self) -> None:
        """Have one shim ready for whoever comes next."""
        if self._channel is not None and not self._ready and self._asked <= len(self._waiting):
            self._ask()

    def _ask(self) -> bool:
        """False when the launcher has more to do than its queue holds."""
        if self._channel is None:
            raise ConnectionResetError
        try:
            self._channel.send(b"shim")
        except BlockingIOError:
            return False
        self._asked += 1
        return True

    async def _writable(self) -> None:
        if self._channel is None:
            raise ConnectionResetError
        loop, writable = asyncio.get_running_loop(), asyncio.Event()
        descriptor = self._channel.fileno()
        loop.add_writer(descriptor, writable.set)
        try:
            await writable.wait()
        finally:
            loop.remove_writer(descriptor)

    def _receive(self) -> None:
        """What the launcher has for us: a shim, or the end."""
        assert self._channel is not None
        try:
            data, descriptors, _, _ = socket.recv_fds(self._channel, 4096, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except ConnectionError:
            data, descriptors = b"", []
        if not data:
            self._lose_launcher()
            return
        self._asked -= 1
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        if not descriptors:
            if self._waiting:
                self._waiting.popleft().set_exception(RuntimeFailure(data.decode()))
        elif self._waiting:
            self._waiting.popleft().set_result(socket.socket(fileno=descriptors[0]))
        else:
            self._ready.append(socket.socket(fileno=descriptors[0]))

    def _lose_launcher(self) -> None:
        assert self._channel is not None
        asyncio.get_running_loop().remove_reader(self._channel.fileno())
        self._channel.close()
        self._channel = None
        self._asked = 0
        for future in self._waiting:
            if not future.done():
                future.set_exception(ConnectionResetError())
        self._waiting.clear()

    async def _reap_launcher(self) -> None:
        if self._launcher is not None:
            await asyncio.to_thread(self._launcher.wait)
            self._launcher = None

    async def close(self) -> None:
        """Launcher and waiting shims end; those with a container stay."""
        async with self._starting:
            while self._channel is not None and self._asked > 0:  # one that is on its way would get lost
                await self._next_for_later()
            if self._channel is not None:
                self._lose_launcher()
            await self._reap_launcher()
            while self._ready:
                await self._dismiss(self._ready.popleft())

    async def _next_for_later(self) -> None:
        future: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            self._ready.append(await future)
        except (ConnectionError, RuntimeFailure) as error:
            self._log(f"a shim was not made: {error}")

    @staticmethod
    async def _dismiss(shim: socket.socket) -> None:
        """Say that nothing will come, and wait until it is gone."""
        shim.setblocking(False)
        try:
            shim.shutdown(socket.SHUT_WR)
            while await asyncio.get_running_loop().sock_recv(shim, 4096):
                continue
        except ConnectionError:
            return  # it was gone before
        finally:
            shim.close()


def _alive(shim: socket.socket) -> bool:
    """Whether the other end is open: a waiting shim says nothing."""
    try:
        return shim.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
