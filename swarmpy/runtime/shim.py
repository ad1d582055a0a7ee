"""The shim: parent and keeper of one container, from its creation until its end is on disk.

Owns    the container's init and every process that entered by exec: their streams, their exit statuses, their log. It
        answers on a unix socket, to any number of peers; the daemon may come and go.
Laws    It reaps everything it is the parent of. The exit status is durable before anybody is told. It ends when the
        container has ended, the cgroups are gone and all output is delivered; what it leaves is status.json.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from swarmpy.runtime import uapi
from swarmpy.runtime.birth import USUAL_NAMESPACES, Host, Newborn, bear
from swarmpy.runtime.creation import Created, Request, create_container
from swarmpy.runtime.executions import Executions, exit_numbers
from swarmpy.runtime.failure import FailureKind, RuntimeFailure, describe
from swarmpy.runtime.hooks import hook_state, run_hooks
from swarmpy.runtime.init import run_init, unexpected
from swarmpy.runtime.kernel import LinuxKernel
from swarmpy.runtime.loop import READ, Loop
from swarmpy.runtime.peer import Peer
from swarmpy.runtime.reader import Fields
from swarmpy.runtime.ready_mounts import make_ready
from swarmpy.runtime.state import ExitStatus, process_ends
from swarmpy.runtime.stdio import ProcessStreams
from swarmpy.runtime.warm_pages import warm
from swarmpy.runtime.wire import FrameParser, Kind, json_frame

__all__ = ["run_shim"]

GRACE_S = 60.0

Reply = Callable[[dict[str, object]], None]


def run_shim(kernel: LinuxKernel, host: Host, daemon: socket.socket) -> None:
    """Get ready, wait for the request of a container, create it, and keep it.

    Returns when the container is over and done with, or when the daemon hangs up without a request.
    """
    os.setsid()
    kernel.set_process_name(b"swarmpy-shim")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever wants the container to end says so to the container
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    kernel.prctl(uapi.PR_SET_CHILD_SUBREAPER, 1)
    run_spare = partial(_run_spare_init, kernel, host)
    spare = bear(kernel, host, run_spare, flags=USUAL_NAMESPACES, blank=True)
    warm(kernel, host.shim_pages)
    request = _first_frame(daemon)
    if request is None:
        spare.discard()
        return
    _keep_container(kernel, host, Request.from_json(json.loads(request)), daemon, spare)


def _first_frame(daemon: socket.socket) -> bytes | None:
    parser = FrameParser()
    while data := daemon.recv(65536):
        for _, payload in parser.feed(data):
            return payload
    return None


def _run_spare_init(kernel: LinuxKernel, host: Host, channel: socket.socket) -> None:
    warm(kernel, host.init_pages)
    run_init(kernel, channel, make_ready(kernel))


def _keep_container(
    kernel: LinuxKernel, host: Host, request: Request, answer: socket.socket, spare: Newborn
) -> None:
    try:
        created = create_container(kernel, host, request, spare)
    except RuntimeFailure as failure:
        _refuse(answer, failure)
        return
    except OSError as error:
        _refuse(answer, RuntimeFailure(describe(error)))
        return
    except Exception as error:  # noqa: BLE001  a fault of ours still has to reach the caller
        _refuse(answer, unexpected(error))
        return
    Shim(kernel, host, request, created, answer).run()


def _refuse(answer: socket.socket, failure: RuntimeFailure) -> None:
    try:
        answer.sendall(json_frame(failure.to_json()))
    except OSError:
        return  # the daemon is gone, and so is the container


class Shim:
    """One container that exists."""

    def __init__(
        self, kernel: LinuxKernel, host: Host, request: Request, created: Created, answer: socket.socket
    ) -> None:
        self._kernel = kernel
        self._id = request.container_id
        self._created = created
        self._cgroup = created.cgroup
        self._loop = Loop()
        self._peers: set[Peer] = set()
        self._controllers: set[Peer] = set()  # those that have not become streams
        self._over = False
        self._streams = ProcessStreams(self._loop, created.log, self._end_if_over, self._complain)
        self._streams.stdin_once = request.stdin_once
        self._start_reply: Reply | None = None
        self._finished_ns = 0
        self._started_ns = 0
        self._exit: int | None = None  # waitpid status of init
        self._status: ExitStatus | None = None
        self._paused = False
        self._killed_by_request = False
        self._executions = Executions(
            kernel, self._loop, created, host.last_capability,
            init_ended=self._init_ended, announce=self._announce, complain=self._complain,
        )  # fmt: skip
        self._listener = self._listen()
        self._open_streams()
        self._watch_children()
        self._welcome(answer)

    def run(self) -> None:
        gc.enable()  # what was loaded before the fork stays frozen, and shared
        self._loop.run()

    # -- setting up ----------------------------------------------------------------------------------------------

    def _listen(self) -> socket.socket:
        directory, address = self._created.state.socket_address()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        previous = os.umask(0o177)
        listener.bind(address)
        os.umask(previous)
        os.close(directory)
        listener.listen(128)
        listener.setblocking(False)
        self._loop.watch(listener.fileno(), READ, lambda _: self._accept())
        return listener

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        self._welcome(connection)

    def _welcome(self, connection: socket.socket) -> None:
        """Every connection starts as a controller, and first learns how things are."""
        peer = Peer(self._loop, connection, lambda kind, data: self._hear(peer, kind, data), lambda: self._forget(peer))
        self._peers.add(peer)
        self._controllers.add(peer)
        peer.send_json(
            {
                "event": "hello",
                "pid": self._created.pid,
                "started_ns": self._started_ns,
                "paused": self._paused,
                "status": None if self._status is None else asdict(self._status),
            }
        )

    def _open_streams(self) -> None:
        if self._created.console is not None:
            self._streams.open_terminal(self._created.console)
        elif self._created.pipes is not None:
            self._streams.open_pipes(*self._created.pipes)

    def _watch_children(self) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._loop.watch(reader, READ, lambda _: self._reap(reader))
        self._loop.watch(self._created.channel.fileno(), READ, lambda _: self._hear_init())
        self._reap(reader)

    # -- requests ------------------------------------------------------------------------------------------------

    def _hear(self, peer: Peer, kind: Kind, data: bytes) -> None:
        """A request: {"id", "op", …}. The reply has the id, and `result` or `error`."""
        if kind is not Kind.JSON:
            peer.close()
            return
        number: object = None
        try:
            request = Fields(_decode(data), "request")
            number = request.value.get("id")
            self._dispatch(peer, request, lambda answer: peer.send_json({"id": number, **answer}))
        except RuntimeFailure as failure:
            peer.send_json({"id": number, **failure.to_json()})
        except OSError as error:
            peer.send_json({"id": number, **RuntimeFailure(describe(error)).to_json()})
        except Exception as error:  # noqa: BLE001  one bad request must not end a container
            fault = unexpected(error)
            self._complain(str(fault))
            peer.send_json({"id": number, **fault.to_json()})

    def _dispatch(self, peer: Peer, request: Fields, reply: Reply) -> None:
        match request.text("op"):
            case "start":
                self._do_start(reply)
            case "attach":
                self._controllers.discard(peer)
                peer.droppable = not request.flag("patient")
                reply({"result": {}})
                self._streams.attach(peer)
            case "exec":
                self._require_running("exec")
                self._controllers.discard(peer)
                peer.droppable = False
                self._executions.start(peer, request.child("process"), request.flag("stdin"), reply)
            case "exec_resize":
                self._executions.resize(request.integer("exec"), request.integer("height"), request.integer("width"))
                reply({"result": {}})
            case "exec_kill":
                self._executions.kill(request.integer("exec"), request.integer("signal"))
                reply({"result": {}})
            case "kill":
                self._do_kill(request.integer("signal", low=0, high=64), request.flag("everyone"))
                reply({"result": {}})
            case "resize":
                if not self._streams.resize(request.integer("height"), request.integer("width")):
                    raise RuntimeFailure("has no terminal", FailureKind.CONFLICT)
                reply({"result": {}})
            case "pause":
                self._do_freeze(True)
                reply({"result": {}})
            case "resume":
                self._do_freeze(False)
                reply({"result": {}})
            case "update":
                self._cgroup.update(request.child("resources").value)
                reply({"result": {}})
            case "stats":
                reply({"result": self._cgroup.stats()})
            case "processes":
                reply({"result": {"pids": self._cgroup.processes() or self._alive()}})
            case other:
                raise RuntimeFailure(f"unknown request {other!r}", FailureKind.INVALID)

    def _alive(self) -> list[int]:
        return [self._created.pid] if self._exit is None else []

    def _require_running(self, what: str) -> None:
        if self._exit is not None or not self._started_ns:
            raise RuntimeFailure(f"is not running, which {what} needs", FailureKind.CONFLICT)
        if self._paused:
            raise RuntimeFailure(f"is paused; resume it before {what}", FailureKind.CONFLICT)

    def _init_ended(self) -> bool:
        """Also when its end has not been heard of yet, or has only begun."""
        return self._exit is not None or process_ends(self._created.pid)

    def _do_start(self, reply: Reply) -> None:
        if self._exit is not None or (self._created.channel.fileno() < 0 and not self._started_ns):
            raise RuntimeFailure("has ended already", FailureKind.CONFLICT)
        if self._start_reply is not None or self._started_ns:
            raise RuntimeFailure("is started already", FailureKind.CONFLICT)
        self._start_reply = reply
        try:
            self._created.channel.send(b"start")
        except OSError:  # init has just died: the channel is at its end, and tells
            return

    def _hear_init(self) -> None:
        """Init's last word: an error, or nothing, which is execve's way to say that it worked."""
        channel = self._created.channel
        if channel.fileno() < 0:
            return
        data = channel.recv(65536)
        self._loop.forget(channel.fileno())
        channel.close()
        reply, self._start_reply = self._start_reply, None
        if reply is None:
            return  # killed before anybody started it
        if data:
            reply(RuntimeFailure.from_json(json.loads(data)).to_json())
            return
        self._started_ns = time.time_ns()
        self._run_late_hooks("poststart", "running")
        reply({"result": {"started_ns": self._started_ns}})

    def _run_late_hooks(self, kind: str, status: str) -> None:
        """OCI runtime.md, "Lifecycle": after start, a hook's failure is said and changes nothing."""
        hooks = self._created.bundle.hooks[kind]
        if not hooks:
            return
        try:
            run_hooks(kind, hooks, hook_state(self._id, status, self._created.pid, self._created.bundle))
        except RuntimeFailure as failure:
            self._complain(str(failure))

    def _do_kill(self, number: int, everyone: bool) -> None:
        if self._exit is not None:
            raise RuntimeFailure("has ended already", FailureKind.CONFLICT)
        self._killed_by_request |= number == signal.SIGKILL
        if not everyone:
            os.kill(self._created.pid, number)
        elif number == signal.SIGKILL:
            self._cgroup.kill_all()
        else:
            for pid in self._cgroup.processes() or self._alive():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
        if number == signal.SIGKILL and self._paused:
            self._do_freeze(False)  # a frozen v1 cgroup does not even die

    def _do_freeze(self, frozen: bool) -> None:
        if self._exit is not None or not self._started_ns:
            raise RuntimeFailure("is not running", FailureKind.CONFLICT)
        if frozen == self._paused:
            raise RuntimeFailure("is paused already" if frozen else "is not paused", FailureKind.CONFLICT)
        self._cgroup.freeze(frozen)
        self._paused = frozen

    # -- the end -------------------------------------------------------------------------------------------------

    def _reap(self, wakeups: int) -> None:
        try:
            os.read(wakeups, 4096)
        except BlockingIOError:
            pass  # asked for before the first child ended
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._reaped(pid, status)

    def _reaped(self, pid: int, status: int) -> None:
        if pid != self._created.pid:
            self._executions.reaped(pid, status)
            return
        self._hear_init()
        self._exit = status
        self._finished_ns = time.time_ns()
        if self._created.bundle.namespaces.get("pid") != "":
            self._cgroup.kill_all()  # in a pid namespace that is not its own the kernel does not end the others with it
        self._streams.process_ended()
        self._end_if_over()

    def _end_if_over(self) -> None:
        """Once init has ended and all its output was seen: record it, tell it, clean up."""
        if self._exit is None or not self._streams.finished or self._status is not None:
            return
        self._status = self._final_status(self._exit)
        try:
            self._created.state.write_status(self._status)
        except OSError as error:
            self._complain(f"status cannot be written: {describe(error)}")
        self._announce({"event": "exit", "status": asdict(self._status)})
        self._clean_up()
        self._loop.after(GRACE_S, self._stop)

    def _final_status(self, status: int) -> ExitStatus:
        code, number = exit_numbers(status)
        # The kernel counts kills in the cgroup, whoever was chosen. It ended the container when init did not end well,
        # and nobody asked for SIGKILL.
        oom_killed = code != 0 and not self._killed_by_request and self._cgroup.oom_kills() > 0
        return ExitStatus(code, number, oom_killed, self._finished_ns, self._started_ns)

    def _clean_up(self) -> None:
        """Everything but status.json goes. Peers get what is queued for them, then this process ends."""
        try:
            self._cgroup.kill_all()
            self._cgroup.remove()
            os.unlink(f"{self._created.state.path}/shim.json")  # which says that there is something to clean
        except (RuntimeFailure, OSError) as error:
            self._complain(f"cgroup is left behind: {error}")
        self._run_late_hooks("poststop", "stopped")
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        os.unlink(f"{self._created.state.path}/shim.sock")
        self._over = True
        for peer in list(self._peers):
            peer.close_when_sent()
        self._stop_if_alone()

    def _forget(self, peer: Peer) -> None:
        self._peers.discard(peer)
        self._controllers.discard(peer)
        self._stop_if_alone()

    def _stop_if_alone(self) -> None:
        if self._over and not self._peers:
            self._stop()

    def _stop(self) -> None:
        self._loop.running = False

    # ------------------------------------------------------------------------------------------------------------

    def _announce(self, event: dict[str, object]) -> None:
        for peer in list(self._controllers):
            peer.send_json(event)

    def _complain(self, message: str) -> None:
        sys.stderr.write(f"container {self._id}: {message}\n")
        sys.stderr.flush()


def _decode(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError as error:
        raise RuntimeFailure(f"request is not valid JSON: {error}", FailureKind.INVALID) from None
