"""`swarmpy lab …`: whole clusters on this machine, through `swarmpy.lab`.

Source  docs/lab.md.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from swarmpy.cli.commands import verb
from swarmpy.cli.declared import Argument, Exit, Noun, Option
from swarmpy.cli.output import print_rows, print_text, print_warning
from swarmpy.lab import verbs
from swarmpy.lab.plan import DEFAULT_NAME

app = Noun()
COMMANDS: dict[str, str] = {}

Name = Annotated[str, Option("--name", help="Which lab")]
Host = Annotated[str, Argument("HOST")]
DaemonOnly = Annotated[bool, Option("--daemon-only", help="Its containers go on")]
Format = Annotated[str, Option("--format", help="json, or a template such as {{.Name}}")]


@verb(app, COMMANDS, "up")
def up(
    managers: Annotated[int, Option("--managers", help="Hosts that are managers")] = 3,
    workers: Annotated[int, Option("--workers", help="Hosts that are workers")] = 3,
    name: Name = DEFAULT_NAME,
    no_swarm: Annotated[bool, Option("--no-swarm", help="Leave the daemons alone, in no swarm")] = False,
) -> None:
    """Make a lab and start its hosts."""
    verbs.up(name, managers, workers, swarm=not no_swarm, progress=print_warning)
    show(name, "")


@verb(app, COMMANDS, "ls")
def ls(
    name: Annotated[str, Option("--name", help="Only this lab")] = "",
    format_: Format = "",
) -> None:
    """List labs and their hosts."""
    show(name or None, format_)


def show(name: str | None, format_: str) -> None:
    rows = []
    for lab, hosts in verbs.ls(name).items():
        for host in hosts:
            fields = asdict(host)
            rows.append(
                {
                    "Lab": lab,
                    "Name": fields["name"],
                    "Role": fields["role"],
                    "Address": fields["address"],
                    "DockerHost": fields["docker_host"],
                    "State": fields["state"],
                }
            )
    print_rows(rows, ["LAB", "NAME", "ROLE", "ADDRESS", "DOCKER_HOST", "STATE"], format_)


@verb(app, COMMANDS, "exec", stops_after=2)
def exec_(
    host: Host,
    command: Annotated[list[str], Argument("COMMAND [ARG…]")],
    name: Name = DEFAULT_NAME,
) -> None:
    """Run a command in a host, with DOCKER_HOST set: exec HOST [--] COMMAND."""
    raise Exit(verbs.execute(host, command, name))


@verb(app, COMMANDS, "kill")
def kill(
    host: Host,
    with_containers: Annotated[
        bool, Option("--with-containers", help="The whole host, as if power failed")
    ] = False,
    name: Name = DEFAULT_NAME,
) -> None:
    """Kill a host's daemon with SIGKILL."""
    verbs.kill(host, name, with_containers=with_containers)


@verb(app, COMMANDS, "start")
def start(host: Host, name: Name = DEFAULT_NAME) -> None:
    """Boot what is down, and wait for the daemon."""
    verbs.start(host, name)


@verb(app, COMMANDS, "stop")
def stop(host: Host, name: Name = DEFAULT_NAME) -> None:
    """End a host's daemon in order; its containers stay."""
    verbs.stop(host, name)


@verb(app, COMMANDS, "pause")
def pause(host: Host, daemon_only: DaemonOnly = False, name: Name = DEFAULT_NAME) -> None:
    """Let a host stand still."""
    verbs.pause(host, name, daemon_only=daemon_only)


@verb(app, COMMANDS, "resume")
def resume(host: Host, daemon_only: DaemonOnly = False, name: Name = DEFAULT_NAME) -> None:
    """Let a host go on."""
    verbs.resume(host, name, daemon_only=daemon_only)


@verb(app, COMMANDS, "partition")
def partition(
    groups: Annotated[list[str], Argument("A,B C,D")],
    one_way: Annotated[bool, Option("--one-way", help="Only what the first group sends is lost")] = False,
    name: Name = DEFAULT_NAME,
) -> None:
    """Cut groups of hosts off from each other; one group alone from everybody else."""
    verbs.partition(groups, name, one_way=one_way)


@verb(app, COMMANDS, "delay")
def delay(
    hosts: Annotated[str, Argument("A,B")],
    seconds: Annotated[float, Argument("SECONDS")],
    jitter: Annotated[float, Option("--jitter", help="Seconds more or less")] = 0.0,
    loss: Annotated[float, Option("--loss", help="Probability of loss, 0 to 1")] = 0.0,
    name: Name = DEFAULT_NAME,
) -> None:
    """Make the links of hosts slow or lossy."""
    verbs.delay(hosts, seconds, name, jitter_s=jitter, loss=loss)


@verb(app, COMMANDS, "heal")
def heal(name: Name = DEFAULT_NAME) -> None:
    """End every partition, delay and loss."""
    verbs.heal(name)


@verb(app, COMMANDS, "down")
def down(
    everything: Annotated[bool, Option("--all", help="Every lab, also what a crashed one left behind")] = False,
    name: Name = DEFAULT_NAME,
) -> None:
    """Remove a lab; nothing of it is left."""
    for gone in verbs.down(name, everything=everything):
        print_text(f"lab {gone} is gone")
