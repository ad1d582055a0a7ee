"""`swarmpy container …`, and the words docker has for it: ps, run, exec, logs, stop, kill, rm, inspect.

Source  docker container; Docker Engine API, paths under /containers and /exec.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarmpy.cli import values
from swarmpy.cli.commands import client, each, noun, verb
from swarmpy.cli.container_flags import CONTAINER
from swarmpy.cli.dialect import RunsCommand
from swarmpy.cli.failures import ApiError, Unreachable
from swarmpy.cli.flags import apply, takes
from swarmpy.cli.image import pull_image
from swarmpy.cli.logs import print_logs, since_text
from swarmpy.cli.output import age, print_rows, print_text, print_warning, short_id
from swarmpy.cli.terminal import Hijacked, forwarded_signals, join_streams, raw_terminal, window_size
from swarmpy.cli.values import filters_json

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from swarmpy.cli.client import Client

app = noun()
COMMANDS: dict[str, str] = {}

Containers = Annotated[list[str], typer.Argument(metavar="CONTAINER…", show_default=False)]
Container = Annotated[str, typer.Argument(metavar="CONTAINER", show_default=False)]
Image = Annotated[str, typer.Argument(metavar="IMAGE", show_default=False)]
Arguments = Annotated[list[str] | None, typer.Argument(metavar="[COMMAND] [ARG…]", show_default=False)]
Format = Annotated[str, typer.Option("--format", help="json, or a template such as {{.Names}}")]
Filter = Annotated[list[str], typer.Option("--filter", "-f", help="name=…, id=…, label=…, status=…")]
Name = Annotated[str, typer.Option("--name", help="Name of the container")]
Interactive = Annotated[bool, typer.Option("--interactive", "-i", help="Keep its input open")]
Tty = Annotated[bool, typer.Option("--tty", "-t", help="With a terminal")]
Env = Annotated[list[str], typer.Option("--env", "-e", help="Environment variable")]
Workdir = Annotated[str, typer.Option("--workdir", "-w", help="Working directory")]
User = Annotated[str, typer.Option("--user", "-u", help="User and group")]


@verb(app, COMMANDS, "ls", word="ps")
def ps(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also those that do not run")] = False,
    filter_: Filter = [],  # noqa: B006  # typer copies defaults
    format_: Format = "",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only ids")] = False,
    no_trunc: Annotated[bool, typer.Option("--no-trunc", help="Do not shorten ids and commands")] = False,
) -> None:
    """List containers."""
    rows = []
    for row in client().get("/containers/json", {"all": str(everything).lower(), "filters": filters_json(filter_)}):
        command = row["Command"]
        rows.append(
            {
                "ID": row["Id"] if no_trunc else short_id(row["Id"]),
                "Image": row["Image"],
                "Command": f'"{command if no_trunc or len(command) <= 20 else command[:19] + "…"}"',
                "Created": f"{age(row['Created'])} ago",
                "Status": row["Status"],
                "Ports": ", ".join(port_text(port) for port in row.get("Ports") or []),
                "Names": ",".join(name.lstrip("/") for name in row["Names"]),
                "State": row["State"],
                "Labels": ",".join(f"{name}={value}" for name, value in (row.get("Labels") or {}).items()),
            }
        )
    columns = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    print_rows(rows, columns, format_, quiet_field="ID" if quiet else None)


def port_text(port: dict[str, Any]) -> str:
    inner = f"{port['PrivatePort']}/{port['Type']}"
    return f"{port.get('IP', '')}:{port['PublicPort']}->{inner}" if port.get("PublicPort") else inner


@verb(app, COMMANDS, "create", word="create", reads=RunsCommand)
@takes(CONTAINER)
def create(image: Image, command: Arguments = None, *, name: Name = "", **given: Any) -> None:
    """Make a container, and do not start it."""
    print_text(make(client(), name, configuration(image, command, given, attach=False)))


@verb(app, COMMANDS, "run", word="run", reads=RunsCommand)
@takes(CONTAINER)
def run(
    image: Image,
    command: Arguments = None,
    *,
    name: Name = "",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the id and return")] = False,
    **given: Any,
) -> None:
    """Make a container and start it."""
    if not detach:
        check_terminal(given["interactive"], given["tty"])
    try:
        code = run_container(client(), name, configuration(image, command, given, attach=not detach), detach=detach)
    except (ApiError, Unreachable, ValueError) as error:
        print_warning(f"swarmpy: {'Error response from daemon: ' if isinstance(error, ApiError) else ''}{error}")
        raise typer.Exit(exit_code_of(error)) from error
    raise typer.Exit(code)


def run_container(daemon: Client, name: str, body: dict[str, Any], *, detach: bool) -> int:
    """Make and start it; unless `detach`, join this process to it until it ends. Returns this process's exit code."""
    id_ = make(daemon, name, body)
    if detach:
        daemon.post(f"/containers/{id_}/start")
        print_text(id_)
        return 0
    condition = "removed" if body.get("HostConfig", {}).get("AutoRemove") else "next-exit"
    tty, stdin = body.get("Tty", False), body.get("OpenStdin", False)
    with attached(daemon, id_, stdin=stdin) as stream, waiting(daemon, id_, condition) as ended:
        daemon.post(f"/containers/{id_}/start")
        return carry(daemon, id_, stream, ended, stdin=stdin, tty=tty)


def check_terminal(interactive: bool | None, tty: bool | None) -> None:
    """Raises ValueError when what is typed shall go to a terminal, and nobody types."""
    if interactive and tty and not sys.stdin.isatty():
        raise ValueError("the input device is not a TTY")


NEVER_RAN, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127


def exit_code_of(error: Exception) -> int:
    """Why a container did not run, as a shell would say it: by the words that docker's command looks for as well."""
    text = str(error)
    if not isinstance(error, ApiError):
        return NEVER_RAN
    if "executable file not found" in text or "no such file or directory" in text:
        return NOT_FOUND
    return NOT_EXECUTABLE if "permission denied" in text or "is a directory" in text else NEVER_RAN


@contextmanager
def attached(daemon: Client, id_: str, *, stdin: bool) -> Iterator[Hijacked]:
    query = {"stream": "1", "stdout": "1", "stderr": "1", "stdin": "1" if stdin else "0"}
    stream = daemon.hijack(f"/containers/{id_}/attach", query)
    with stream.connection:
        yield stream


def waiting(daemon: Client, id_: str, condition: str) -> AbstractContextManager[HTTPResponse]:
    """The answer whose body comes when the container has ended; it is registered by then."""
    return daemon.stream("POST", f"/containers/{id_}/wait", {"condition": condition})


def carry(daemon: Client, id_: str, stream: Hijacked, ended: HTTPResponse, *, stdin: bool, tty: bool) -> int:
    """Join this process to a container that runs, until it ends or the user detaches; returns its exit code."""
    path = f"/containers/{id_}"
    if tty:
        with raw_terminal(lambda rows, columns: resize(daemon, path, rows, columns)):
            detached = join_streams(stream, stdin=stdin, tty=True)
        if detached:
            print_warning("read escape sequence")
            return 0
    else:
        with forwarded_signals(lambda number: daemon.post(f"{path}/kill", {"signal": number})):
            join_streams(stream, stdin=stdin, tty=False)
    body = ended.read()
    if not body:
        raise Unreachable(f"the daemon at {daemon.host} went away; the container goes on")
    return int(json.loads(body)["StatusCode"])


def resize(daemon: Client, path: str, rows: int, columns: int) -> None:
    daemon.post(f"{path}/resize", {"h": rows, "w": columns})


def make(daemon: Client, name: str, body: dict[str, Any]) -> str:
    """Create the container, pulling its image when it is not here."""
    query = {"name": name or None}
    try:
        made = daemon.post("/containers/create", query, body)
    except ApiError as error:
        if error.status != 404 or "image" not in str(error).lower():
            raise
        print_warning(f"Unable to find image '{body['Image']}' locally")
        pull_image(daemon, body["Image"], quiet=False)
        made = daemon.post("/containers/create", query, body)
    for warning in made.get("Warnings") or []:
        print_warning(f"WARNING: {warning}")
    return str(made["Id"])


def configuration(image: str, command: list[str] | None, given: dict[str, Any], *, attach: bool) -> dict[str, Any]:
    """ContainerConfig with its HostConfig. `attach`: this process will be joined to it."""
    body: dict[str, Any] = {"Image": image, "AttachStdout": attach, "AttachStderr": attach}
    if command:
        body["Cmd"] = list(command)
    apply(body, CONTAINER, given)
    if attach and body.get("OpenStdin"):
        body |= {"AttachStdin": True, "StdinOnce": True}
    return body


@verb(app, COMMANDS, "start", word="start")
def start(containers: Containers) -> None:
    """Start containers."""
    daemon = client()
    each(containers, lambda reference: daemon.post(f"/containers/{reference}/start"))


@verb(app, COMMANDS, "stop", word="stop")
def stop(
    containers: Containers,
    time: Annotated[int | None, typer.Option("--time", "-t", help="Seconds until it is killed")] = None,
    signal: Annotated[str, typer.Option("--signal", "-s", help="Signal to send first")] = "",
) -> None:
    """Stop containers."""
    daemon = client()
    query = {"t": time, "signal": signal or None}
    each(containers, lambda reference: daemon.post(f"/containers/{reference}/stop", query))


@verb(app, COMMANDS, "restart", word="restart")
def restart_(
    containers: Containers,
    time: Annotated[int | None, typer.Option("--time", "-t", help="Seconds until it is killed")] = None,
) -> None:
    """Stop containers and start them again."""
    daemon = client()
    each(containers, lambda reference: daemon.post(f"/containers/{reference}/restart", {"t": time}))


@verb(app, COMMANDS, "kill", word="kill")
def kill(
    containers: Containers, signal: Annotated[str, typer.Option("--signal", "-s", help="Signal to send")] = "SIGKILL"
) -> None:
    """Send containers a signal."""
    daemon = client()
    each(containers, lambda reference: daemon.post(f"/containers/{reference}/kill", {"signal": signal}))


@verb(app, COMMANDS, "pause", word="pause")
def pause(containers: Containers) -> None:
    """Freeze containers."""
    daemon = client()
    each(containers, lambda reference: daemon.post(f"/containers/{reference}/pause"))


@verb(app, COMMANDS, "unpause", word="unpause")
def unpause(containers: Containers) -> None:
    """Let frozen containers go on."""
    daemon = client()
    each(containers, lambda reference: daemon.post(f"/containers/{reference}/unpause"))


@verb(app, COMMANDS, "rm", word="rm")
def rm(
    containers: Containers,
    force: Annotated[bool, typer.Option("--force", "-f", help="Kill what runs")] = False,
    volumes: Annotated[bool, typer.Option("--volumes", "-v", help="With its anonymous volumes")] = False,
) -> None:
    """Remove containers."""
    daemon = client()
    query = {"force": str(force).lower(), "v": str(volumes).lower()}
    each(containers, lambda reference: daemon.delete(f"/containers/{reference}", query))


@verb(app, COMMANDS, "rename", word="rename")
def rename(container: Container, name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)]) -> None:
    """Give a container another name."""
    client().post(f"/containers/{container}/rename", {"name": name})


@verb(app, COMMANDS, "wait", word="wait")
def wait(containers: Containers) -> None:
    """Wait until containers have ended and print their exit codes."""
    daemon = client()
    for reference in containers:
        print_text(str(daemon.post(f"/containers/{reference}/wait")["StatusCode"]))


@verb(app, COMMANDS, "top", word="top")
def top(container: Container) -> None:
    """List the processes of a container."""
    listing = client().get(f"/containers/{container}/top")
    titles = listing["Titles"]
    rows = [dict(zip(titles, row, strict=True)) for row in listing["Processes"]]
    print_rows([{title.capitalize(): row[title] for title in titles} for row in rows], titles)


@verb(app, COMMANDS, "inspect", word="inspect")
def inspect(containers: Containers, format_: Format = "") -> None:
    """Show containers in full; as a word of its own also images, services and nodes."""
    daemon = client()
    found = [find(daemon, reference) for reference in containers]
    if format_:
        print_rows(found, [], format_)
    else:
        print_text(json.dumps(found, indent=4))


def find(daemon: Client, reference: str) -> dict[str, Any]:
    paths = (
        f"/containers/{reference}/json",
        f"/images/{reference}/json",
        f"/services/{reference}",
        f"/nodes/{reference}",
    )
    for path in paths:
        try:
            return dict(daemon.get(path))
        except ApiError as error:
            if error.status not in (404, 503):
                raise
    raise ValueError(f"Error: No such object: {reference}")


@verb(app, COMMANDS, "logs", word="logs")
def logs(
    container: Container,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes")] = False,
    tail: Annotated[str, typer.Option("--tail", "-n", help="Lines from the end")] = "all",
    since: Annotated[str, typer.Option("--since", help="From a Unix time, or so long ago (10m)")] = "",
    until: Annotated[str, typer.Option("--until", help="Up to a Unix time, or so long ago")] = "",
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="With the time of each line")] = False,
) -> None:
    """Show what a container printed."""
    daemon = client()
    inspected = daemon.get(f"/containers/{container}/json")
    query = {
        "stdout": "1",
        "stderr": "1",
        "follow": str(follow).lower(),
        "tail": tail,
        "since": since_text(since),
        "until": since_text(until),
        "timestamps": str(timestamps).lower(),
    }
    print_logs(daemon, f"/containers/{container}/logs", query, tty=inspected["Config"]["Tty"])


@verb(app, COMMANDS, "attach", word="attach")
def attach(container: Container) -> None:
    """Join this terminal to a running container."""
    daemon = client()
    inspected = daemon.get(f"/containers/{container}/json")
    if not inspected["State"]["Running"]:
        raise ValueError("cannot attach to a stopped container, start it first")
    id_, stdin, tty = inspected["Id"], inspected["Config"]["OpenStdin"], inspected["Config"]["Tty"]
    with attached(daemon, id_, stdin=stdin) as stream, waiting(daemon, id_, "not-running") as ended:
        raise typer.Exit(carry(daemon, id_, stream, ended, stdin=stdin, tty=tty))


@verb(app, COMMANDS, "exec", word="exec", reads=RunsCommand)
def exec_(
    container: Container,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND [ARG…]", show_default=False)],
    interactive: Interactive = False,
    tty: Tty = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for it")] = False,
    env: Env = [],  # noqa: B006
    user: User = "",
    workdir: Workdir = "",
    privileged: Annotated[bool, typer.Option("--privileged", help="With every capability")] = False,
) -> None:
    """Run a command in a running container."""
    daemon = client()
    if not detach:
        check_terminal(interactive, tty)
    body = {
        "AttachStdin": interactive,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "Tty": tty,
        "Cmd": list(command),
        "Env": values.env(env, dict(os.environ)),
        "User": user,
        "WorkingDir": workdir,
        "Privileged": privileged,
    }
    id_ = daemon.post(f"/containers/{container}/exec", body=body)["Id"]
    if detach:
        daemon.post(f"/exec/{id_}/start", body={"Detach": True, "Tty": tty})
        return
    begin = {"Detach": False, "Tty": tty} | ({"ConsoleSize": list(window_size())} if tty else {})
    stream = daemon.hijack(f"/exec/{id_}/start", body=begin)
    with stream.connection:
        if tty:
            with raw_terminal(lambda rows, columns: resize(daemon, f"/exec/{id_}", rows, columns)) as tell_size:
                if join_streams(stream, stdin=interactive, tty=True, begun=tell_size):
                    print_warning("read escape sequence")
                    return
        else:
            join_streams(stream, stdin=interactive, tty=False)
    raise typer.Exit(daemon.get(f"/exec/{id_}/json")["ExitCode"])
