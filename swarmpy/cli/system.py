"""`swarmpy system …`, and the words docker has for it: version, info, events.

Source  docker version, info, events; Docker Engine API: /version, /info, /events.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from swarmpy import __version__
from swarmpy.cli.commands import client, verb
from swarmpy.cli.declared import Exit, Noun, Option
from swarmpy.cli.failures import Unreachable
from swarmpy.cli.logs import since_text
from swarmpy.cli.output import print_rows, print_text, print_warning
from swarmpy.cli.values import filters_json

app = Noun()
COMMANDS: dict[str, str] = {}

Format = Annotated[str, Option("--format", "-f", help="json, or a template such as {{.ServerVersion}}")]


@verb(app, COMMANDS, "version", word="version")
def version(format_: Format = "") -> None:
    """Show the versions of this command and of the daemon."""
    from swarmpy.cli.client import API_VERSION

    shown: dict[str, Any] = {"Client": {"Version": __version__, "ApiVersion": API_VERSION.removeprefix("v")}}
    unreachable = ""
    try:
        shown["Server"] = client().get("/version")
    except Unreachable as error:
        unreachable = str(error)
    if format_:
        print_rows([shown], [], format_)
    else:
        for side, facts in shown.items():
            print_text(f"{side}:")
            for name in ("Version", "ApiVersion", "MinAPIVersion", "Os", "Arch", "KernelVersion"):
                if name in facts:
                    print_text(f" {name + ':':<16}{facts[name]}")
    if unreachable:
        print_warning(unreachable)
        raise Exit(1)


@verb(app, COMMANDS, "info", word="info")
def info(format_: Format = "") -> None:
    """Show the daemon, its host and its swarm."""
    facts = client().get("/info")
    if format_:
        print_rows([facts], [], format_)
        return
    swarm = facts["Swarm"]
    for name in (
        "Name",
        "ServerVersion",
        "OperatingSystem",
        "KernelVersion",
        "Architecture",
        "NCPU",
        "MemTotal",
        "CgroupVersion",
        "CgroupDriver",
        "Driver",
        "Containers",
        "ContainersRunning",
        "Images",
    ):
        if name in facts:
            print_text(f"{name}: {facts[name]}")
    print_text(f"Swarm: {swarm['LocalNodeState']}")
    if swarm.get("NodeID"):
        print_text(f" NodeID: {swarm['NodeID']}")
        print_text(f" Is Manager: {str(swarm['ControlAvailable']).lower()}")
        for name in ("Managers", "Nodes", "NodeAddr", "Error"):
            if swarm.get(name):
                print_text(f" {name}: {swarm[name]}")


@verb(app, COMMANDS, "events", word="events")
def events(
    since: Annotated[str, Option("--since", help="From a Unix time, or so long ago (10m)")] = "",
    until: Annotated[str, Option("--until", help="Up to a Unix time, or so long ago")] = "",
    filter_: Annotated[list[str], Option("--filter", "-f", help="type=…, event=…")] = [],  # noqa: B006
    format_: Annotated[str, Option("--format", help="json, or a template such as {{.Action}}")] = "",
) -> None:
    """Show what happens, as it happens."""
    query = {"since": since_text(since), "until": since_text(until), "filters": filters_json(filter_)}
    for event in client().messages("GET", "/events", query):
        if format_:
            print_rows([event], [], format_)
            continue
        actor = event["Actor"]
        attributes = ", ".join(f"{name}={value}" for name, value in sorted(actor["Attributes"].items()))
        print_text(f"{event['timeNano'] / 1e9:.9f} {event['Type']} {event['Action']} {actor['ID']} ({attributes})")


@verb(app, COMMANDS, "df")
def df() -> None:
    """Show what takes disk space."""
    print_text(json.dumps(client().get("/system/df"), indent=4))
