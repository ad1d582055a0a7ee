"""`swarmpy node …`.

Source  docker node; Docker Engine API, paths under /nodes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from swarmpy.cli import values
from swarmpy.cli.commands import client, each, verb
from swarmpy.cli.declared import Argument, Noun, Option
from swarmpy.cli.failures import ApiError, WrongFlag
from swarmpy.cli.output import print_inspected, print_rows, print_text
from swarmpy.cli.pretty import print_node
from swarmpy.cli.tasks import print_tasks
from swarmpy.cli.values import filters_json

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

app = Noun()
COMMANDS: dict[str, str] = {}

Nodes = Annotated[list[str], Argument("NODE…")]
Format = Annotated[str, Option("--format", help="json, or a template such as {{.Hostname}}")]
Filter = Annotated[list[str], Option("--filter", "-f", help="id=…, name=…, role=…, label=…, node.label=…")]
ShortFormat = Annotated[str, Option("--format", "-f", help="json, or a template such as {{.ID}}")]
Pretty = Annotated[bool, Option("--pretty", help="For people to read")]
NoResolve = Annotated[bool, Option("--no-resolve", help="Ids instead of names")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="Only ids")]


@verb(app, COMMANDS, "ls")
def ls(filter_: Filter = [], format_: Format = "", quiet: Quiet = False) -> None:  # noqa: B006  # the call gets a copy
    """List the nodes of the swarm."""
    daemon = client()
    own = daemon.get("/info")["Swarm"]["NodeID"]
    rows = []
    for node in sorted(daemon.get("/nodes", {"filters": filters_json(filter_)}), key=lambda row: hostname(row)):
        manager = node.get("ManagerStatus")
        place = ""
        if manager:
            place = "Leader" if manager.get("Leader") else manager["Reachability"].capitalize()
        rows.append(
            {
                "ID": node["ID"] + (" *" if node["ID"] == own and not (quiet or format_) else ""),
                "Hostname": hostname(node),
                "Status": node["Status"]["State"].capitalize(),
                "Availability": node["Spec"]["Availability"].capitalize(),
                "ManagerStatus": place,
                "EngineVersion": node["Description"]["Engine"].get("EngineVersion", ""),
                "Self": node["ID"] == own,
            }
        )
    columns = ["ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "ENGINE VERSION"]
    print_rows(rows, columns, format_, quiet_field="ID" if quiet else None)


def hostname(node: dict[str, Any]) -> str:
    return str(node["Description"].get("Hostname", ""))


@verb(app, COMMANDS, "ps")
def ps(
    nodes: Annotated[list[str] | None, Argument("[NODE…]")] = None,
    filter_: Filter = [],  # noqa: B006
    format_: Format = "",
    quiet: Quiet = False,
    no_trunc: Annotated[bool, Option("--no-trunc", help="Do not shorten ids and errors")] = False,
    no_resolve: NoResolve = False,
) -> None:
    """List the tasks on nodes; on this one if none is named."""
    daemon = client()
    tasks = []
    for reference in nodes or ["self"]:
        node = daemon.get(f"/nodes/{reference}")
        wanted = json.loads(filters_json(filter_) or "{}") | {"node": [node["ID"]]}
        tasks += daemon.get("/tasks", {"filters": json.dumps(wanted)})
    print_tasks(daemon, tasks, format_, quiet=quiet, no_trunc=no_trunc, no_resolve=no_resolve)


@verb(app, COMMANDS, "inspect")
def inspect(nodes: Nodes, format_: ShortFormat = "", pretty: Pretty = False) -> None:
    """Show nodes in full."""
    if pretty and format_:
        raise WrongFlag("--format and --pretty exclude each other")
    daemon = client()
    if pretty:
        for name in nodes:
            print_node(daemon.get(f"/nodes/{name}"))
    else:
        print_inspected(nodes, lambda name: dict(daemon.get(f"/nodes/{name}")), format_)


@verb(app, COMMANDS, "update")
def update(
    node: Annotated[str, Argument("NODE")],
    availability: Annotated[str, Option("--availability", help="active, pause or drain")] = "",
    role: Annotated[str, Option("--role", help="worker or manager")] = "",
    label_add: Annotated[list[str], Option("--label-add", help="Add a label, NAME=VALUE")] = [],  # noqa: B006
    label_rm: Annotated[list[str], Option("--label-rm", help="Remove a label")] = [],  # noqa: B006
) -> None:
    """Change a node."""

    def change(spec: dict[str, Any]) -> None:
        if availability:
            spec["Availability"] = availability
        if role:
            spec["Role"] = role
        labels = {name: value for name, value in spec["Labels"].items() if name not in label_rm}
        spec["Labels"] = labels | values.pairs("label-add", label_add)

    edit(client(), node, change)
    print_text(node)


@verb(app, COMMANDS, "promote")
def promote(nodes: Nodes) -> None:
    """Make workers managers."""
    set_role(nodes, "manager", "Node {} promoted to a manager in the swarm.")


@verb(app, COMMANDS, "demote")
def demote(nodes: Nodes) -> None:
    """Make managers workers."""
    set_role(nodes, "worker", "Manager {} demoted in the swarm.")


def set_role(nodes: list[str], role: str, done: str) -> None:
    daemon = client()
    for node in nodes:
        if daemon.get(f"/nodes/{node}")["Spec"]["Role"] == role:
            print_text(f"Node {node} is already a {role}.")
            continue
        edit(daemon, node, lambda spec: spec.update(Role=role))
        print_text(done.format(node))


def edit(daemon: Client, reference: str, change: Any) -> None:
    """Change a node's spec; when somebody else was quicker, read it again and once more."""
    for attempt in range(5):
        node = daemon.get(f"/nodes/{reference}")
        change(node["Spec"])
        try:
            daemon.post(f"/nodes/{node['ID']}/update", {"version": node["Version"]["Index"]}, node["Spec"])
            return
        except ApiError as error:
            if error.status != 409 or "out of sequence" not in str(error) or attempt == 4:
                raise


@verb(app, COMMANDS, "rm")
def rm(
    nodes: Nodes, force: Annotated[bool, Option("--force", "-f", help="Even if the node is up")] = False
) -> None:
    """Remove nodes that are down from the swarm."""
    daemon = client()
    query = {"force": str(force).lower()}
    each(nodes, lambda node: daemon.delete(f"/nodes/{node}", query))
