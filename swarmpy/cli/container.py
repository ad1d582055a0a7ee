"""`swarmpy container …`, and the words docker has for it: ps, run, exec, logs, stop, kill, rm, inspect.

Source  docker container; Docker Engine API, paths under /containers and /exec.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer

from swarmpy.cli import values
from swarmpy.cli.client import ApiError, Client
from swarmpy.cli.commands import Command, client, each, noun, verb
from swarmpy.cli.container_flags import CONTAINER
from swarmpy.cli.flags import apply, takes
from swarmpy.cli.image import pull_image
from swarmpy.cli.logs import print_logs, since_text
from swarmpy.cli.output import age, print_rows, print_text, print_warning, short_id
from swarmpy.cli.terminal import join_streams, raw_terminal
from swarmpy.cli.values import filters_json

app = noun()
COMMANDS: dict[str, Command] = {}

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


@verb(app, COMMANDS, "create", word="create", passes_options=True)
@takes(CONTAINER)
def create(image: Image, command: Arguments = None, *, name: Name = "", **given: Any) -> None:
    """Make a container, and do not start it."""
    print_text(make(client(), name, configuration(image, command, given, attach=False)))


@verb(app, COMMANDS, "run", word="run", passes_options=True)
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
    daemon = client()
    body = configuration(image, command, given, attach=not detach)
    id_ = make(daemon, name, body)
    if detach:
        daemon.post(f"/containers/{id_}/start")
        print_text(id_)
        return
    tty, stdin = body.get("Tty", False), body.get("OpenStdin", False)
    raise typer.Exit(run_attached(daemon, id_, stdin=stdin, tty=tty, start=True))


def run_attached(daemon: Client, id_: str, *, stdin: bool, tty: bool, start: bool) -> int:
    """Join this process to the container until it ends; returns its exit code."""
    query = {"stream": "1", "stdout": "1", "stderr": "1", "stdin": "1" if stdin else "0"}
    connection = daemon.hijack(f"/containers/{id_}/attach", query)
    with connection:
        waiting = daemon.stream("POST", f"/containers/{id_}/wait", {"condition": "next-exit"})
        with waiting as ended:
            if start:
                daemon.post(f"/containers/{id_}/start")
            if tty:
                with raw_terminal(lambda rows, columns: resize(daemon, f"/containers/{id_}", rows, columns)):
                    join_streams(connection, stdin=stdin, tty=True)
            else:
                join_streams(connection, stdin=stdin, tty=False)
            return int(json.loads(ended.read())["StatusCode"])


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
    config = daemon.get(f"/containers/{container}/json")["Config"]
    raise typer.Exit(run_attached(daemon, container, stdin=config["OpenStdin"], tty=config["Tty"], start=False))


@verb(app, COMMANDS, "exec", word="exec", passes_options=True)
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
    if tty and interactive and not sys.stdin.isatty():
        raise ValueError("the input device is not a TTY")
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
    connection = daemon.hijack(f"/exec/{id_}/start", body={"Detach": False, "Tty": tty})
    with connection:
        if tty:
            with raw_terminal(lambda rows, columns: resize(daemon, f"/exec/{id_}", rows, columns)):
                join_streams(connection, stdin=interactive, tty=True)
        else:
            join_streams(connection, stdin=interactive, tty=False)
    raise typer.Exit(daemon.get(f"/exec/{id_}/json")["ExitCode"])
