"""`swarmpy container …`, and the words docker has for it: ps, run, exec, logs, stop, kill, rm, inspect.

Source  docker container; Docker Engine API, paths under /containers and /exec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from swarmpy.cli.commands import client, each, verb
from swarmpy.cli.container_flags import CONTAINER
from swarmpy.cli.creation import Creation, configuration, make
from swarmpy.cli.declared import Argument, Exit, Noun, Option
from swarmpy.cli.environment_flags import env_files, environment
from swarmpy.cli.failures import ApiError, Unreachable, WrongFlag
from swarmpy.cli.flags import takes
from swarmpy.cli.logs import print_logs, since_text
from swarmpy.cli.output import age, print_inspected, print_rows, print_text, print_warning, short_id, size_text
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

app = Noun()
COMMANDS: dict[str, str] = {}

Containers = Annotated[list[str], Argument("CONTAINER…")]
Container = Annotated[str, Argument("CONTAINER")]
Image = Annotated[str, Argument("IMAGE")]
Arguments = Annotated[list[str] | None, Argument("[COMMAND] [ARG…]")]
Format = Annotated[str, Option("--format", help="json, or a template such as {{.Names}}")]
Filter = Annotated[list[str], Option("--filter", "-f", help="name=…, id=…, label=…, status=…")]
Name = Annotated[str, Option("--name", help="Name of the container")]
Interactive = Annotated[bool, Option("--interactive", "-i", help="Keep its input open")]
Tty = Annotated[bool, Option("--tty", "-t", help="With a terminal")]
Env = Annotated[list[str], Option("--env", "-e", help="Environment variable")]
Workdir = Annotated[str, Option("--workdir", "-w", help="Working directory")]
User = Annotated[str, Option("--user", "-u", help="User and group")]
Timeout = Annotated[int | None, Option("--timeout", "--time", "-t", help="Seconds until it is killed")]
Signal = Annotated[str, Option("--signal", "-s", help="Signal to send first")]
Size = Annotated[bool, Option("--size", "-s", help="With the sizes of their files")]
ShortFormat = Annotated[str, Option("--format", "-f", help="json, or a template such as {{.Names}}")]
Platform = Annotated[str, Option("--platform", help="Platform of the image, OS/ARCHITECTURE[/VARIANT]")]
Pull = Annotated[str, Option("--pull", help="When its image is fetched: always, missing or never")]
QuietPull = Annotated[bool, Option("--quiet", "-q", help="Do not show how its image is fetched")]
DetachKeys = Annotated[str, Option("--detach-keys", help="Keys that detach, ctrl-p,ctrl-q", show_default=False)]
SigProxy = Annotated[bool, Option("--sig-proxy/--no-sig-proxy", help="Pass signals on")]


@verb(app, COMMANDS, "ls", word="ps")
def ps(
    everything: Annotated[bool, Option("--all", "-a", help="Also those that do not run")] = False,
    filter_: Filter = [],  # noqa: B006  # the call gets a copy
    format_: Format = "",
    quiet: Annotated[bool, Option("--quiet", "-q", help="Only ids")] = False,
    no_trunc: Annotated[bool, Option("--no-trunc", help="Do not shorten ids and commands")] = False,
    last: Annotated[int, Option("--last", "-n", help="So many that were made last, in any state")] = -1,
    latest: Annotated[bool, Option("--latest", "-l", help="The one that was made last, in any state")] = False,
    size: Size = False,
) -> None:
    """List containers."""
    rows = []
    limit = 1 if latest else last
    query = {
        "all": str(everything or limit > 0).lower(),
        "filters": filters_json(filter_),
        "limit": limit if limit > 0 else None,
        "size": "true" if size or ".Size" in format_ else None,
    }
    for container in client().get("/containers/json", query):
        command = container["Command"]
        row = {
            "ID": container["Id"] if no_trunc else short_id(container["Id"]),
            "Image": container["Image"],
            "Command": f'"{command if no_trunc or len(command) <= 20 else command[:19] + "…"}"',
            "Created": f"{age(container['Created'])} ago",
            "Status": container["Status"],
            "State": container["State"],
            "Ports": ", ".join(port_text(port) for port in container.get("Ports") or []),
            "Names": ",".join(name.removeprefix("/") for name in container["Names"]),
            "Labels": ",".join(f"{name}={value}" for name, value in (container.get("Labels") or {}).items()),
        }
        if query["size"]:
            written, whole = container.get("SizeRw", 0), container.get("SizeRootFs", 0)
            row["Size"] = f"{size_text(written)} (virtual {size_text(whole)})"
        rows.append(row)
    columns = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES", *(["SIZE"] if size else [])]
    print_rows(rows, columns, format_, quiet_field="ID" if quiet else None)


def port_text(port: dict[str, Any]) -> str:
    inner = f"{port['PrivatePort']}/{port['Type']}"
    return f"{port.get('IP', '')}:{port['PublicPort']}->{inner}" if port.get("PublicPort") else inner


@verb(app, COMMANDS, "create", word="create", stops_after=1)
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


@verb(app, COMMANDS, "run", word="run", stops_after=1)
@takes(CONTAINER)
def run(
    image: Image,
    command: Arguments = None,
    *,
    name: Name = "",
    detach: Annotated[bool, Option("--detach", "-d", help="Print the id and return")] = False,
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
            raise Exit(start_joined(daemon, id_, joined))
        daemon.post(f"/containers/{id_}/start")
        print_text(id_)
    except (ApiError, Unreachable, ValueError) as error:
        print_warning(f"swarmpy: {'Error response from daemon: ' if isinstance(error, ApiError) else ''}{error}")
        raise Exit(exit_code_of(error)) from error


@verb(app, COMMANDS, "start", word="start")
def start(
    containers: Containers,
    attach: Annotated[bool, Option("--attach", "-a", help="Show its output, and pass on signals")] = False,
    interactive: Interactive = False,
    detach_keys: DetachKeys = "",
    checkpoint: Annotated[str, Option("--checkpoint", help="State to start from")] = "",
    checkpoint_dir: Annotated[str, Option("--checkpoint-dir", help="Where that state is")] = "",
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
    raise Exit(start_joined(daemon, inspected["Id"], joined, query))


@verb(app, COMMANDS, "attach", word="attach")
def attach(
    container: Container,
    no_stdin: Annotated[bool, Option("--no-stdin", help="Pass no input on")] = False,
    detach_keys: DetachKeys = "",
    sig_proxy: SigProxy = True,
) -> None:
    """Join this terminal to a running container."""
    daemon = client()
    inspected = daemon.get(f"/containers/{container}/json")
    raise Exit(
        attach_joined(daemon, inspected, Joined.to_present(inspected, detach_keys, sig_proxy, stdin=not no_stdin))
    )


@verb(app, COMMANDS, "exec", word="exec", stops_after=1)
def exec_(
    container: Container,
    command: Annotated[list[str], Argument("COMMAND [ARG…]")],
    interactive: Interactive = False,
    tty: Tty = False,
    detach: Annotated[bool, Option("--detach", "-d", help="Do not wait for it")] = False,
    env: Env = [],  # noqa: B006
    env_file: Annotated[list[str], Option("--env-file", help="File of environment variables")] = [],  # noqa: B006
    user: User = "",
    workdir: Workdir = "",
    privileged: Annotated[bool, Option("--privileged", help="With every capability")] = False,
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
    raise Exit(exec_joined(daemon, id_, joined))


@verb(app, COMMANDS, "stop", word="stop")
def stop(containers: Containers, time: Timeout = None, signal: Signal = "") -> None:
    """Stop containers."""
    daemon = client()
    query = {"t": time, "signal": signal or None}
    each(containers, lambda reference: daemon.post(f"/containers/{reference}/stop", query))


@verb(app, COMMANDS, "restart", word="restart")
def restart_(containers: Containers, time: Timeout = None, signal: Signal = "") -> None:
    """Stop containers and start them again."""
    daemon = client()
    query = {"t": time, "signal": signal or None}
    each(containers, lambda reference: daemon.post(f"/containers/{reference}/restart", query))


@verb(app, COMMANDS, "kill", word="kill")
def kill(
    containers: Containers, signal: Annotated[str, Option("--signal", "-s", help="Signal to send")] = "SIGKILL"
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
    force: Annotated[bool, Option("--force", "-f", help="Kill what runs, and miss nothing that is gone")] = False,
    volumes: Annotated[bool, Option("--volumes", "-v", help="With its anonymous volumes")] = False,
    link: Annotated[bool, Option("--link", "-l", help="Remove a link between containers")] = False,
) -> None:
    """Remove containers."""
    daemon = client()
    query = {"force": str(force).lower(), "v": str(volumes).lower(), "link": "true" if link else None}
    each(containers, lambda reference: daemon.delete(f"/containers/{reference}", query), may_be_gone=force)


@verb(app, COMMANDS, "rename", word="rename")
def rename(container: Container, name: Annotated[str, Argument("NAME")]) -> None:
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
def inspect(
    names: Annotated[list[str], Argument("NAME…")],
    format_: ShortFormat = "",
    size: Size = False,
    type_: Annotated[str, Option("--type", help=f"Only this kind: {', '.join(KINDS)}")] = "",
) -> None:
    """Show containers in full; as a word of its own also images, services and nodes."""
    if type_ and type_ not in KINDS:
        raise WrongFlag(f"--type: {type_!r} is not one of {', '.join(KINDS)}")
    daemon = client()
    print_inspected(names, lambda name: find(daemon, name, [type_] if type_ else list(KINDS), size=size), format_)


KINDS = {
    "container": "/containers/{}/json", "image": "/images/{}/json", "network": "/networks/{}", "volume": "/volumes/{}",
    "service": "/services/{}", "task": "/tasks/{}", "node": "/nodes/{}",
}  # fmt: skip
ABSENT, NOT_A_MANAGER = 404, 503


def find(daemon: Client, name: str, kinds: list[str], *, size: bool) -> dict[str, Any]:
    """The first thing of that name."""
    for kind in kinds:
        query = {"size": "true"} if size and kind == "container" else None
        try:
            return dict(daemon.get(KINDS[kind].format(name), query))
        except ApiError as error:
            if error.status not in (ABSENT, NOT_A_MANAGER):
                raise
    raise ValueError(f"Error: No such {kinds[0] if len(kinds) == 1 else 'object'}: {name}")


@verb(app, COMMANDS, "logs", word="logs")
def logs(
    container: Container,
    follow: Annotated[bool, Option("--follow", "-f", help="Go on with what comes")] = False,
    tail: Annotated[str, Option("--tail", "-n", help="Lines from the end")] = "all",
    since: Annotated[str, Option("--since", help="From a Unix time, or so long ago (10m)")] = "",
    until: Annotated[str, Option("--until", help="Up to a Unix time, or so long ago")] = "",
    timestamps: Annotated[bool, Option("--timestamps", "-t", help="With the time of each line")] = False,
    details: Annotated[bool, Option("--details", help="With what the log driver was told to add")] = False,
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
        "details": str(details).lower(),
    }
    print_logs(daemon, f"/containers/{container}/logs", query, tty=inspected["Config"]["Tty"])


@verb(app, COMMANDS, "cp", word="cp")
def cp(
    source: Annotated[str, Argument("[CONTAINER:]PATH|-")],
    target: Annotated[str, Argument("[CONTAINER:]PATH|-")],
    archive: Annotated[bool, Option("--archive", "-a", help="Into a container, with the files' owners")] = False,
    follow_link: Annotated[bool, Option("--follow-link", "-L", help="Follow a link that is the source")] = False,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Say nothing, as always")] = False,
) -> None:
    """Copy files into a container, or out of one."""
    from swarmpy.cli.copying import copy_in, copy_out, place  # tarfile takes its time

    inside, outside = place(source), place(target)
    if inside.container and outside.container:
        raise ValueError("copying between containers is not supported")
    if inside.container:
        copy_out(client(), inside, target, follow_link=follow_link)
    elif outside.container:
        copy_in(client(), source, outside, follow_link=follow_link, archive=archive)
    else:
        raise ValueError("one of the two must be CONTAINER:PATH")
