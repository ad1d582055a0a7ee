"""`swarmpy service …`.

Source  docker service; Docker Engine API, paths under /services.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from swarmpy.cli.commands import client, each, verb
from swarmpy.cli.declared import Argument, Noun, Option
from swarmpy.cli.failures import WrongFlag
from swarmpy.cli.flags import apply, takes
from swarmpy.cli.logs import Shown, print_service_logs, since_text
from swarmpy.cli.output import print_inspected, print_rows, print_text, print_warning, short_id
from swarmpy.cli.pretty import print_service
from swarmpy.cli.progress import wait_for_service
from swarmpy.cli.registry_auth import auth_for
from swarmpy.cli.service_flags import CREATE, UPDATE
from swarmpy.cli.tasks import print_tasks
from swarmpy.cli.values import filters_json

app = Noun()
COMMANDS: dict[str, str] = {}

Services = Annotated[list[str], Argument("SERVICE…")]
Service = Annotated[str, Argument("SERVICE")]
Format = Annotated[str, Option("--format", help="json, or a template such as {{.Name}}")]
Filter = Annotated[list[str], Option("--filter", "-f", help="name=…, id=…, label=…, mode=…")]
ShortFormat = Annotated[str, Option("--format", "-f", help="json, or a template such as {{.ID}}")]
Pretty = Annotated[bool, Option("--pretty", help="For people to read")]
NoResolve = Annotated[bool, Option("--no-resolve", help="Ids instead of names")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="Only ids")]
Detach = Annotated[bool, Option("--detach", "-d", help="Do not wait until the service has converged")]
NoProgress = Annotated[bool, Option("--quiet", "-q", help="Wait, but show no progress")]
WithAuth = Annotated[bool, Option("--with-registry-auth", help="Send the registry's credentials to the nodes")]


@verb(app, COMMANDS, "create", stops_after=1)
@takes(CREATE)
def create(
    image: Annotated[str, Argument("IMAGE")],
    args: Annotated[list[str] | None, Argument("[COMMAND] [ARG…]")] = None,
    *,
    name: Annotated[str, Option("--name", help="Name of the service")] = "",
    detach: Detach = False,
    quiet: NoProgress = False,
    with_registry_auth: WithAuth = False,
    **given: Any,
) -> None:
    """Create a service."""
    spec: dict[str, Any] = {"Name": name or random_name(), "TaskTemplate": {"ContainerSpec": {"Image": image}}}
    if args:
        spec["TaskTemplate"]["ContainerSpec"]["Args"] = list(args)
    apply(spec, CREATE, given)
    spec.setdefault("Mode", {"Replicated": {"Replicas": 1}})
    daemon = client()
    made = daemon.post("/services/create", body=spec, auth=auth_for(image) if with_registry_auth else "")
    for warning in made.get("Warnings") or []:
        print_warning(f"WARNING: {warning}")
    print_text(made["ID"])
    if not detach:
        wait_for_service(daemon, made["ID"], quiet=quiet)


@verb(app, COMMANDS, "update")
@takes(UPDATE, take_back=True)
def update(
    service: Service,
    *,
    force: Annotated[bool, Option("--force", help="Replace the tasks even if nothing changes")] = False,
    rollback: Annotated[bool, Option("--rollback", help="Return to the previous spec")] = False,
    detach: Detach = False,
    quiet: NoProgress = False,
    with_registry_auth: WithAuth = False,
    **given: Any,
) -> None:
    """Change a service; its tasks are replaced as its update settings say."""
    if rollback:
        roll_back(service, detach=detach, quiet=quiet)
        return
    daemon = client()
    present = daemon.get(f"/services/{service}")
    spec = present["Spec"]
    apply(spec, UPDATE, given)
    if force:
        spec["TaskTemplate"]["ForceUpdate"] = spec["TaskTemplate"].get("ForceUpdate", 0) + 1
    auth = auth_for(spec["TaskTemplate"]["ContainerSpec"]["Image"]) if with_registry_auth else ""
    query = {"version": present["Version"]["Index"]}
    answer = daemon.post(f"/services/{present['ID']}/update", query, spec, auth)
    for warning in (answer or {}).get("Warnings") or []:
        print_warning(f"WARNING: {warning}")
    print_text(service)
    if not detach:
        wait_for_service(daemon, present["ID"], quiet=quiet)


@verb(app, COMMANDS, "rollback")
def rollback(service: Service, detach: Detach = False, quiet: NoProgress = False) -> None:
    """Return a service to its previous spec."""
    roll_back(service, detach=detach, quiet=quiet)


def roll_back(service: str, *, detach: bool, quiet: bool) -> None:
    daemon = client()
    present = daemon.get(f"/services/{service}")
    query = {"version": present["Version"]["Index"], "rollback": "previous"}
    daemon.post(f"/services/{present['ID']}/update", query, present["Spec"])
    print_text(service)
    if not detach:
        wait_for_service(daemon, present["ID"], quiet=quiet)


@verb(app, COMMANDS, "scale")
def scale(
    scales: Annotated[list[str], Argument("SERVICE=REPLICAS…")],
    detach: Detach = False,
) -> None:
    """Set the number of tasks of services."""
    daemon = client()
    wanted = []
    for item in scales:
        name, equals, count = item.partition("=")
        if not equals or not count.isdigit():
            raise ValueError(f"{item!r} is not SERVICE=REPLICAS, with a whole number of replicas")
        wanted.append((name, int(count)))
    scaled = []
    for name, replicas in wanted:
        present = daemon.get(f"/services/{name}")
        present["Spec"]["Mode"] = {"Replicated": {"Replicas": replicas}}
        daemon.post(f"/services/{present['ID']}/update", {"version": present["Version"]["Index"]}, present["Spec"])
        print_text(f"{name} scaled to {replicas}")
        scaled.append(present["ID"])
    if not detach:
        for id_ in scaled:
            wait_for_service(daemon, id_, quiet=False)


@verb(app, COMMANDS, "ls")
def ls(filter_: Filter = [], format_: Format = "", quiet: Quiet = False) -> None:  # noqa: B006  # the call gets a copy
    """List services."""
    rows = []
    query = {"status": "true", "filters": filters_json(filter_)}
    for service in sorted(client().get("/services", query), key=lambda row: row["Spec"]["Name"]):
        status = service["ServiceStatus"]
        ports = service["Endpoint"].get("Ports") or []
        rows.append(
            {
                "ID": short_id(service["ID"]),
                "Name": service["Spec"]["Name"],
                "Mode": "replicated",
                "Replicas": f"{status['RunningTasks']}/{status['DesiredTasks']}",
                "Image": service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"].split("@")[0],
                "Ports": ", ".join(port_text(port) for port in ports),
            }
        )
    columns = ["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"]
    print_rows(rows, columns, format_, quiet_field="ID" if quiet else None)


def port_text(port: dict[str, Any]) -> str:
    published = port.get("PublishedPort", 0)
    return f"*:{published}->{port['TargetPort']}/{port['Protocol']}" if port["PublishMode"] == "ingress" else ""


@verb(app, COMMANDS, "ps")
def ps(
    services: Services,
    filter_: Filter = [],  # noqa: B006
    format_: Format = "",
    quiet: Quiet = False,
    no_trunc: Annotated[bool, Option("--no-trunc", help="Do not shorten ids and errors")] = False,
    no_resolve: NoResolve = False,
) -> None:
    """List the tasks of services."""
    daemon = client()
    tasks = []
    for reference in services:
        service = daemon.get(f"/services/{reference}")
        wanted = json.loads(filters_json(filter_) or "{}") | {"service": [service["ID"]]}
        tasks += daemon.get("/tasks", {"filters": json.dumps(wanted)})
    print_tasks(daemon, tasks, format_, quiet=quiet, no_trunc=no_trunc, no_resolve=no_resolve)


@verb(app, COMMANDS, "inspect")
def inspect(services: Services, format_: ShortFormat = "", pretty: Pretty = False) -> None:
    """Show services in full."""
    if pretty and format_:
        raise WrongFlag("--format and --pretty exclude each other")
    daemon = client()
    if pretty:
        for name in services:
            print_service(daemon.get(f"/services/{name}"))
    else:
        print_inspected(services, lambda name: dict(daemon.get(f"/services/{name}")), format_)


@verb(app, COMMANDS, "rm")
def rm(services: Services) -> None:
    """Remove services and end their tasks."""
    daemon = client()
    each(services, lambda reference: daemon.delete(f"/services/{reference}"))


@verb(app, COMMANDS, "logs")
def logs(
    service: Annotated[str, Argument("SERVICE|TASK")],
    follow: Annotated[bool, Option("--follow", "-f", help="Go on with what comes")] = False,
    tail: Annotated[str, Option("--tail", "-n", help="Lines from the end of each task's log")] = "all",
    since: Annotated[str, Option("--since", help="From a Unix time, or so long ago (10m)")] = "",
    timestamps: Annotated[bool, Option("--timestamps", "-t", help="With the time of each line")] = False,
    raw: Annotated[bool, Option("--raw", help="Without the name of the task")] = False,
    no_trunc: Annotated[bool, Option("--no-trunc", help="Do not shorten ids")] = False,
    no_resolve: NoResolve = False,
    no_task_ids: Annotated[bool, Option("--no-task-ids", help="Without the ids of tasks")] = False,
    details: Annotated[bool, Option("--details", help="With what the log driver was told to add")] = False,
) -> None:
    """Show what the tasks of a service print."""
    shown = Shown(timestamps, raw, no_trunc, no_resolve, no_task_ids, details)
    query = {"follow": str(follow).lower(), "tail": tail, "since": since_text(since)}
    print_service_logs(client(), service, query, shown)


def random_name() -> str:
    """A name nobody chose: two short random parts."""
    import secrets

    return f"service-{secrets.token_hex(4)}"
