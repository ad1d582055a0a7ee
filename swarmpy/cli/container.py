"""`swarmpy container …`, and the words docker has for it: ps, run, exec, logs, stop, kill, rm, inspect.

Source  docker container; Docker Engine API, paths under /containers and /exec.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarmpy.cli.commands import client, each, noun, verb
from swarmpy.cli.container_flags import CONTAINER
from swarmpy.cli.creation import Creation, configuration, make
from swarmpy.cli.dialect import RunsCommand
from swarmpy.cli.environment_flags import env_files, environment
from swarmpy.cli.failures import ApiError, Unreachable
from swarmpy.cli.flags import takes
from swarmpy.cli.logs import print_logs, since_text
from swarmpy.cli.output import age, print_rows, print_text, print_warning, short_id
from swarmpy.cli.running import (
    Joined,
    attach_joined,
    check_terminal,
    escape_keys,
    exec_joined,
    exit_code_of,
    start_joined,
)  # fmt: skip
from swarmpy.cli.values import filters_json

if TYPE_CHECKING:
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
Platform = Annotated[str, typer.Option("--platform", help="Platform of the image, OS/ARCHITECTURE[/VARIANT]")]
Pull = Annotated[str, typer.Option("--pull", help="When its image is fetched: always, missing or never")]
QuietPull = Annotated[bool, typer.Option("--quiet", "-q", help="Do not show how its image is fetched")]
DetachKeys = Annotated[str, typer.Option("--detach-keys", help="Keys that detach, ctrl-p,ctrl-q", show_default=False)]
SigProxy = Annotated[bool, typer.Option("--sig-proxy/--no-sig-proxy", help="Pass signals on")]


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
def create(
    image: Image,
    command: Arguments = None,
    *,
    name: Name = "",
    platform: Platform = "",
    pull: Pull = "missing",
    quiet: QuietPull = False,
    **given: Any,
) -> None:
    """Make a container, and do not start it."""
    body = configuration(image, command, given, attach=True)
    print_text(make(client(), Creation(name, platform, pull, quiet), body))


@verb(app, COMMANDS, "run", word="run", reads=RunsCommand)
@takes(CONTAINER)
def run(
    image: Image,
    command: Arguments = None,
    *,
    name: Name = "",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the id and return")] = False,
    platform: Platform = "",
    pull: Pull = "missing",
    quiet: QuietPull = False,
    detach_keys: DetachKeys = "",
    sig_proxy: SigProxy = True,
    **given: Any,
) -> None:
    """Make a container and start it."""
    if not detach:
        check_terminal(given["interactive"], given["tty"])
    try:
        daemon = client()
        body = configuration(image, command, given, attach=not detach)
        joined = None if detach else Joined.to_new(body, detach_keys, sig_proxy)
        id_ = make(daemon, Creation(name, platform, pull, quiet), body)
        if joined is not None:
            raise typer.Exit(start_joined(daemon, id_, joined))
        daemon.post(f"/containers/{id_}/start")
        print_text(id_)
    except (ApiError, Unreachable, ValueError) as error:
        print_warning(f"swarmpy: {'Error response from daemon: ' if isinstance(error, ApiError) else ''}{error}")
        raise typer.Exit(exit_code_of(error)) from error


@verb(app, COMMANDS, "start", word="start")
def start(
    containers: Containers,
    attach: Annotated[bool, typer.Option("--attach", "-a", help="Show its output, and pass on signals")] = False,
    interactive: Interactive = False,
    detach_keys: DetachKeys = "",
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="State to start from")] = "",
    checkpoint_dir: Annotated[str, typer.Option("--checkpoint-dir", help="Where that state is")] = "",
) -> None:
    """Start containers."""
    daemon = client()
    query = {"checkpoint": checkpoint or None, "checkpoint-dir": checkpoint_dir or None}
    if not attach and not interactive:
        each(containers, lambda reference: daemon.post(f"/containers/{reference}/start", query))
        return
    if len(containers) > 1:
        raise ValueError("you cannot start and attach multiple containers at once")
    inspected = daemon.get(f"/containers/{containers[0]}/json")
    joined = Joined.to_present(inspected, detach_keys, sig_proxy=True, stdin=interactive)
    raise typer.Exit(start_joined(daemon, inspected["Id"], joined, query))


@verb(app, COMMANDS, "attach", word="attach")
def attach(
    container: Container,
    no_stdin: Annotated[bool, typer.Option("--no-stdin", help="Pass no input on")] = False,
    detach_keys: DetachKeys = "",
    sig_proxy: SigProxy = True,
) -> None:
    """Join this terminal to a running container."""
    daemon = client()
    inspected = daemon.get(f"/containers/{container}/json")
    raise typer.Exit(
        attach_joined(daemon, inspected, Joined.to_present(inspected, detach_keys, sig_proxy, stdin=not no_stdin))
    )


@verb(app, COMMANDS, "exec", word="exec", reads=RunsCommand)
def exec_(
    container: Container,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND [ARG…]", show_default=False)],
    interactive: Interactive = False,
    tty: Tty = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for it")] = False,
    env: Env = [],  # noqa: B006
    env_file: Annotated[list[str], typer.Option("--env-file", help="File of environment variables")] = [],  # noqa: B006
    user: User = "",
    workdir: Workdir = "",
    privileged: Annotated[bool, typer.Option("--privileged", help="With every capability")] = False,
    detach_keys: DetachKeys = "",
) -> None:
    """Run a command in a running container."""
    if not detach:
        check_terminal(interactive, tty)
    body = {
        "AttachStdin": interactive,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "DetachKeys": detach_keys,
        "Tty": tty,
        "Cmd": list(command),
        "Env": [*env_files(env_file), *environment(env)],
        "User": user,
        "WorkingDir": workdir,
        "Privileged": privileged,
    }
    joined = Joined(tty, interactive, True, True, escape_keys(detach_keys), sig_proxy=False)
    daemon = client()
    id_ = daemon.post(f"/containers/{container}/exec", body=body)["Id"]
    if detach:
        daemon.post(f"/exec/{id_}/start", body={"Detach": True, "Tty": tty})
        return
    raise typer.Exit(exec_joined(daemon, id_, joined))


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
