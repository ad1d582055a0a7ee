"""This process joined to a process of a container: its streams, its terminal's size, signals, and its exit code.

Source  docker run, start, attach and exec; Docker Engine API: POST /containers/{id}/attach and /wait, /exec/{id}/start.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from swarmpy.cli.failures import ApiError, Unreachable, WrongFlag
from swarmpy.cli.output import print_warning
from swarmpy.cli.terminal import forwarded_signals, join_streams, raw_terminal, window_size
from swarmpy.detach_keys import parse_detach_keys
from swarmpy.errors import InvalidArgument

if TYPE_CHECKING:
    import io

    from swarmpy.cli.client import Client, Hijacked

__all__ = ["Joined", "attach_joined", "check_terminal", "escape_keys", "exec_joined", "exit_code_of", "start_joined"]

NEVER_RAN, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127


def exit_code_of(error: Exception) -> int:
    """Why a container did not run, as a shell would say it: by the words that docker's command looks for as well."""
    text = str(error)
    if not isinstance(error, ApiError):
        return NEVER_RAN
    if "executable file not found" in text or "no such file or directory" in text:
        return NOT_FOUND
    return NOT_EXECUTABLE if "permission denied" in text or "is a directory" in text else NEVER_RAN


def check_terminal(interactive: bool | None, tty: bool | None) -> None:
    """Raises ValueError when what is typed shall go to a terminal, and nobody types."""
    if interactive and tty and not sys.stdin.isatty():
        raise ValueError("the input device is not a TTY")


def escape_keys(text: str) -> bytes:
    """What `--detach-keys` names, as a terminal sends it."""
    try:
        return parse_detach_keys(text)
    except InvalidArgument as error:
        raise WrongFlag(f"--detach-keys: {error}") from error


class Joined(NamedTuple):
    """Which streams of a process are joined to this one's. `keys` detach, where there is a terminal."""

    tty: bool
    stdin: bool
    stdout: bool
    stderr: bool
    keys: bytes
    sig_proxy: bool
    auto_remove: bool = False

    @classmethod
    def to_new(cls, body: dict[str, Any], detach_keys: str, sig_proxy: bool) -> Joined:
        """As the body of POST /containers/create says."""
        stdin, stdout, stderr = (bool(body.get(f"Attach{name}")) for name in ("Stdin", "Stdout", "Stderr"))
        remove = bool(body.get("HostConfig", {}).get("AutoRemove"))
        return cls(bool(body.get("Tty")), stdin, stdout, stderr, escape_keys(detach_keys), sig_proxy, remove)

    @classmethod
    def to_present(cls, inspected: dict[str, Any], detach_keys: str, sig_proxy: bool, *, stdin: bool) -> Joined:
        """As the container was made. `stdin`: its input too, if it has one."""
        config, remove = inspected["Config"], inspected["HostConfig"]["AutoRemove"]
        keys = escape_keys(detach_keys)
        return cls(config["Tty"], stdin and config["OpenStdin"], True, True, keys, sig_proxy, remove)


def start_joined(daemon: Client, id_: str, joined: Joined, query: dict[str, Any] | None = None) -> int:
    """Start a container, joined to it before it writes; returns its exit code."""
    condition = "removed" if joined.auto_remove else "next-exit"
    with attached(daemon, id_, joined) as stream, waiting(daemon, id_, condition) as ended:
        daemon.post(f"/containers/{id_}/start", query)
        return carry(daemon, id_, stream, ended, joined)


def attach_joined(daemon: Client, inspected: dict[str, Any], joined: Joined) -> int:
    """Join a container that runs; returns its exit code."""
    state = inspected["State"]
    for field, name, cure in (("Paused", "paused", "unpause it"), ("Restarting", "restarting", "wait until it runs")):
        if state.get(field):
            raise ValueError(f"cannot attach to a {name} container, {cure} first")
    if not state["Running"]:
        raise ValueError("cannot attach to a stopped container, start it first")
    id_ = inspected["Id"]
    with attached(daemon, id_, joined) as stream, waiting(daemon, id_, "not-running") as ended:
        return carry(daemon, id_, stream, ended, joined)


def exec_joined(daemon: Client, id_: str, joined: Joined) -> int:
    """Start an exec, joined to it; returns its exit code."""
    begin = {"Detach": False, "Tty": joined.tty} | ({"ConsoleSize": list(window_size())} if joined.tty else {})
    stream = daemon.hijack(f"/exec/{id_}/start", body=begin)
    with stream.connection:
        if joined.tty:
            with raw_terminal(lambda rows, columns: resize(daemon, f"/exec/{id_}", rows, columns)) as tell_size:
                detached = join_streams(stream, stdin=joined.stdin, tty=True, keys=joined.keys, begun=tell_size)
        else:
            detached = join_streams(stream, stdin=joined.stdin, tty=False, keys=joined.keys)
    if detached:
        print_warning("read escape sequence")
        return 0
    code = daemon.get(f"/exec/{id_}/json")["ExitCode"]
    if code is None:
        raise Unreachable(f"the daemon at {daemon.host} went away; the command goes on")
    return int(code)


@contextmanager
def attached(daemon: Client, id_: str, joined: Joined) -> Iterator[Hijacked]:
    wanted = {name: str(int(getattr(joined, name))) for name in ("stdin", "stdout", "stderr")}
    stream = daemon.hijack(f"/containers/{id_}/attach", {"stream": "1"} | wanted)
    with stream.connection:
        yield stream


def waiting(daemon: Client, id_: str, condition: str) -> AbstractContextManager[io.BufferedReader]:
    """The answer whose body comes when the container has ended; it is registered by then."""
    return daemon.stream("POST", f"/containers/{id_}/wait", {"condition": condition})


def carry(daemon: Client, id_: str, stream: Hijacked, ended: io.BufferedReader, joined: Joined) -> int:
    """Until a container that runs has ended or the user detaches; returns its exit code."""
    path = f"/containers/{id_}"
    with ExitStack() as stack:
        if joined.sig_proxy:
            stack.enter_context(forwarded_signals(lambda number: daemon.post(f"{path}/kill", {"signal": number})))
        if joined.tty:
            stack.enter_context(raw_terminal(lambda rows, columns: resize(daemon, path, rows, columns)))
        detached = join_streams(stream, stdin=joined.stdin, tty=joined.tty, keys=joined.keys)
    if detached:
        print_warning("read escape sequence")
        return 0
    gone = Unreachable(f"the daemon at {daemon.host} went away; the container goes on")
    try:
        body = ended.read()
    except Unreachable as error:
        raise gone from error
    if not body:
        raise gone
    return int(json.loads(body)["StatusCode"])


def resize(daemon: Client, path: str, rows: int, columns: int) -> None:
    daemon.post(f"{path}/resize", {"h": rows, "w": columns})
